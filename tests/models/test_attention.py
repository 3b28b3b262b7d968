"""Plain, ABN and LFI-CAM: golden outputs of the authors' code, and answers computed by hand."""

import pytest
import torch
import torch.nn.functional as F
from networks import in_threads

import lficam
from lficam.losses import classification_loss
from lficam.models.attention import ABNOutput, LFIAttention
from lficam.models.authors import our_name

FILES = {
    "lfi_cifar_resnet20": ("lfi-cam", "resnet-20"),
    "abn_cifar_resnet20": ("abn", "resnet-20"),
    "lfi_cifar_resnet110_fill": ("lfi-cam", "resnet-110"),
    "abn_cifar_resnet110_fill": ("abn", "resnet-110"),
}


def build(golden, name):
    reference = golden(name)
    method, backbone = FILES[name]
    model = lficam.create(method, backbone, 10, mean=0, std=1)  # golden inputs are normalised already
    return lficam.load_authors(model, reference["state_dict"]), reference


@pytest.mark.parametrize("name", ["lfi_cifar_resnet110_fill", "abn_cifar_resnet110_fill"])
def test_deep_models_equal_the_authors_code_in_float64(golden, name):
    model, reference = build(golden, name)
    with torch.no_grad():
        output = model.eval().double()(reference["x"][:2].double())
    torch.testing.assert_close(output.logits, reference["eval64"]["logits"][:2], rtol=0, atol=1e-10)
    torch.testing.assert_close(output.maps, reference["eval64"]["att"][:2], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["lfi_cifar_resnet20", "abn_cifar_resnet20"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_equals_the_authors_code_in_float64(golden, name, mode):
    model, reference = build(golden, name)
    expected = reference[f"{mode}64"]
    model.train(mode == "train").double()
    output = model(reference["x"].double())
    loss = classification_loss(output, reference["y"])["total"]
    loss.backward()
    torch.testing.assert_close(output.logits, expected["logits"], rtol=0, atol=1e-10)
    torch.testing.assert_close(output.maps, expected["att"], rtol=0, atol=1e-10)
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-10)
    if "att_logits" in expected:
        torch.testing.assert_close(output.attention_logits, expected["att_logits"], rtol=0, atol=1e-10)
    gradients = {key: p.grad.norm().item() for key, p in model.named_parameters()}
    norms = {our_name(model, key): value for key, value in expected["grad_norms"].items()}
    assert gradients == pytest.approx(norms, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", ["lfi_cifar_resnet20", "abn_cifar_resnet20"])
def test_equals_the_authors_code_in_float32(golden, name):
    model, reference = build(golden, name)
    output = model.eval()(reference["x"])
    torch.testing.assert_close(output.logits, reference["eval"]["logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(output.maps, reference["eval"]["att"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["lfi_cifar_resnet110_fill", "abn_cifar_resnet110_fill"])
def test_float32_is_as_near_to_exact_as_the_authors_code(golden, name):
    # These weights are ill-conditioned: the authors' float32 run is itself this far from their float64 run.
    model, reference = build(golden, name)
    with torch.no_grad():
        output = model.eval()(reference["x"])
    for ours, key in ((output.logits, "logits"), (output.maps, "att")):
        exact = reference["eval64"][key]
        their_error = (reference["eval"][key] - exact).abs().max()
        assert (ours - exact).abs().max() < 3 * their_error


def test_importances_equal_the_authors(golden):
    model, reference = build(golden, "lfi_cifar_resnet20")
    with torch.no_grad():
        images = model.eval().normalise(reference["x"])
        features = model.backbone.features(images)
        expected = reference["eval"]
        torch.testing.assert_close(
            model.attention.masked_features(features, images), expected["fin_in"], rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            model.attention.importances(features, images), expected["importance"], rtol=0, atol=1e-6
        )


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


@pytest.mark.parametrize(
    ("method", "backbone", "classes", "parameters"),
    [
        ("plain", "resnet-20", 10, 272_474),
        ("abn", "resnet-20", 10, 479_150),
        ("lfi-cam", "resnet-20", 100, 426_292),
        ("plain", "resnet-110", 100, 1_727_284),
        ("abn", "resnet-110", 10, 2_999_726),
        ("lfi-cam", "resnet-110", 10, 4_065_498),
    ],
)
def test_parameter_counts(method, backbone, classes, parameters):
    assert sum(p.numel() for p in lficam.create(method, backbone, classes).parameters()) == parameters


def test_lfi_attention_by_hand():
    """Two feature maps of 2x2 with known importances: M = minmax(w1 F1 + w2 F2)."""
    attention = LFIAttention(2).eval()
    attention.importance_network.forward = lambda _: torch.tensor([[3.0, 1.0]]).log()  # softmax -> 3/4, 1/4
    features = torch.tensor([[[[4.0, 0.0], [0.0, 4.0]], [[0.0, 8.0], [0.0, 0.0]]]])
    # weighted sum: [[3, 2], [0, 3]] -> min-max [[1, 2/3], [0, 1]]
    maps = attention(features, torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(maps, torch.tensor([[[[1.0, 2 / 3], [0.0, 1.0]]]]))


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
    features[:, 1] = 0.7
    features[:, 2] = 0.0
    features.requires_grad_()
    attention(features, torch.rand(2, 3, 8, 8)).square().sum().backward()
    assert torch.isfinite(features.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in attention.parameters())


def test_a_map_without_range_stays_as_it_is():
    attention = LFIAttention(2)
    assert attention(torch.zeros(1, 2, 4, 4), torch.rand(1, 3, 8, 8)).eq(0).all()


def test_plain_map_is_the_class_activation_map():
    model = lficam.create("plain", "resnet-20", 3).eval()
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features = model.backbone.features(model.normalise(pixels))
        maps = model.explain(pixels, torch.tensor([2, 0]))
        by_hand = sum(model.backbone.fc.weight[2, k] * features[0, k] for k in range(64))
        torch.testing.assert_close(maps[0], by_hand, rtol=1e-5, atol=1e-5)
        predicted = model(pixels)
        torch.testing.assert_close(model.explain(pixels), model.explain(pixels, predicted.logits.argmax(1)))
        # The class activation map sums to the class's logit, up to the bias and the mean.
        logit = predicted.logits[0, 2] - model.backbone.fc.bias[2]
        torch.testing.assert_close(maps[0].mean(), logit, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["plain", "abn", "lfi-cam"])
@pytest.mark.parametrize("size", [32, 48])
def test_common_interface(method, size):
    model = lficam.create(method, "resnet-20", 7).eval()
    pixels = torch.rand(2, 3, size, size)
    output = model(pixels)
    grid = size // 2 if method == "abn" else size // 4
    assert output.logits.shape == (2, 7)
    assert output.maps.shape == (2, 1, grid, grid)
    assert model.attribute(pixels, target=torch.tensor([1, 2])).shape == (2, grid, grid)
    assert isinstance(output, ABNOutput) == (method == "abn")


def test_pixels_are_normalised_inside():
    model = lficam.create("lfi-cam", "resnet-20", 2, mean=0.5, std=0.25).eval()
    raw = lficam.create("lfi-cam", "resnet-20", 2, mean=0, std=1).eval()
    raw.load_state_dict(model.state_dict())
    pixels = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(model(pixels).logits, raw((pixels - 0.5) / 0.25).logits, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_parameter():
    for method in ("plain", "abn", "lfi-cam"):
        model = lficam.create(method, "resnet-20", 4)
        classification_loss(model(torch.rand(4, 3, 32, 32)), torch.arange(4))["total"].backward()
        assert all(p.grad is not None for p in model.parameters())


def test_abn_loss_is_the_sum_of_both_branches():
    logits, attention_logits = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    labels = torch.tensor([0])
    terms = classification_loss(ABNOutput(logits, torch.zeros(1, 1, 2, 2), attention_logits), labels)
    assert terms["perception"].item() == pytest.approx(F.cross_entropy(logits, labels).item())
    assert terms["attention"].item() == pytest.approx(0.6931472)
    assert terms["total"].item() == pytest.approx((terms["perception"] + terms["attention"]).item())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("lficam", "resnet-20", 10), "Unknown method 'lficam': did you mean 'lfi-cam'"),
        (("plain", "resnet-21", 10), "6n\\+2"),
        (("plain", "resnext-20", 10), "Unknown backbone 'resnext-20'"),
        (("plain", "resnet-20", 1), "num_classes: expected an integer of at least 2, got 1"),
    ],
)
def test_wrong_names_are_one_sentence(arguments, sentence):
    with pytest.raises(lficam.InputError, match=sentence):
        lficam.create(*arguments)


@pytest.mark.parametrize(
    "pixels",
    [torch.zeros(3, 32, 32), torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)],
)
def test_wrong_images_are_one_sentence(pixels):
    with pytest.raises(lficam.InputError, match=r"expected a float tensor \(B, 3, H, W\)"):
        lficam.create("plain", "resnet-20", 2)(pixels)


def test_wrong_normalisation():
    with pytest.raises(lficam.InputError, match="std above 0"):
        lficam.create("plain", "resnet-20", 2, std=0)


@pytest.mark.parametrize("method", ["plain", "abn", "lfi-cam"])
def test_pixels_outside_the_range_are_refused_but_in_training(method):
    model, pixels = lficam.create(method, "resnet-8", 3), torch.rand(2, 3, 32, 32)
    for training in (True, False):
        model.train(training).loss(pixels * 255, torch.tensor([0, 1]))
    model.train()(pixels - 0.5)
    for wrong in (pixels * 255, pixels - 0.5, pixels * torch.nan):
        model.eval()
        for call in (model, model.explain, model.attribute):
            with pytest.raises(lficam.InputError, match=r"pixels: expected floating-point numbers in \[0, 1\], got"):
                call(wrong)
    with pytest.raises(lficam.InputError, match="Classes: expected whole numbers from 0 to 2"):
        model.explain(pixels, 3)
    assert torch.equal(model.explain(pixels.double(), [1, 2]), model.explain(pixels, torch.tensor([1, 2])))


def test_a_model_in_eval_mode_can_be_compiled_and_traced():
    model, pixels = lficam.create("lfi-cam", "resnet-8", 3).eval(), torch.rand(2, 3, 32, 32)
    wanted = model(pixels)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(tuple(compiled(pixels)), tuple(wanted))
    assert len(torch.export.export(model, (pixels,)).module()(pixels)) == len(wanted)


@pytest.mark.parametrize("method", ["plain", "abn", "lfi-cam"])
def test_broken_weights_are_told(method):
    model = lficam.create(method, "resnet-8", 3).eval()
    torch.nn.init.constant_(model.backbone.stages[-1][0].conv1.weight, torch.nan)
    torch.nn.init.constant_(model.backbone.stages[0][0].conv1.weight, torch.nan)
    with pytest.raises(lficam.InputError, match="not finite: the weights are broken"):
        model.explain(torch.rand(2, 3, 32, 32))


@torch.no_grad()
@pytest.mark.parametrize("method", ["plain", "abn", "lfi-cam"])
def test_threads_share_a_model(method):
    model, pixels = lficam.create(method, "resnet-8", 3).eval(), torch.rand(3, 2, 3, 32, 32)
    assert in_threads([lambda x=x: model.explain(x) for x in pixels] + [lambda: model(pixels[0]).logits], rounds=5)


# bfloat16


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "most"),
    [("lfi_cifar_resnet20", 0.002), ("lfi_cifar_resnet110_fill", 0.002), ("abn_cifar_resnet20", 0.02)],
)
def test_maps_by_autocast_are_near_those_in_float32(golden, name, most):
    """Of the same feature maps: LFI-CAM's attention sums them, ABN's is a stage of convolutions more."""
    model, reference = build(golden, name)
    images = model.eval().normalise(reference["x"])
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
    features = 1 + 0.02 * torch.randn(2, 1, 7, 7).clamp(-1.5, 1.5) + 0.3 * torch.rand(2, 2048, 7, 7)
    total = torch.einsum("bc,bchw->bhw", attention.importances(features, torch.ones(2, 3, 32, 32)), features)
    assert (total.amax((1, 2)) / total.amin((1, 2))).max() < 1.06
    wanted = attention(features, torch.ones(2, 3, 32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        maps = attention(features.bfloat16(), torch.ones(2, 3, 32, 32))
    assert maps.dtype == torch.float32
    assert (maps - wanted).abs().max() < 0.02
