"""Backbones by name: their sizes, the authors' names of their weights, torchvision's networks in parts, poolings."""

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import WeightsEnum, get_model

import lficam
from lficam.errors import InputError
from lficam.explainers import frozen
from lficam.losses import classification_loss
from lficam.models.authors import our_name
from lficam.models.backbone import AdaptivePool, steady, unstrided_copy
from lficam.models.registry import build

METHODS = ("plain", "abn", "lfi-cam")
# name: parameters of plain, ABN, LFI-CAM in the authors' code, for CIFAR with 10 and 100 classes, else 2, 10 and 1000
SIZES = {
    "resnet-20": ((272_474, 278_324), (479_150, 501_650), (420_442, 426_292)),
    "resnet-110": ((1_704_154, 1_727_284), (2_999_726, 3_056_786), (4_065_498, 4_088_628)),
    "densenet-bc-100-12": ((769_162, 800_032), (1_049_958, 1_122_498), (4_982_602, 5_013_472)),
    "densenet-bc-190-40": ((25_624_430, 25_821_620), (35_230_542, 35_635_722), (198_301_550, 198_498_740)),
    "resnext-29-8x64": ((34_426_698, 34_518_948), (60_686_366, 60_881_666), (72_183_626, 72_275_876)),
    "resnext-29-16x64": ((68_155_210, 68_247_460), (120_129_566, 120_324_866), (105_912_138, 106_004_388)),
    "wrn-28-10": ((36_479_194, 36_536_884), (64_349_486, 64_475_666)),
    "resnet18": ((11_177_538, 11_181_642, 11_689_512), (19_573_342, 19_581_726, 21_607_266)),
    "lfi-resnet18": ((), (), (20_618_818, 20_622_922, 21_130_792)),
    "resnet50": ((23_512_130, 23_528_522, 25_557_032), (38_485_086, 38_518_046, 43_584_866)),
    "lfi-resnet50": ((), (), (174_523_458, 174_539_850, 176_568_360)),
}
MILLIONS = {  # the same, with 1000 classes
    "resnet101": (44.55, 62.58),
    "lfi-resnet101": (None, None, 195.56),
    "resnet152": (60.19, 78.22),
    "lfi-resnet152": (None, None, 211.20),
    "se-resnet-18": (11.78, 21.75),
    "se-resnet-50": (28.09, 47.69),
    "se-resnet-152": (66.82, 86.42),
}


def size(method, name, classes):
    """Number of parameters; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in lficam.create(method, name, classes).parameters())


DEEP = ("resnet-110", "densenet-bc-100-12", "densenet-bc-190-40", "resnet152", "lfi-resnet152", "se-resnet-152")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in DEEP)) for name in SIZES | MILLIONS]


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_the_authors(name):
    """Of deep networks, which take seconds to build, for the most classes alone."""
    for method, expected in zip(METHODS, SIZES.get(name, ()), strict=False):
        sizes = dict(zip((10, 100) if len(expected) == 2 else (2, 10, 1000), expected, strict=False))
        asked = list(sizes)[-1:] if name in DEEP else list(sizes)
        assert {count: size(method, name, count) for count in asked} == {count: sizes[count] for count in asked}
    for method, millions in zip(METHODS, MILLIONS.get(name, ()), strict=False):
        assert millions is None or round(size(method, name, 1000) / 1e6, 2) == millions


# The authors' names

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
RESNEXT_STEM = ["conv_1_3x3.weight", "bn_1", "classifier.weight", "classifier.bias"]
RESNEXT_BLOCK = ["conv_reduce.weight", "conv_conv.weight", "conv_expand.weight", "shortcut.shortcut_conv.weight"]
RESNEXT_BLOCK += ["bn_reduce", "bn", "bn_expand", "shortcut.shortcut_bn"]
WRN_BLOCK = ["bn1", "conv1.weight", "bn2", "conv2.weight", "convShortcut.weight"]
BRANCH = ["bn_att", "att_conv.weight", "bn_att2", "att_conv2.weight", "att_conv3.weight", "bn_att3"]
IMPORTANCE = [f"attention.{i}.weight" for i in (0, 2, 5, 7)] + [f"attention.{i}" for i in (1, 3, 6, 8)]
STAGES = ("stage_1", "stage_2", "stage_3", "stage_att")
AUTHORS_NAMES = {  # the stem and the rest, a block, the blocks
    ("abn", "wrn-10-2"): (
        ["conv1.weight", "bn1", "fc.weight", "fc.bias", *BRANCH],
        WRN_BLOCK,
        [f"{block}.layer.0" for block in ("block1", "block2", "block3", "att_block3")],
    ),
    ("abn", "resnext-11-2x8"): (RESNEXT_STEM + BRANCH, RESNEXT_BLOCK, [f"{s}.{s}_bottleneck_0" for s in STAGES]),
    ("lfi-cam", "resnext-11-2x8"): (
        RESNEXT_STEM + IMPORTANCE,
        RESNEXT_BLOCK,
        [f"{s}.{s}_bottleneck_0" for s in STAGES[:3]],
    ),
}


@pytest.mark.parametrize(("method", "backbone"), AUTHORS_NAMES)
def test_authors_names_reach_every_parameter(method, backbone):
    """No weights of these were at hand: the names are those of the authors' source."""
    single, block, blocks = AUTHORS_NAMES[method, backbone]
    names = [*single, *(f"{place}.{part}" for place in blocks for part in block)]
    whole = {name for name in names if name.endswith((".weight", ".bias"))}  # all others are norms
    names = whole | {f"{name}.{part}" for name in names if name not in whole for part in NORM}
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


# What they compute


@pytest.mark.parametrize(
    ("name", "pixels", "grid", "before_last"),
    [
        ("resnet-8", 32, 8, 16),
        ("densenet-bc-10-4", 32, 8, 8),
        ("resnext-11-2x8", 32, 8, 16),
        ("wrn-10-2", 32, 8, 16),
        ("vgg-8", 32, 8, 16),
        ("lfi-resnet18", 64, 4, 8),
        ("se-resnet-18", 64, 2, 4),
        ("mobilenet_v3_small", 64, 2, 4),
        pytest.param("regnet_y_400mf", 64, 2, 4, marks=pytest.mark.slow),
        ("squeezenet1_1", 64, 3, 7),
        pytest.param("convnext_tiny", 64, 2, 4, marks=pytest.mark.slow),
        pytest.param("densenet121", 64, 2, 4, marks=pytest.mark.slow),
        pytest.param("inception_v3", 96, 1, 1, marks=pytest.mark.slow),
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


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "densenet121", "regnet_y_400mf", "shufflenet_v2_x0_5"]
)
def test_parts_compute_what_torchvision_computes(name):
    torch.manual_seed(0)
    whole = get_model(name, num_classes=3).eval()
    torch.manual_seed(0)
    parts, x = build(name, 3).eval(), torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(parts.classify(parts.features(x)), whole(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "side"), [("abn", 4), ("lfi-cam", 2)])
def test_vgg(monkeypatch, method, side):
    """Its last pooling alone is no stage: the one before it is. Its large linear layers are slow to initialise."""
    monkeypatch.setattr(nn.init, "normal_", lambda tensor, *_: tensor.detach().fill_(0.001))
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)
    with torch.no_grad():
        assert lficam.create(method, "vgg11_bn", 3)(torch.rand(2, 3, 64, 64)).maps.shape == (2, 1, side, side)


@pytest.mark.slow
def test_attention_branch_starts_anew():
    """The copy of the last stage keeps its shapes, not its weights, and halves nowhere."""
    last = build("convnext_tiny", 3).stages[-1]
    nn.init.constant_(last[1][0].block[3].weight, 7.0)
    branch = unstrided_copy(last)
    assert not branch[1][0].block[3].weight.eq(7.0).any()
    assert last[1][0].block[3].weight.eq(7.0).all()
    assert branch(torch.zeros(1, 384, 5, 6)).shape == (1, 768, 5, 6)
    assert last(torch.zeros(1, 384, 5, 6)).shape == (1, 768, 2, 3)


def test_wide_resnet_by_hand():
    """With all convolutions at zero a block passes its input on."""
    block = build("wrn-10-1", 2, dropout=0.5).stages[0][0]
    assert block.dropout.p == 0.5
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 16, 4, 4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("backbone", "options", "relus", "convolutions"),
    [
        ("resnet-8", {"fin": "released"}, [4, 9], 4 * 9 * 64 * 64),
        ("resnet-8", {"fin": "relu-all"}, [2, 5, 8, 11], 4 * 9 * 64 * 64),
        ("resnet-8", {"fin": "1x1"}, [4, 9], 3 * 64 * 64),
        ("lfi-resnet18", {}, [2, 5, 8, 11], 4 * 9 * 512 * 512),
        ("lfi-resnet18", {"stem_stride": 2}, [4, 9], 4 * 9 * 512 * 512),
    ],
)
def test_feature_importance_networks(backbone, options, relus, convolutions):
    with torch.device("meta"):
        model = lficam.create("lfi-cam", backbone, 2, **options)
    layers = model.attention.importance_network.layers
    assert [i for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)] == relus
    assert sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv2d)) == convolutions
    if backbone == "lfi-resnet18":
        side = 4 // options.get("stem_stride", 1)
        assert model.backbone.features(torch.empty(1, 3, 64, 64, device="meta")).shape[-1] == side


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_weights_of_torchvision(monkeypatch, name):
    """Its weights arrive under its own names; the last layer is new unless the classes are its 1000."""
    theirs = get_model(name)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: theirs.state_dict())
    model = lficam.create("plain", name, 3, weights="DEFAULT")
    assert torch.equal(next(model.backbone.stem.parameters()), next(theirs.parameters()))
    assert "weights" not in model.card
    assert model.eval()(torch.rand(1, 3, 64, 64)).logits.shape == (1, 3)
    same = build(name, 1000, weights="IMAGENET1K_V1")
    assert torch.equal(list(same.parameters())[-1], list(theirs.parameters())[-1])


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("plain", "resnext-30-8x64", 10), {}, "9n\\+2"),
        (("plain", "wrn-28-0", 10), {}, "width is at least 1"),
        (("plain", "wrn-10-1", 10), {"dropout": 1.0}, "dropout in"),
        (("plain", "convnext_tinny", 10), {}, "did you mean 'convnext_tiny'"),
        (("plain", "vit_b_16", 10), {}, "Unknown backbone 'vit_b_16'"),
        (("plain", "resnet-20", 10), {"weights": "DEFAULT"}, "Unknown option of plain resnet-20 'weights'"),
        (("lfi-cam", "resnet-8", 10), {"softmax": 1}, "softmax: expected True or False, got 1"),
        (("plain", "lfi-resnet18", 10), {"stem_stride": 3}, "stem_stride: expected 1 or 2, got 3"),
    ],
)
def test_refusals_are_one_sentence(arguments, options, sentence):
    with pytest.raises(InputError, match=sentence):
        lficam.create(*arguments, **options)


# Adaptive pooling


@pytest.mark.slow
def test_no_adaptive_pooling_runs_where_a_gpu_cannot_do_it_deterministically(monkeypatch):
    """VGG-16 pools 7 x 7 maps to 7 x 7: nothing is to be done."""
    sizes, pool = [], torch.nn.functional.adaptive_avg_pool2d

    def keep(x, size):
        sizes.extend([(tuple(x.shape[2:]), size)] * (size not in (1, (1, 1))))
        return pool(x, size)

    monkeypatch.setattr(torch.nn.functional, "adaptive_avg_pool2d", keep)
    layers = [2, 2, "M", 2, 2, "M", 2, 2, 2, "M", 2, 2, 2, "M", 2, 2, 2, "M"]
    vgg16 = models.VGG(models.vgg.make_layers(layers), init_weights=False)
    vgg16.classifier = nn.Sequential(nn.Linear(2 * 49, 3))
    explainer = lficam.attach(vgg16, "l-cam-fm", mean=0.5, std=0.5)
    explainer.train().loss(torch.rand(2, 3, 224, 224), torch.tensor([0, 1]))[0]["total"].backward()
    with torch.device("meta"):
        assert isinstance(lficam.create("plain", "alexnet", 3).backbone.head[0], AdaptivePool)
        assert isinstance(frozen.freeze(models.alexnet()).network.avgpool, AdaptivePool)
    assert not sizes


@pytest.mark.parametrize("size", [7, 9, 14])
def test_adaptive_pooling_is_that_of_torch(size):
    ours, theirs = steady(nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.AdaptiveAvgPool2d(1))), nn.AdaptiveAvgPool2d(7)
    assert [type(part) for part in ours] == [AdaptivePool, nn.AdaptiveAvgPool2d]
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
    pool = steady(nn.AdaptiveAvgPool2d((7, 6)))
    maps = torch.rand(1, 3, 5, 5, requires_grad=True).as_subclass(OnGPU)
    assert pool(maps).shape == (1, 3, 7, 6)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(InputError, match="Averaging 5 x 5 maps to 7 x 6 has no deterministic gradient"):
            pool(maps)
        assert pool(maps.detach()).shape == (1, 3, 7, 6)
    finally:
        torch.use_deterministic_algorithms(False)
