"""Backbones by name: the authors' networks, their sizes, torchvision's networks in parts, options and refusals."""

import urllib.error

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import WeightsEnum, get_model

import lficam
from lficam.explainers import frozen
from lficam.losses import classification_loss
from lficam.models import backbone as parts
from lficam.models import backbones, checkpoints
from lficam.models.authors import our_name

METHODS = ("plain", "abn", "lfi-cam")
AUTHORS_224 = {
    "lfi_resnet18_224_k2_fill": ("lfi-cam", "lfi-resnet18"),
    "abn_resnet18_224_k2_fill": ("abn", "resnet18"),
}


def authors(golden, name, method, backbone):
    reference = golden(name)
    classes = reference["meta"]["num_classes"]
    model = lficam.create(method, backbone, classes, mean=0, std=1)  # golden inputs are normalised already
    return lficam.load_authors(model, reference["state_dict"]), reference


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_densenet_equals_the_authors_code_in_float64(golden, mode):
    model, reference = authors(golden, "abn_cifar_densenet22", "abn", "densenet-bc-22-12")
    expected = reference[f"{mode}64"]
    output = model.train(mode == "train").double()(reference["x"].double())
    loss = classification_loss(output, reference["y"])["total"]
    loss.backward()
    for ours, key in zip(output, ("logits", "att", "att_logits"), strict=True):
        torch.testing.assert_close(ours, expected[key], rtol=0, atol=1e-10)
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-10)
    gradients = {key: p.grad.norm().item() for key, p in model.named_parameters()}
    norms = {our_name(model, key): value for key, value in expected["grad_norms"].items()}
    assert gradients == pytest.approx(norms, rel=1e-6, abs=1e-9)


def test_densenet_equals_the_authors_code_in_float32(golden):
    model, reference = authors(golden, "abn_cifar_densenet22", "abn", "densenet-bc-22-12")
    output = model.eval()(reference["x"])
    for ours, key in zip(output, ("logits", "att", "att_logits"), strict=True):
        torch.testing.assert_close(ours, reference["eval"][key], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", AUTHORS_224)
@pytest.mark.parametrize(("precision", "tolerance"), [("64", 1e-10), ("", 1e-4)])
def test_224_pixel_models_equal_the_authors_code(golden, name, precision, tolerance):
    model, reference = authors(golden, name, *AUTHORS_224[name])
    model.to(torch.float64 if precision else torch.float32)
    with torch.no_grad():
        output = model.eval()(reference["x"].to(next(model.parameters())))
    expected = reference["eval" + precision]
    assert output.maps.shape == (1, 1, 14, 14)
    for ours, key in zip(output, ("logits", "att", "att_logits"), strict=False):
        torch.testing.assert_close(ours, expected[key], rtol=0, atol=tolerance)


# name: parameters of plain, ABN, LFI-CAM with 10 and with 100 classes, in the authors' code
CIFAR_SIZES = {
    "resnet-20": ((272_474, 278_324), (479_150, 501_650), (420_442, 426_292)),
    "resnet-110": ((1_704_154, 1_727_284), (2_999_726, 3_056_786), (4_065_498, 4_088_628)),
    "densenet-bc-100-12": ((769_162, 800_032), (1_049_958, 1_122_498), (4_982_602, 5_013_472)),
    "densenet-bc-190-40": ((25_624_430, 25_821_620), (35_230_542, 35_635_722), (198_301_550, 198_498_740)),
    "resnext-29-8x64": ((34_426_698, 34_518_948), (60_686_366, 60_881_666), (72_183_626, 72_275_876)),
    "resnext-29-16x64": ((68_155_210, 68_247_460), (120_129_566, 120_324_866), (105_912_138, 106_004_388)),
    "wrn-28-10": ((36_479_194, 36_536_884), (64_349_486, 64_475_666)),
}
# (method, name): parameters with 2, 10 and 1000 classes
SIZES_224 = {
    ("plain", "resnet18"): (11_177_538, 11_181_642, 11_689_512),
    ("abn", "resnet18"): (19_573_342, 19_581_726, 21_607_266),
    ("lfi-cam", "lfi-resnet18"): (20_618_818, 20_622_922, 21_130_792),
    ("plain", "resnet50"): (23_512_130, 23_528_522, 25_557_032),
    ("abn", "resnet50"): (38_485_086, 38_518_046, 43_584_866),
    ("lfi-cam", "lfi-resnet50"): (174_523_458, 174_539_850, 176_568_360),
}
# (method, name): millions of parameters with 1000 classes
MILLIONS = {
    ("plain", "resnet101"): 44.55,
    ("abn", "resnet101"): 62.58,
    ("lfi-cam", "lfi-resnet101"): 195.56,
    ("plain", "resnet152"): 60.19,
    ("abn", "resnet152"): 78.22,
    ("lfi-cam", "lfi-resnet152"): 211.20,
    ("plain", "se-resnet-18"): 11.78,
    ("abn", "se-resnet-18"): 21.75,
    ("plain", "se-resnet-50"): 28.09,
    ("abn", "se-resnet-50"): 47.69,
    ("plain", "se-resnet-152"): 66.82,
    ("abn", "se-resnet-152"): 86.42,
}


def size(method, name, classes, **options):
    """Number of parameters; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in lficam.create(method, name, classes, **options).parameters())


@pytest.mark.parametrize("name", CIFAR_SIZES)
def test_cifar_sizes_are_the_authors(name):
    for method, expected in zip(METHODS, CIFAR_SIZES[name], strict=False):
        assert tuple(size(method, name, classes) for classes in (10, 100)) == expected


@pytest.mark.parametrize(("method", "name"), SIZES_224)
def test_224_pixel_sizes_are_the_authors(method, name):
    assert tuple(size(method, name, classes) for classes in (2, 10, 1000)) == SIZES_224[method, name]


@pytest.mark.parametrize(("method", "name"), MILLIONS)
def test_larger_sizes_are_the_authors(method, name):
    assert round(size(method, name, 1000) / 1e6, 2) == MILLIONS[method, name]


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
RESNEXT_CONVOLUTIONS = ("conv_reduce", "conv_conv", "conv_expand", "shortcut.shortcut_conv")
RESNEXT_BLOCK = [f"{name}.weight" for name in RESNEXT_CONVOLUTIONS]
RESNEXT_BLOCK += ["bn_reduce", "bn", "bn_expand", "shortcut.shortcut_bn"]
BRANCH = ("bn_att", "att_conv.weight", "bn_att2", "att_conv2.weight", "att_conv3.weight", "bn_att3")


def authors_names(stem, last, block, stages, attention):
    """What the authors' model holds: linear and convolution entries end in weight or bias, all others are norms."""
    names = [*stem, *last, *attention, *(f"{stage}.{part}" for stage in stages for part in block)]
    whole = {name for name in names if name.endswith((".weight", ".bias"))}
    return whole | {f"{name}.{part}" for name in names if name not in whole for part in NORM}


@pytest.mark.parametrize(
    ("method", "backbone", "names"),
    [
        (
            "abn",
            "wrn-10-2",
            authors_names(
                ["conv1.weight"],
                ["bn1", "fc.weight", "fc.bias"],
                ["bn1", "conv1.weight", "bn2", "conv2.weight", "convShortcut.weight"],
                [f"{block}.layer.0" for block in ("block1", "block2", "block3", "att_block3")],
                BRANCH,
            ),
        ),
        (
            "abn",
            "resnext-11-2x8",
            authors_names(
                ["conv_1_3x3.weight", "bn_1"],
                ["classifier.weight", "classifier.bias"],
                RESNEXT_BLOCK,
                [f"{s}.{s}_bottleneck_0" for s in ("stage_1", "stage_2", "stage_3", "stage_att")],
                BRANCH,
            ),
        ),
        (
            "lfi-cam",
            "resnext-11-2x8",
            authors_names(
                ["conv_1_3x3.weight", "bn_1"],
                ["classifier.weight", "classifier.bias"],
                RESNEXT_BLOCK,
                [f"{s}.{s}_bottleneck_0" for s in ("stage_1", "stage_2", "stage_3")],
                [f"attention.{i}.weight" for i in (0, 2, 5, 7)] + [f"attention.{i}" for i in (1, 3, 6, 8)],
            ),
        ),
    ],
)
def test_authors_names_reach_every_parameter(method, backbone, names):
    """No weights of these were at hand: the names are those of the authors' source."""
    with torch.device("meta"):
        model = lficam.create(method, backbone, 3)
    assert {our_name(model, name) for name in names} == set(model.state_dict())


@pytest.mark.parametrize(("depth", "norm"), [(18, "bn2"), (50, "bn3")])
def test_authors_names_of_squeeze_and_excitation(depth, norm):
    with torch.device("meta"):
        model = lficam.create("abn", f"se-resnet-{depth}", 3)
    own = set(model.state_dict())
    for name, ours in {
        "layer1.0.fc1.weight": f"backbone.stages.0.0.{norm}.fc1.weight",
        "att_layer4.1.fc2.bias": f"attention.stage.1.{norm}.fc2.bias",
        f"module.layer4.0.{norm}.weight": f"backbone.stages.3.0.{norm}.weight",
        "layer4.0.downsample.1.weight": "backbone.stages.3.0.downsample.1.weight",
        "fc.weight": "backbone.fc.weight",
        "att_conv2.weight": "attention.to_logits.weight",
    }.items():
        assert our_name(model, name) == ours
        assert ours in own
    assert our_name(model, "att_conv3.weight") not in own


@pytest.mark.parametrize(
    ("name", "pixels", "grid", "before_last"),
    [
        ("densenet-bc-10-4", 32, 8, 8),
        ("resnext-11-2x8", 32, 8, 16),
        ("wrn-10-1", 32, 8, 16),
        ("wrn-10-2", 32, 8, 16),
        ("lfi-resnet18", 64, 4, 8),
        ("se-resnet-18", 64, 2, 4),
        ("se-resnet-50", 64, 2, 4),
        ("resnet18", 64, 2, 4),
        ("convnext_tiny", 64, 2, 4),
        ("mobilenet_v3_small", 64, 2, 4),
        ("efficientnet_b0", 64, 2, 4),
        ("regnet_y_400mf", 64, 2, 4),
        ("densenet121", 64, 2, 4),
        ("squeezenet1_1", 64, 3, 7),
        ("inception_v3", 96, 1, 1),
    ],
)
def test_every_family_with_every_method(name, pixels, grid, before_last):
    """Maps lie on the last stage's grid, ABN's on the grid before it; a gradient reaches every parameter."""
    images, labels = torch.rand(2, 3, pixels, pixels), torch.tensor([0, 2])
    for method, side in zip(METHODS, (grid, before_last, grid), strict=True):
        model = lficam.create(method, name, 3, **({"fin": "1x1"} if method == "lfi-cam" else {}))
        with torch.set_grad_enabled(method != "plain"):
            output = model(images)
        assert output.logits.shape == (2, 3)
        assert output.maps.shape == (2, 1, side, side)
        if method == "plain":  # its gradient is a part of the others'
            continue
        classification_loss(output, labels)["total"].backward()
        idle = "attention.norm." if method == "abn" and not model.attention.normed else "none"  # see D23
        gradients = [p.grad for key, p in model.named_parameters() if not key.startswith(idle)]
        assert all(g is not None and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "densenet121", "regnet_y_400mf", "shufflenet_v2_x0_5"]
)
def test_parts_compute_what_torchvision_computes(name):
    torch.manual_seed(0)
    whole = get_model(name, num_classes=3).eval()
    torch.manual_seed(0)
    parts = backbones.build(name, 3).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(parts.classify(parts.features(x)), whole(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "side"), [("abn", 4), ("lfi-cam", 2)])
def test_vgg(monkeypatch, method, side):
    """Its last pooling alone is no stage: the one before it is. Its large linear layers are slow to initialise."""
    monkeypatch.setattr(nn.init, "normal_", lambda tensor, *_: tensor.detach().fill_(0.001))
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)
    model = lficam.create(method, "vgg11_bn", 3)
    output = model(torch.rand(2, 3, 64, 64))
    assert output.maps.shape == (2, 1, side, side)
    classification_loss(output, torch.tensor([0, 2]))["total"].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_attention_branch_starts_anew():
    """The copy of the last stage keeps its shapes, not its weights, and halves nowhere."""
    last = backbones.build("convnext_tiny", 3).stages[-1]
    nn.init.constant_(last[1][0].block[3].weight, 7.0)
    branch = backbones.unstrided_copy(last)
    assert not branch[1][0].block[3].weight.eq(7.0).any()
    assert last[1][0].block[3].weight.eq(7.0).all()
    assert branch(torch.zeros(1, 384, 5, 6)).shape == (1, 768, 5, 6)
    assert last(torch.zeros(1, 384, 5, 6)).shape == (1, 768, 2, 3)


def test_wide_resnet_by_hand():
    """With all convolutions at zero a block passes its input on, and dropout acts in training alone."""
    block = backbones.build("wrn-10-1", 2, dropout=0.5).stages[0][0]
    assert block.dropout.p == 0.5
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 16, 4, 4)
    assert torch.equal(block(x), x)


def test_log_sum_attention_by_hand():
    model = lficam.create("abn", "resnet-8", 3, attention_map="log-sum").eval()
    branch = model.attention
    branch.to_classes.forward = lambda _: torch.tensor([1.0, -1.0, 3.0]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    branch.class_norm = nn.Identity()
    maps, _ = branch(torch.rand(1, 32, 2, 2))
    torch.testing.assert_close(maps, torch.full((1, 1, 2, 2), 2.0).log() + torch.full((1, 1, 2, 2), 4.0).log())
    assert lficam.create("abn", "se-resnet-18", 3).attention.to_map is None


@pytest.mark.parametrize(
    ("backbone", "options", "relus", "convolutions"),
    [
        ("resnet-8", {}, [4, 9], 4 * 9 * 64 * 64),
        ("resnet-8", {"fin": "released"}, [4, 9], 4 * 9 * 64 * 64),
        ("resnet-8", {"fin": "relu-all"}, [2, 5, 8, 11], 4 * 9 * 64 * 64),
        ("resnet-8", {"fin": "1x1"}, [4, 9], 3 * 64 * 64),
        ("lfi-resnet18", {}, [2, 5, 8, 11], 4 * 9 * 512 * 512),
        ("lfi-resnet18", {"stem_stride": 2}, [4, 9], 4 * 9 * 512 * 512),
        ("lfi-resnet18", {"fin": "relu-2-4"}, [4, 9], 4 * 9 * 512 * 512),
    ],
)
def test_feature_importance_networks(backbone, options, relus, convolutions):
    with torch.device("meta"):
        layers = lficam.create("lfi-cam", backbone, 2, **options).attention.importance_network.layers
    assert [i for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)] == relus
    assert sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv2d)) == convolutions


def test_stem_stride_halves_the_maps():
    pixels = torch.rand(1, 3, 64, 64)
    for stride, side in ((1, 4), (2, 2)):
        backbone = backbones.build("lfi-resnet18", 2, stem_stride=stride).eval()
        assert backbone.features(pixels).shape[-1] == side


def test_importances_without_softmax():
    torch.manual_seed(0)
    model = lficam.create("lfi-cam", "resnet-8", 2, softmax=False).eval()
    features, images = torch.rand(2, 64, 8, 8), torch.rand(2, 3, 32, 32)
    raw = model.attention.importances(features, images)
    model.attention.softmax = True
    torch.testing.assert_close(model.attention.importances(features, images), raw.softmax(1))
    assert not torch.allclose(raw.sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("method", "backbone", "options"),
    [
        ("lfi-cam", "resnet-8", {"fin": "1x1", "softmax": False}),
        ("abn", "wrn-10-1", {"dropout": 0.3, "attention_map": "log-sum"}),
        ("lfi-cam", "densenet-bc-10-4", {}),
    ],
)
def test_the_card_rebuilds_the_model(tmp_path, method, backbone, options):
    model = lficam.create(method, backbone, 3, **options).eval()
    assert {key: model.card.get(key) for key in options} == options
    checkpoints.save(tmp_path / "best.pt", {"card": model.card, "model": model.state_dict()})
    again = lficam.load(tmp_path / "best.pt")
    pixels = torch.rand(1, 3, 32, 32)
    assert again.card == model.card
    assert torch.equal(again(pixels).maps, model(pixels).maps)


def test_options_at_their_default_leave_the_card_as_it_was():
    old = {"method": "lfi-cam", "backbone": "resnet-8", "num_classes": 2, "mean": [0.5] * 3, "std": [0.25] * 3}
    assert lficam.create(**old).card == old
    assert lficam.create(**old, fin="released", softmax=True).card == old


def test_statistics():
    assert backbones.build("wrn-10-1", 2).statistics[0] == (0.4914, 0.4822, 0.4465)
    assert backbones.build("squeezenet1_1", 2).statistics[1] == (0.229, 0.224, 0.225)


def test_maps_where_no_class_activation_map_exists():
    model = lficam.create("plain", "mobilenet_v3_small", 2).eval()
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = model.backbone.features(model.normalise(pixels))
        torch.testing.assert_close(model(pixels).maps, features.mean(1, keepdim=True))
    with pytest.raises(lficam.InputError, match="global average pooling and one linear layer"):
        model.explain(pixels, torch.tensor([1]))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_weights_of_torchvision(monkeypatch, name):
    """Its weights arrive under its own names; the last layer is new unless the classes are its 1000."""
    theirs = get_model(name)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: theirs.state_dict())
    model = lficam.create("plain", name, 3, weights="DEFAULT")
    first = next(p for p in model.backbone.stem.parameters())
    assert torch.equal(first, next(theirs.parameters()))
    assert "weights" not in model.card
    assert model.eval()(torch.rand(1, 3, 64, 64)).logits.shape == (1, 3)
    same = backbones.build(name, 1000, weights="IMAGENET1K_V1")
    assert torch.equal(list(same.parameters())[-1], list(theirs.parameters())[-1])


def test_weights_that_cannot_be_downloaded(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        lficam.InputError, match=r"Cannot download the weights DEFAULT of resnet18 .*put resnet18-\w+.pth"
    ):
        lficam.create("plain", "resnet18", 3, weights="DEFAULT")


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("plain", "resnext-30-8x64", 10), {}, "9n\\+2"),
        (("plain", "densenet-bc-101-12", 10), {}, "6n\\+4"),
        (("plain", "wrn-28-0", 10), {}, "width is at least 1"),
        (("plain", "wrn-10-1", 10), {"dropout": 1.0}, "dropout in"),
        (("plain", "wrn-28", 10), {}, "Unknown backbone 'wrn-28': did you mean 'wrn-28-10'"),
        (("plain", "convnext_tinny", 10), {}, "did you mean 'convnext_tiny'"),
        (("plain", "vit_b_16", 10), {}, "Unknown backbone 'vit_b_16'"),
        (("plain", "lfi-resnet20", 10), {}, "Unknown backbone 'lfi-resnet20'"),
        (("plain", "resnet-20", 10), {"weights": "DEFAULT"}, "Unknown option of plain resnet-20 'weights'"),
        (("plain", "wrn-10-1", 10), {"dropuot": 0.3}, "did you mean 'dropout'"),
        (("abn", "resnet-20", 10), {"fin": "1x1"}, "Unknown option of abn resnet-20 'fin'"),
        (("lfi-cam", "resnet-8", 10), {"fin": "relu"}, "Unknown fin 'relu'"),
        (("lfi-cam", "resnet-8", 10), {"softmax": 1}, "softmax: expected True or False, got 1"),
        (("abn", "resnet-8", 10), {"attention_map": "tanh"}, "Unknown attention_map 'tanh'"),
        (("plain", "lfi-resnet18", 10), {"stem_stride": 3}, "stem_stride: expected 1 or 2, got 3"),
        (("plain", "resnet18", 10), {"weights": "BEST"}, "Unknown weights of resnet18 'BEST'"),
    ],
)
def test_refusals_are_one_sentence(arguments, options, sentence):
    with pytest.raises(lficam.InputError, match=sentence):
        lficam.create(*arguments, **options)


# Adaptive pooling


@pytest.fixture
def pooled(monkeypatch):
    """The sizes (from, to) of all adaptive poolings, but for those to one place, that torch computes."""
    sizes, pool = [], torch.nn.functional.adaptive_avg_pool2d

    def keep(x, size):
        sizes.extend([(tuple(x.shape[2:]), size)] * (size not in (1, (1, 1))))
        return pool(x, size)

    monkeypatch.setattr(torch.nn.functional, "adaptive_avg_pool2d", keep)
    return sizes


def vgg16(channels=2):
    """torchvision's VGG-16, but narrow."""
    network = models.VGG(
        models.vgg.make_layers([channels] * 4 + ["M"] + ([channels] * 3 + ["M"]) * 4), init_weights=False
    )
    network.classifier = nn.Sequential(nn.Linear(channels * 49, 3))
    return network


def test_no_adaptive_pooling_runs_where_a_gpu_cannot_do_it_deterministically(pooled):
    """VGG-16 pools 7 x 7 maps to 7 x 7: nothing is to be done."""
    explainer = lficam.attach(vgg16(), "l-cam-fm", mean=0.5, std=0.5)
    explainer.train().loss(torch.rand(2, 3, 224, 224), torch.tensor([0, 1]))[0]["total"].backward()
    assert isinstance(lficam.create("plain", "alexnet", 3).backbone.head[0], parts.AdaptivePool)
    assert isinstance(frozen.find("alexnet", weights="random").network.avgpool, parts.AdaptivePool)
    assert not pooled


@pytest.mark.parametrize("size", [7, 9, 14])
def test_adaptive_pooling_is_that_of_torch(size):
    torch.manual_seed(0)
    ours, theirs = (
        parts.steady(nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.AdaptiveAvgPool2d(1))),
        nn.AdaptiveAvgPool2d(7),
    )
    assert [type(part) for part in ours] == [parts.AdaptivePool, nn.AdaptiveAvgPool2d]
    a, b = (torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0), requires_grad=True) for _ in "ab")
    found, wanted = ours[0](a), theirs(b)
    assert torch.equal(found, wanted)
    weights = torch.randn(wanted.shape)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert torch.equal(a.grad, b.grad)


class OnGPU(torch.Tensor):
    is_cuda = True


def test_a_deterministic_recipe_that_a_gpu_cannot_do_is_refused():
    pool = parts.steady(nn.AdaptiveAvgPool2d((7, 6)))
    maps = torch.rand(1, 3, 5, 5, requires_grad=True).as_subclass(OnGPU)
    assert pool(maps).shape == (1, 3, 7, 6)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(
            lficam.InputError, match="Averaging 5 x 5 maps to 7 x 6 has no deterministic gradient on a GPU"
        ):
            pool(maps)
        assert pool(maps.detach()).shape == (1, 3, 7, 6)
    finally:
        torch.use_deterministic_algorithms(False)
