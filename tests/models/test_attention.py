"""Plain, ABN and LFI-CAM: golden outputs of the authors' code, and answers computed by hand."""

import pytest
import torch
import torch.nn.functional as F
from networks import in_threads

import lficam
from lficam.errors import InputError
from lficam.losses import classification_loss
from lficam.models.attention import ABNOutput, LFIAttention
from lficam.models.authors import our_name

METHODS = ("plain", "abn", "lfi-cam")
SHALLOW = {
    "lfi_cifar_resnet20": ("lfi-cam", "resnet-20"),
    "abn_cifar_resnet20": ("abn", "resnet-20"),
    "abn_cifar_densenet22": ("abn", "densenet-bc-22-12"),
}
DEEP = {
    "lfi_cifar_resnet110_fill": ("lfi-cam", "resnet-110"),
    "abn_cifar_resnet110_fill": ("abn", "resnet-110"),
}
LARGE = {  # images of 224 pixels, maps of 14 x 14
    "lfi_resnet18_224_k2_fill": ("lfi-cam", "lfi-resnet18"),
    "abn_resnet18_224_k2_fill": ("abn", "resnet18"),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in LARGE]


def build(golden, name):
    reference = golden(name)
    method, backbone = (SHALLOW | DEEP | LARGE)[name]
    classes = 2 if name in LARGE else 10
    model = lficam.create(method, backbone, classes, mean=0, std=1)  # golden inputs are normalised already
    return lficam.load_authors(model, reference["state_dict"]).eval(), reference


def check(output, expected, tolerance, count=None):
    for ours, key in zip(output, ("logits", "att", "att_logits"), strict=False):
        torch.testing.assert_close(ours, expected[key][:count], rtol=0, atol=tolerance)


# The authors' code


@pytest.mark.parametrize("name", SHALLOW)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_passes_equal_the_authors_code_in_float64(golden, name, mode):
    model, reference = build(golden, name)
    expected = reference[f"{mode}64"]
    output = model.train(mode == "train").double()(reference["x"].double())
    loss = classification_loss(output, reference["y"])["total"]
    loss.backward()
    check(output, expected, 1e-10)
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-10)
    gradients = {key: p.grad.norm().item() for key, p in model.named_parameters()}
    norms = {our_name(model, key): value for key, value in expected["grad_norms"].items()}
    assert gradients == pytest.approx(norms, rel=1e-6, abs=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("name", [*DEEP, *SLOW])
def test_outputs_equal_the_authors_code_in_float64(golden, name):
    model, reference = build(golden, name)
    check(model.double()(reference["x"][:2].double()), reference["eval64"], 1e-10, 2)


@torch.no_grad()
@pytest.mark.parametrize("name", [*SHALLOW, *SLOW])
def test_outputs_equal_the_authors_code_in_float32(golden, name):
    model, reference = build(golden, name)
    check(model(reference["x"]), reference["eval"], 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", DEEP)
def test_float32_is_as_near_to_exact_as_the_authors_code(golden, name):
    # These weights are ill-conditioned: the authors' float32 run is itself this far from their float64 run.
    model, reference = build(golden, name)
    for ours, key in zip(model(reference["x"]), ("logits", "att"), strict=False):
        exact = reference["eval64"][key]
        assert (ours - exact).abs().max() < 3 * (reference["eval"][key] - exact).abs().max()


@torch.no_grad()
def test_importances_equal_the_authors(golden):
    model, reference = build(golden, "lfi_cifar_resnet20")
    images, expected = model.normalise(reference["x"]), reference["eval"]
    features = model.backbone.features(images)
    masked, weights = model.attention.masked_features(features, images), model.attention.importances(features, images)
    torch.testing.assert_close(masked, expected["fin_in"], rtol=0, atol=1e-5)
    torch.testing.assert_close(weights, expected["importance"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "steps"), [("lfi_cifar_resnet20", 5), ("abn_cifar_resnet20", 3)])
def test_training_steps_equal_the_authors(golden, name, steps):
    """In float64: the first steps are steep, and float32 on another number of threads is off by .014 in the fifth."""
    model, reference = build(golden, name)
    model.double().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    losses = []
    for _ in range(steps):
        loss = classification_loss(model(reference["x"].double()), reference["y"])["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(reference["sgd_losses"][:steps], abs=2e-3)


# By hand


def test_lfi_attention_by_hand():
    """Two feature maps of 2x2 with known importances: M = minmax(w1 F1 + w2 F2)."""
    attention = LFIAttention(2).eval()
    attention.importance_network.forward = lambda _: torch.tensor([[3.0, 1.0]]).log()  # softmax -> 3/4, 1/4
    features = torch.tensor([[[[4.0, 0.0], [0.0, 4.0]], [[0.0, 8.0], [0.0, 0.0]]]])
    # weighted sum: [[3, 2], [0, 3]] -> min-max [[1, 2/3], [0, 1]]
    maps = attention(features, torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(maps, torch.tensor([[[[1.0, 2 / 3], [0.0, 1.0]]]]))
    assert attention(0 * features, torch.ones(1, 3, 2, 2)).eq(0).all()  # a map without range stays as it is


def test_masked_features_by_hand():
    """Min-max of each map times the grey image; a constant map counts 1 everywhere, a dead one 0."""
    features = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]], [[7.0, 7.0], [7.0, 7.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    images = torch.tensor([0.0, 3.0, 6.0]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)  # grey 3
    masked = LFIAttention(3).masked_features(features, images)
    expected = 3 * torch.tensor([[[[0.0, 0.25], [0.5, 1.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    torch.testing.assert_close(masked, expected)


def test_constant_and_dead_feature_maps_have_finite_gradients():
    attention = LFIAttention(3)
    features = torch.rand(2, 3, 4, 4)
    features[:, 1], features[:, 2] = 0.7, 0.0
    features.requires_grad_()
    attention(features, torch.rand(2, 3, 8, 8)).square().sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in (features, *attention.parameters()))


@torch.no_grad()
def test_importances_without_softmax():
    torch.manual_seed(0)
    attention = lficam.create("lfi-cam", "resnet-8", 2, softmax=False).eval().attention
    features, images = torch.rand(2, 64, 8, 8), torch.rand(2, 3, 32, 32)
    raw = attention.importances(features, images)
    attention.softmax = True
    torch.testing.assert_close(attention.importances(features, images), raw.softmax(1))
    assert not torch.allclose(raw.sum(1), torch.ones(2))


def test_log_sum_attention_by_hand():
    branch = lficam.create("abn", "resnet-8", 3, attention_map="log-sum").eval().attention
    branch.to_classes.forward = lambda _: torch.tensor([1.0, -1.0, 3.0]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    branch.class_norm = torch.nn.Identity()
    maps, _ = branch(torch.rand(1, 32, 2, 2))
    torch.testing.assert_close(maps, torch.full((1, 1, 2, 2), 2.0).log() + torch.full((1, 1, 2, 2), 4.0).log())


def test_abn_loss_is_the_sum_of_both_branches():
    logits, attention_logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([0])
    terms = classification_loss(ABNOutput(logits, torch.zeros(1, 1, 2, 2), attention_logits), labels)
    assert terms["perception"].item() == pytest.approx(F.cross_entropy(logits, labels).item())
    assert terms["attention"].item() == pytest.approx(0.6931472)
    assert terms["total"].item() == pytest.approx((terms["perception"] + terms["attention"]).item())


@torch.no_grad()
def test_plain_map_is_the_class_activation_map():
    model, pixels = lficam.create("plain", "resnet-20", 3).eval(), torch.rand(2, 3, 32, 32)
    features, predicted = model.backbone.features(model.normalise(pixels)), model(pixels)
    maps = model.explain(pixels, torch.tensor([2, 0]))
    by_hand = sum(model.backbone.fc.weight[2, k] * features[0, k] for k in range(64))
    torch.testing.assert_close(maps[0], by_hand, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.explain(pixels), model.explain(pixels, predicted.logits.argmax(1)))
    # The class activation map sums to the class's logit, up to the bias and the mean.
    torch.testing.assert_close(maps[0].mean(), predicted.logits[0, 2] - model.backbone.fc.bias[2], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_maps_where_no_class_activation_map_exists():
    model, pixels = lficam.create("plain", "mobilenet_v3_small", 2).eval(), torch.rand(1, 3, 64, 64)
    features = model.backbone.features(model.normalise(pixels))
    torch.testing.assert_close(model(pixels).maps, features.mean(1, keepdim=True))
    with pytest.raises(InputError, match="global average pooling and one linear layer"):
        model.explain(pixels, torch.tensor([1]))


# The interface


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_a_model_is_an_explainer_of_itself(method):
    model, pixels = lficam.create(method, "resnet-8", 3, mean=0.5, std=0.25).eval(), torch.rand(3, 2, 3, 48, 48)
    output = model(pixels[0])
    side = 24 if method == "abn" else 12
    assert output.logits.shape == (2, 3)
    assert output.maps.shape == (2, 1, side, side)
    maps = model.attribute(pixels[0], target=torch.tensor([1, 2]))
    assert maps.shape == (2, side, side)
    assert torch.equal(model.explain(pixels[0].double(), [1, 2]), maps)
    raw = lficam.create(method, "resnet-8", 3, mean=0, std=1).eval()  # of images that are normalised already
    raw.load_state_dict(model.state_dict())
    torch.testing.assert_close(output.logits, raw((pixels[0] - 0.5) / 0.25).logits, rtol=1e-4, atol=1e-5)
    assert in_threads([lambda x=x: model.explain(x) for x in pixels] + [lambda: model(pixels[0]).logits], rounds=3)
    torch.nn.init.constant_(model.backbone.stem[0].weight, torch.nan)
    with pytest.raises(InputError, match="not finite: the weights are broken"):
        model.explain(pixels[0])


def test_training_does_not_look_at_pixels():
    model, pixels = lficam.create("lfi-cam", "resnet-8", 3), torch.rand(2, 3, 32, 32) * 255
    model.train()(pixels)
    for training in (True, False):
        model.train(training).loss(pixels, torch.tensor([0, 1]))
    with pytest.raises(InputError, match=r"pixels: expected floating-point numbers in \[0, 1\], got"):
        model(pixels)


@pytest.mark.slow
def test_a_model_in_eval_mode_can_be_compiled_and_traced():
    model, pixels = lficam.create("lfi-cam", "resnet-8", 3).eval(), torch.rand(2, 3, 32, 32)
    wanted = model(pixels)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(tuple(compiled(pixels)), tuple(wanted))
    assert len(torch.export.export(model, (pixels,)).module()(pixels)) == len(wanted)


# bfloat16


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "most"),
    [("lfi_cifar_resnet20", 0.002), ("lfi_cifar_resnet110_fill", 0.002), ("abn_cifar_resnet20", 0.02)],
)
def test_maps_by_autocast_are_near_those_in_float32(golden, name, most):
    """Of the same feature maps: LFI-CAM's attention sums them, ABN's is a stage of convolutions more."""
    model, reference = build(golden, name)
    images = model.normalise(reference["x"])
    stages, rest = (slice(None), (images,)) if name.startswith("lfi") else (slice(-1), ())
    features = model.backbone.features(images, stages)
    wanted = model.attention(features, *rest)
    with torch.autocast("cpu", torch.bfloat16):
        maps = model.attention(features.bfloat16(), *rest)
    wanted, maps = (wanted, maps) if rest else (wanted[0], maps[0])
    assert (maps - wanted).abs().max() < most


@torch.no_grad()
def test_a_flat_sum_of_many_maps_keeps_its_range_by_autocast():
    """2,048 maps of which the sum spans 6 %: bfloat16 has 8 bits for all of it, and 4 for the span."""
    torch.manual_seed(0)
    attention = LFIAttention(2).eval()
    attention.importance_network.forward = lambda masked: masked.mean((2, 3))
    features, images = 1 + 0.02 * torch.randn(2, 1, 7, 7).clamp(-1.5, 1.5), torch.ones(2, 3, 32, 32)
    features = features + 0.3 * torch.rand(2, 2048, 7, 7)
    total = torch.einsum("bc,bchw->bhw", attention.importances(features, images), features)
    assert (total.amax((1, 2)) / total.amin((1, 2))).max() < 1.06
    wanted = attention(features, images)
    with torch.autocast("cpu", torch.bfloat16):
        maps = attention(features.bfloat16(), images)
    assert maps.dtype == torch.float32
    assert (maps - wanted).abs().max() < 0.02
