"""Training-free explainers: the authors' outputs, other libraries, cases worked out by hand, passes, threads."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN
from networks import TinyConv, TinyVGG, golden_images, golden_outputs, in_threads
from skimage.transform import resize
from torch import nn
from torchvision import models

import lficam
from lficam.data import datasets
from lficam.errors import InputError
from lficam.explainers import features, frozen
from lficam.explainers.registry import METHODS
from lficam.lab import photos
from lficam.maps import minmax, normalise_and_upsample, upsample
from lficam.metrics import scoring

CLASSES = 5
MAPS = 12  # of which two are equal, one is 0 and one is 1 everywhere
OPTIONS = {"rise": {"masks": 20}, "opti-cam": {"steps": 5}}
OF_TOKENS = ("rollout", "legrad", "chefer")  # which have test_vit.py
EXPLAINERS = [name for name in METHODS if name not in ("own", "random", "centre", "ones", *OF_TOKENS)]
LAYERED = [name for name in EXPLAINERS if name != "rise"]
TARGET = torch.tensor([0, 3, 4])


def small(seed=0):
    """A frozen network of two convolutions, whose ReLUs overwrite what they get."""
    torch.manual_seed(seed)
    network = nn.Sequential()
    network.first, network.relu1 = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True)
    network.last, network.relu2 = nn.Conv2d(8, MAPS, 3, padding=1), nn.ReLU(inplace=True)
    network.avgpool, network.flatten, network.fc = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(MAPS * 4, CLASSES)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
        network.last.weight[1], network.last.bias[1] = network.last.weight[0], network.last.bias[0]
        network.last.weight[2:4], network.last.bias[2], network.last.bias[3] = 0, -1, 1
    return frozen.freeze(network, mean=0.4, std=0.3, size=16)


def make(classifier, method, layer=None, **options):
    return lficam.baseline(classifier, method, layer, **OPTIONS.get(method, {}) | options)


def drawn(explainer, grid, shifts):
    """RISE by these grids (N, s, s) of 0 and 1 and shifts (N, 2) in cells."""
    explainer.grid, explainer.shifts = torch.as_tensor(grid), torch.as_tensor(shifts)
    return explainer


@pytest.fixture
def classifier():
    return small()


@pytest.fixture
def pixels():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


# --- the authors' outputs: made low-resolution maps, min-max, upsampled (upstream), or upsampled before (lcam)


@pytest.fixture(scope="module")
def tiny_vgg():
    """The authors' small VGG, with the module names of torchvision's, and two images."""
    network = TinyVGG()
    network.load_state_dict(golden_outputs("lcam_tinyvgg")["backbone_state"])
    return frozen.freeze(network), golden_images()[:2]


@pytest.fixture(scope="module")
def golden_maps():
    return torch.load(GOLDEN / "baselines.pt", weights_only=True)


def check_golden(maps, wanted, tolerance):
    if wanted["upstream"].shape[-1] == 14:
        torch.testing.assert_close(minmax(maps), wanted["upstream"][: len(maps)].to(maps), atol=tolerance, rtol=0)
    large = minmax(upsample(maps, 224))[:, ::3, ::3]
    torch.testing.assert_close(large.to(maps), wanted["lcam"][: len(maps)].to(maps), atol=tolerance, rtol=0)


def test_grad_cam_equals_the_authors(tiny_vgg, golden_maps):
    explainer = make(tiny_vgg[0], "grad-cam")
    assert explainer.layer.name == "features.29"
    check_golden(explainer(tiny_vgg[1]), golden_maps["grad-cam"], 1e-5)


def test_grad_cam_plus_equals_the_authors(tiny_vgg, golden_maps):
    """A denominator of 5e-12 makes the first map ill-conditioned: the authors' own is 9e-5 from its value in double."""
    (classifier, images), wanted = tiny_vgg, golden_maps["grad-cam++"]
    check_golden(make(classifier, "grad-cam++")(images), wanted, 1e-3)
    check_golden(make(classifier, "grad-cam++")(images[1:]), {name: value[1:2] for name, value in wanted.items()}, 2e-5)
    double = copy.deepcopy(classifier).double()
    check_golden(make(double, "grad-cam++")(images.double()), wanted, 1e-4)


@pytest.mark.slow
def test_score_cam_equals_the_authors(tiny_vgg, golden_maps):
    explainer = make(tiny_vgg[0], "score-cam")
    check_golden(explainer(tiny_vgg[1][:1], golden_maps["target"][:1]), golden_maps["score-cam"], 1e-5)
    assert explainer.counted < explainer.forward_passes == 512


def test_rise_equals_the_authors(tiny_vgg, golden_maps):
    wanted = golden_maps["rise"]
    explainer = drawn(make(tiny_vgg[0], "rise"), wanted["grid"], (wanted["shifts"] + 0.5) / 32)
    masks = explainer.draw(torch.arange(24), (224, 224))
    torch.testing.assert_close(masks[:2, ::3, ::3], wanted["masks"], atol=1e-6, rtol=0)
    torch.testing.assert_close(masks.double().mean((1, 2)), wanted["means"], atol=1e-6, rtol=0)
    maps = explainer(tiny_vgg[1][:1], golden_maps["target"][:1])
    torch.testing.assert_close(maps[:, ::3, ::3], wanted["map"], atol=1e-6, rtol=0)
    torch.testing.assert_close(minmax(maps)[:, ::3, ::3], wanted["map_minmax"], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def tiny_conv():
    """By file: what it holds, its network, and its images."""

    def read(name):
        content = golden_outputs(name)
        network = TinyConv(8, 12, 16)
        network.load_state_dict(content["state"])
        return content, frozen.freeze(network, size=32), content["image_uint8"].float() / 255

    return read


def test_hires_cam_equals_pytorch_grad_cam_and_adds_up_to_the_logit(tiny_conv):
    wanted, classifier, images = tiny_conv("finer_hires_refine")
    target = wanted["class_idx"]
    large = minmax(normalise_and_upsample(make(classifier, "hires-cam", "layer3")(images), 32))
    torch.testing.assert_close(large, wanted["hirescam_layer3"], atol=1e-5, rtol=0)
    raw = make(classifier, "hires-cam", "layer3", relu=False)(images, target)
    torch.testing.assert_close(raw, wanted["hirescam_layer3_raw_lowres"], atol=1e-6, rtol=0)
    y = classifier(images).gather(1, target[:, None])[:, 0] - classifier.network.fc.bias[target]
    torch.testing.assert_close(raw.sum((1, 2)), y.detach(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(raw.relu(), make(classifier, "grad-cam", "layer3")(images, target), atol=1e-5, rtol=1e-5)


def test_finer_cam_equals_both_libraries(tiny_conv):
    wanted, classifier, images = tiny_conv("finer_hires_refine")
    torchcam = wanted["torchcam_0.5.0"]
    finer = partial(make, classifier, "finer-cam", "layer3")
    (raw,) = torchcam["finercam_gamma0.6_auto3"]["raw"]
    torch.testing.assert_close(finer()(images), raw, atol=1e-6, rtol=0)
    (raw,) = torchcam["finercam_gamma1_comparison_0_1"]["raw"]
    torch.testing.assert_close(finer(gamma=1, against=[0, 1])(images), raw, atol=1e-6, rtol=0)
    large = minmax(normalise_and_upsample(finer(protocol="authors")(images), 32))
    torch.testing.assert_close(large, wanted["finercam_auto_alpha1"], atol=1e-5, rtol=0)
    mild = partial(make, classifier, "finer-cam", "layer2")
    for base in ("grad-cam", "layer-cam", "hires-cam"):  # which a contrast of 0 leaves as it is
        plain = make(classifier, base, "layer2")(images, 3)
        torch.testing.assert_close(mild(gamma=0, base=base)(images, 3), plain, atol=1e-6, rtol=1e-4)
    assert finer(against=[3])(images, 3).eq(0).all()  # nothing sets a class apart from itself


@pytest.mark.parametrize("early_stop", [False, True])
def test_opti_cam_equals_the_authors(tiny_conv, early_stop):
    wanted, classifier, images = tiny_conv("opticam_tiny")
    fixed = {
        ("plain", "minmax", n): wanted["no_early_stop"][f"layer3_updates_{n}"] | {"n_steps_done": n} for n in (5, 50)
    }
    names = {"maxmin": "minmax"}
    stopped = {
        (objective, names.get(scale, scale), n): steps[f"steps_{n}"]
        for (_, objective, scale, _), steps in ((name.split("_"), steps) for name, steps in wanted["cases"].items())
        for n in (10, 50)
    }
    for (objective, scale, n), case in (stopped if early_stop else fixed).items():
        options = {"steps": n, "objective": objective, "scale": scale, "early_stop": early_stop}
        explainer = lficam.baseline(classifier, "opti-cam", "layer3", **options)
        maps = explainer(images, wanted["class_idx"])
        torch.testing.assert_close(maps, case["map"][:, 0], atol=1e-5 if n < 50 else 1e-4, rtol=0)
        assert (explainer.forward_passes, explainer.counted) == (n, len(images) * (1 + case["n_steps_done"]))
    if not early_stop:
        seen = classifier(maps[:, None] * images).gather(1, wanted["class_idx"][:, None])[:, 0]
        torch.testing.assert_close(
            seen, wanted["no_early_stop"]["layer3_updates_50"]["masked_logit"], atol=1e-4, rtol=0
        )


# --- by hand: two feature maps, red and green, and logits that weigh their four pixels each

RED, GREEN = torch.tensor([[1.0, 0.0], [0.0, 0.5]]), torch.tensor([[0.0, 0.2], [0.4, 0.0]])
IMAGE = torch.stack([RED, GREEN, 0 * RED])[None]


@pytest.fixture
def linear():
    """The first class weighs 1 1 1 3 of red and -1 -2 1 -2 of green: y = 1 + 1.5 - 0.4 + 0.4 = 2.5."""
    network = nn.Sequential()
    network.maps, network.flatten, network.fc = nn.Conv2d(3, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 2)
    network.maps.weight.data = torch.eye(2, 3)[:, :, None, None]
    network.fc.weight.data = torch.tensor([[1.0, 1.0, 1.0, 3.0, -1.0, -2.0, 1.0, -2.0], [0.0] * 8])
    network.fc.bias.data = torch.zeros(2)
    return frozen.freeze(network, mean=0, std=1, size=2)


def sigmoid(y):
    return 1 / (1 + math.exp(-y))


BY_HAND = {
    # the gradients are the weights, their means 1.5 and -1
    ("grad-cam", None): (1.5 * RED - GREEN).relu(),
    # positive gradients times maps
    ("layer-cam", None): torch.tensor([[1.0, 0.0], [0.4, 1.5]]),
    # without red 2.5 is lost of 2.5, without green nothing is
    ("ablation-cam", None): RED,
    # alpha = g^2 / (2 g^2 + sum(F) g^3): red, sum 1.5: 1 / 3.5 for g = 1, 9 / 58.5 for 3; green, sum 0.6: 1 / 2.6
    ("grad-cam++", "paper"): (3 / 3.5 + 3 * 9 / 58.5) * RED + 1 / 2.6 * GREEN,
    # through red the mask is red itself: y = 1 + 0.75; through green (0 0.5 / 1 0): green 0.4 - 0.2
    ("score-cam", "paper"): sigmoid(1.75) * RED + sigmoid(0.2) * GREEN,
}


@pytest.mark.parametrize(("method", "protocol"), BY_HAND)
def test_by_hand(linear, method, protocol):
    explainer = make(linear, method, **({"protocol": protocol} if protocol else {}))
    torch.testing.assert_close(explainer(IMAGE, 0), BY_HAND[method, protocol][None], atol=1e-5, rtol=1e-5)
    if method == "score-cam":
        assert (explainer.forward_passes, explainer.counted) == (2, 3)


def test_rise_by_hand(linear):
    """One cell: masks of ones and of zeros. p = sigmoid(2.5) and 0.5, the mask of zeros adds nothing."""
    explainer = drawn(make(linear, "rise", keep=0.25), [[[1]], [[0]]], [[0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(explainer(IMAGE, 0), torch.full((1, 2, 2), sigmoid(2.5) / 2 / 0.25))


def score_cam_in_words(classifier, pixels, target, protocol, space):
    """One image, one map at a time, at full size: (H, W)."""
    (layer,) = features.choose_layers(classifier.layers, ["relu2"])
    (maps,), _ = features.tap(classifier.network, classifier.normalise(pixels), [layer])
    total = 0
    for k in range(MAPS):
        large = F.interpolate(maps[:, k : k + 1], pixels.shape[2:], mode="bilinear")
        wide = large.max() - large.min()
        if wide == 0 and protocol == "paper":
            continue
        mask = large / (wide if wide else 1) if protocol == "authors" else (large - large.min()) / wide
        normal = classifier.normalise(pixels)
        images = mask * normal if space == "normalised" else classifier.normalise(mask * pixels)
        weight = classifier.network(images).softmax(1)[0, target]
        total = total + weight * (mask if protocol == "authors" else large)
    return total[:, 0]


@pytest.mark.parametrize("space", ["normalised", "pixels"])
@pytest.mark.parametrize("protocol", ["authors", "paper"])
def test_score_cam_skips_nothing_that_counts(classifier, pixels, protocol, space):
    explainer = make(classifier, "score-cam", protocol=protocol, space=space, batch_size=2)
    for image, target in zip(pixels.split(1), TARGET, strict=True):
        wanted = score_cam_in_words(classifier, image, target, protocol, space)
        torch.testing.assert_close(upsample(explainer(image, target), 16), wanted, atol=1e-5, rtol=1e-5)
        # the equal map, the map of zeros and for the paper the constant one are not seen; the clean image is
        assert explainer.counted == MAPS - (2 if protocol == "authors" else 3) + 1


@pytest.mark.parametrize("protocol", ["authors", "paper", "grad-cam"])
def test_score_cam_of_negative_maps(classifier, pixels, protocol):
    """Before the ReLU: the authors cut them, the others take what they are above their minimum as the mask."""
    with torch.no_grad():
        classifier.network.last.bias.fill_(-50.0)
    explainer = make(classifier, "score-cam", "last", protocol=protocol)
    assert explainer(pixels, 1).eq(0).all()
    # 12 maps, of which two are equal and two constant
    assert explainer.counted == 3 * {"authors": 1, "paper": 10, "grad-cam": 11}[protocol]


@pytest.mark.parametrize("size", [(32, 32), (45, 33), (7, 64)])
@pytest.mark.parametrize("cells", [1, 2, 7])
def test_rise_masks_are_those_of_scikit_image(classifier, size, cells):
    explainer = make(classifier, "rise", masks=6, cells=cells)
    masks = explainer.draw(torch.arange(6), size)
    sides = [math.ceil(side / cells) for side in size]
    for mask, grid, shift in zip(masks, explainer.grid, explainer.shifts, strict=True):
        x, y = (int(s * side) for s, side in zip(shift, sides, strict=True))
        large = resize(grid.numpy().astype("float32"), [(cells + 1) * side for side in sides], order=1, mode="reflect")
        wanted = torch.from_numpy(large)[x : x + size[0], y : y + size[1]]
        torch.testing.assert_close(mask, wanted, atol=1e-6, rtol=0)


def test_grad_cam_is_the_class_activation_map_where_that_exists():
    """With global average pooling and one linear layer the gradient is the class's weight over the pixels."""
    model = lficam.create("plain", "resnet-8", num_classes=CLASSES).eval()
    pixels, target = torch.rand(2, 3, 32, 32), torch.tensor([1, 4])
    with torch.no_grad():
        wanted = model.explain(pixels, target).relu() / 64
    torch.testing.assert_close(make(model, "grad-cam")(pixels, target), wanted, atol=1e-6, rtol=1e-4)


# --- other libraries


def transformer():
    torch.manual_seed(0)
    network = models.VisionTransformer(16, 4, 2, 2, 16, 32, num_classes=CLASSES)
    nn.init.normal_(network.heads.head.weight)
    return frozen.freeze(network, mean=0.4, std=0.3, size=16)


@pytest.mark.parametrize(
    ("method", "kind", "tokens"),
    [("grad-cam", "GradCAM", False), ("layer-cam", "LayerCAM", False), ("grad-cam", "GradCAM", True)],
)
def test_equal_to_torchcam(pixels, method, kind, tokens):
    library = pytest.importorskip("torchcam.methods")
    classifier = transformer() if tokens else small()
    layer = "encoder.layers.encoder_layer_1.ln_1" if tokens else "relu2"
    shape = {"reshape_transform": lambda x: x[:, 1:].transpose(1, 2).unflatten(2, (4, 4))} if tokens else {}
    with getattr(library, kind)(classifier.network, layer, input_shape=pixels.shape[1:], **shape) as extract:
        images = classifier.normalise(pixels).requires_grad_()  # or frozen parameters leave nothing to differentiate
        logits = classifier.network(images)
        wanted = extract(TARGET.tolist(), logits, normalized=False)[0].detach()
    explainer = make(classifier, method)
    assert explainer.layer.name == layer
    assert wanted.flatten(1).any(1).all()
    torch.testing.assert_close(explainer(pixels, TARGET), wanted, atol=1e-5, rtol=1e-4)


def test_grad_cam_equals_captum(classifier, pixels):
    attr = pytest.importorskip("captum.attr")
    images = classifier.normalise(pixels).requires_grad_()
    extract = attr.LayerGradCam(classifier.network, classifier.network.relu2)
    wanted = extract.attribute(images, TARGET, relu_attributions=True)[:, 0].detach()
    torch.testing.assert_close(make(classifier, "grad-cam")(pixels, TARGET), wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "kind", "options"),
    [
        ("grad-cam", "GradCAM", {}),
        ("grad-cam++", "GradCAMPlusPlus", {"protocol": "paper"}),
        ("layer-cam", "LayerCAM", {}),
        ("score-cam", "ScoreCAM", {"protocol": "grad-cam"}),
        ("ablation-cam", "AblationCAM", {}),
    ],
)
def test_equal_to_pytorch_grad_cam(classifier, pixels, method, kind, options):
    """It gives maps that are scaled to [0, 1] and enlarged: here by their size, so that they are not resampled."""
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network = copy.deepcopy(classifier.network).requires_grad_(True)
    extract = getattr(library, kind)(network, [network.relu2])
    extract.get_target_width_height = lambda _: (8, 8)
    wanted = extract(classifier.normalise(pixels), [ClassifierOutputTarget(int(t)) for t in TARGET])
    maps = make(classifier, method, **options)(pixels, TARGET)
    torch.testing.assert_close(minmax(maps), torch.from_numpy(wanted), atol=1e-4, rtol=0)


# --- the interface


@pytest.mark.parametrize("method", [*EXPLAINERS, "random", "centre", "ones"])
def test_a_batch_is_its_images_one_by_one_and_repeats(classifier, pixels, method):
    explainer = make(classifier, method)
    maps = explainer(pixels, TARGET)
    one_by_one = torch.cat([explainer(pixels[i : i + 1], TARGET[i : i + 1]) for i in range(3)])
    small = 1e-4 if method in ("ablation-cam", "opti-cam") else 1e-6  # a difference over a logit; steps by its sign
    torch.testing.assert_close(one_by_one, maps, atol=small, rtol=1e-5)
    assert torch.equal(make(classifier, method).attribute(pixels, TARGET), maps)
    with torch.inference_mode():
        assert torch.equal(explainer(pixels.clone(), TARGET.clone()), maps)


@pytest.mark.parametrize("method", EXPLAINERS)
def test_the_predicted_class_is_explained_where_none_is_given_and_passes_are_counted(classifier, pixels, method):
    """Counted is what the last layer answers; what Score-CAM's clean pass with a target does not reach, the first."""
    explainer, predicted = make(classifier, method), classifier(pixels).argmax(1)
    assert explainer.counted == 0
    first, last = seen_by(classifier.network.first), seen_by(classifier.network.fc)
    maps = explainer(pixels)
    # a map is equal to another, one is dead, one constant; and the clean pass
    counts = {"score-cam": MAPS - 2 + 1, "ablation-cam": MAPS - 1 + 1, "rise": 21, "opti-cam": 6}
    assert explainer.counted == max(sum(first), sum(last)) == 3 * counts.get(method, 1)
    if method == "ablation-cam":  # eleven altered maps, and a batch of three images once
        assert first == [3, 1, 1, 1]
    del first[:], last[:]
    torch.testing.assert_close(explainer(pixels, predicted), maps, atol=1e-6, rtol=1e-5)
    assert explainer.counted == max(sum(first), sum(last))
    passes = {"score-cam": MAPS, "ablation-cam": MAPS, "rise": 20, "opti-cam": 5}
    assert explainer.forward_passes == passes.get(method, 1)
    assert not torch.allclose(maps, explainer(pixels, (predicted + 1) % CLASSES))


def seen_by(module):
    """A list that grows by the number of images whenever the module is called."""
    images = []
    module.register_forward_hook(lambda *call: images.append(len(call[-1])))
    return images


@pytest.mark.parametrize("method", EXPLAINERS)
def test_threads_share_an_explainer_and_nothing_is_left_behind(classifier, pixels, method):
    """And what others do with the same classifier; the count is that of one call, never of several together."""
    before = copy.deepcopy(classifier.state_dict())
    explainer, other = make(classifier, method), make(classifier, "rise", masks=3)
    calls = [lambda x=x: explainer(x, 1) for x in pixels.split(1)] + [lambda: explainer(pixels[:1])]
    calls += [lambda: classifier(pixels), lambda: other(pixels), lambda: make(classifier, method)(pixels[:1])]
    single = [(call(), explainer.counted)[1] for call in calls[:4]]
    assert in_threads(calls, rounds=2)
    assert explainer.counted <= max(single)
    with torch.inference_mode():
        explainer(pixels)
    maps = explainer(pixels)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert not any(module._forward_hooks or module.training for module in classifier.network.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in classifier.parameters())
    assert all(parameter.is_contiguous() for parameter in classifier.parameters())
    assert not maps.requires_grad
    (maps.requires_grad_() * 2).sum().backward()  # a tensor like any other


@pytest.mark.parametrize("layer", ["first", "relu1", "last", "relu2", "avgpool"])
@pytest.mark.parametrize("method", LAYERED)
def test_every_layer_can_be_explained(classifier, pixels, method, layer):
    """Also those that the next layer overwrites: as if it did not."""
    apart = copy.deepcopy(classifier)
    apart.network.relu1.inplace = apart.network.relu2.inplace = False
    maps = make(classifier, method, layer)(pixels, 2)
    assert maps.shape[1:] == ((16, 16) if method == "opti-cam" else (2, 2) if layer == "avgpool" else (8, 8))
    torch.testing.assert_close(maps, make(apart, method, layer)(pixels, 2), atol=1e-6, rtol=1e-5)


def test_ablation_where_paths_meet_in_a_concatenation(pixels):
    """Then one image before the layer cannot serve many behind it: the whole network runs, with the same result."""

    class Paths(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 5, 3), nn.Linear(9, CLASSES)

        def forward(self, x):
            return self.fc(torch.cat([self.a(x).relu(), self.b(x).relu()], 1).mean((2, 3)))

    torch.manual_seed(0)
    classifier = frozen.freeze(Paths(), size=16)
    explainer = make(classifier, "ablation-cam", "a")
    assert not explainer.alone
    assert all(make(small(), "ablation-cam", layer).alone for layer in ("first", "last", "relu2"))
    maps, network = explainer(pixels, 1), classifier.network
    with torch.no_grad():
        images = classifier.normalise(pixels)
        kept, other = network.a(images), network.b(images).relu()
        y = classifier(pixels)[:, 1]
        wanted = 0
        for k in range(4):
            altered = kept.clone()
            altered[:, k] = 0
            without = network.fc(torch.cat([altered.relu(), other], 1).mean((2, 3)))[:, 1]
            wanted = wanted + ((y - without) / y)[:, None, None] * kept[:, k]
    torch.testing.assert_close(maps, wanted.relu(), atol=1e-5, rtol=1e-4)


def swin():
    torch.manual_seed(0)
    network = models.SwinTransformer([2, 2], 8, [1, 1], [1, 2], [4, 4], num_classes=CLASSES)
    nn.init.normal_(network.head.weight)
    return frozen.freeze(network, size=16)


@pytest.mark.parametrize("method", LAYERED)
@pytest.mark.parametrize(
    ("build", "layer", "kind"), [(transformer, None, "tokens"), (swin, "features.3", "channels-last")]
)
def test_transformers_are_explained(pixels, method, build, layer, kind):
    explainer = make(build(), method, layer)
    assert explainer.layer.kind == kind
    maps = explainer(pixels)
    assert maps.shape == ((3, 16, 16) if method == "opti-cam" else (3, 4, 4))
    assert maps.isfinite().all()
    assert maps.flatten(1).any(1).all() or kind == "channels-last"
    if method == "ablation-cam" and kind == "tokens":
        assert explainer.alone
        explainer.alone = False
        torch.testing.assert_close(explainer(pixels), maps, atol=1e-5, rtol=1e-4)


# --- what may go wrong


@pytest.mark.parametrize("method", EXPLAINERS)
def test_an_impossible_class_has_a_map_without_nan(classifier, pixels, method):
    with torch.no_grad():
        classifier.network.fc.bias[0] = -1e4
    assert classifier(pixels).softmax(1)[:, 0].eq(0).all()
    by_score = ("grad-cam", "layer-cam", "hires-cam", "ablation-cam")
    options = {"score": "probability"} if method in by_score else {}
    maps = make(classifier, method, **options)(pixels, 0)
    if method in ("finer-cam", "opti-cam"):  # by the logit, which is a number
        assert maps.isfinite().all()
        return
    assert maps.eq(0).all()
    assert normalise_and_upsample(maps, 16).eq(0).all()


@pytest.mark.parametrize("method", EXPLAINERS)
@pytest.mark.parametrize("bias", [-1.0, 0.0, 1.0])
def test_maps_without_range_are_finite(classifier, pixels, method, bias):
    """Every feature map negative and then cut, 0, or 1."""
    with torch.no_grad():
        classifier.network.last.weight.zero_()
        classifier.network.last.bias.fill_(bias)
    for layer in ["relu2", "last"] if method in LAYERED else [None]:
        maps = make(classifier, method, layer)(pixels, 1)
        assert maps.isfinite().all()
        follows_place = method in ("rise", "layer-cam", "hires-cam")
        assert follows_place or normalise_and_upsample(maps, 16).eq(0).all()


@pytest.mark.parametrize("method", EXPLAINERS)
@pytest.mark.parametrize("layer", ["first", "fc"])
def test_broken_weights_are_told(classifier, pixels, method, layer):
    explainer = make(classifier, method)
    nn.init.constant_(getattr(classifier.network, layer).bias, torch.nan)
    with pytest.raises(InputError, match="The map or the classifier's answer is not finite: the weights are broken"):
        explainer(pixels)


@pytest.mark.parametrize("method", EXPLAINERS)
def test_maps_by_autocast(classifier, pixels, method):
    """The classifier's passes are rounded; Grad-CAM++'s may divide by next to nothing."""
    explainer = make(classifier, method)
    wanted = explainer(pixels, 1)
    with torch.autocast("cpu", torch.bfloat16):
        maps = explainer(pixels, 1)
    assert maps.dtype == torch.float32
    assert method == "grad-cam++" or (minmax(maps) - minmax(wanted)).abs().max() < 0.1


class Without(nn.Module):
    """A network that computes a part of its layers without gradients."""

    def __init__(self, network, layers):
        super().__init__()
        self.network, self.count = network, layers

    def forward(self, x):
        for i, part in enumerate(self.network):
            with torch.set_grad_enabled(i >= self.count):
                x = part(x)
        return x


@pytest.mark.parametrize("method", ["grad-cam", "opti-cam", "rise"])
def test_a_classifier_that_computes_without_gradients(classifier, pixels, method):
    wanted = make(classifier, method)(pixels, 1)
    guarded = lambda layers: frozen.freeze(Without(classifier.network, layers), mean=0.4, std=0.3, size=16)  # noqa: E731
    layer = None if method == "rise" else "network.relu2"
    if method != "opti-cam":
        assert torch.equal(make(guarded(4), method, layer)(pixels, 1), wanted)  # gradients begin behind the layer
    for layers in (5, 7):
        if method == "rise":
            assert torch.equal(make(guarded(layers), method)(pixels, 1), wanted)
            continue
        with pytest.raises(InputError, match=r"Without computes without gradients .*: score-cam, ablation-cam or rise"):
            make(guarded(layers), method, layer)(pixels, 1)


def test_a_layer_without_influence_is_refused():
    """ABN's attention branch has logits of its own, which the classification does not see."""
    model = lficam.create("abn", "resnet-8", num_classes=CLASSES)
    with pytest.raises(InputError, match=r"Layer 'attention.to_logits' has no part in the logits"):
        make(model, "grad-cam", "attention.to_logits")(torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("rise", {"layer": "relu2"}, "Unknown option of rise 'layer'"),
        ("score-cam", {"protocol": "mine"}, "Unknown protocol 'mine'"),
        ("score-cam", {"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ("grad-cam", {"score": "softmax"}, "Unknown score 'softmax'"),
        ("finer-cam", {"gamma": "strong"}, "gamma: expected a number, got 'strong'"),
        ("finer-cam", {"against": [9]}, "Classes: expected whole numbers from 0 to 4"),
        ("finer-cam", {"base": "rise"}, "Unknown base 'rise'"),
        ("opti-cam", {"lr": 0}, "lr: expected a rate above 0, got 0"),
        ("opti-cam", {"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ("rollout", {}, "rollout explains vision transformers, and Sequential has no tokens: use grad-cam"),
        ("random", {"cells": 0}, "cells: expected a whole number"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(classifier, method, options, says):
    with pytest.raises(InputError, match=says):
        lficam.baseline(classifier, method, **options)


def test_one_class_is_not_set_apart(classifier):
    classifier.num_classes = 1
    with pytest.raises(InputError, match="finer-cam sets a class apart from others, and this classifier has one"):
        make(classifier, "finer-cam")


# --- RISE and the controls


def test_rise_masks_depend_on_the_seed_alone(classifier, pixels):
    maps = make(classifier, "rise", seed=1)(pixels, 0)
    torch.testing.assert_close(make(classifier, "rise", seed=1, batch_size=3)(pixels, 0), maps)
    assert not torch.allclose(make(classifier, "rise", seed=2)(pixels, 0), maps)
    masks = make(classifier, "rise", masks=2000, keep=0.3).draw(torch.arange(2000), (16, 24))
    assert masks.shape == (2000, 16, 24)
    assert masks.mean().item() == pytest.approx(0.3, abs=0.01)
    assert 0 <= masks.min() <= masks.max() <= 1


def test_controls_look_at_the_image_or_at_nothing():
    pixels = torch.rand(4, 3, 32, 48)
    maps = lficam.baseline(None, "random")(pixels)
    assert maps.shape == (4, 7, 7)
    assert torch.equal(lficam.baseline(None, "random")(pixels.flip(0), torch.tensor([1, 2, 3, 4])).flip(0), maps)
    assert len(maps.flatten(1).unique(dim=0)) == 4
    assert not torch.equal(lficam.baseline(None, "random", seed=1)(pixels), maps)
    explainer = lficam.baseline(None, "centre")
    maps = explainer(pixels)
    assert maps.shape == (4, 8, 12)
    assert all(torch.equal(maps[0], other) for other in maps)
    torch.testing.assert_close(maps, maps.flip(1, 2))
    assert (explainer.forward_passes, explainer.counted) == (0, 0)
    network = lficam.create("plain", "resnet-8", 10)  # the same module for several, which each freezes for itself
    explainers = {name: lficam.baseline(network, name) for name in ("centre", "grad-cam")}
    table = scoring.score(explainers, datasets.load("photo-digits", "test", count=2))
    assert list(table.explainer.unique()) == ["centre", "grad-cam"]


@pytest.mark.parametrize("method", ["plain", "abn", "lfi-cam"])
def test_the_own_map_is_that_of_the_classifier(method, tmp_path):
    torch.manual_seed(0)
    model = lficam.create(method, "resnet-8", CLASSES, mean=0.4, std=0.3).eval()
    images = datasets.load("photo-digits", "test", count=6)
    pixels, target = images.pixels(range(6)), torch.tensor([0, 1, 2, 3, 4, 0])
    own = lficam.baseline(model, "own")
    torch.testing.assert_close(own(pixels, target), model.explain(pixels, target).detach())
    assert (own.forward_passes, own.counted) == (1, 6)
    assert torch.allclose(own(pixels, target), own(pixels, target.flip(0))) == (method != "plain")
    (explanation,) = photos.explain_photo(own, pixels[0], targets=[1])
    assert explanation.of_class == (method == "plain")
    (same,) = photos.explain_photo(own.classifier, pixels[0], targets=[1])
    assert torch.equal(explanation.map, same.map)
    explainers = {"own": own, "grad-cam": lficam.baseline(own.classifier, "grad-cam")}
    table = scoring.score(explainers, images, tmp_path / "scores.csv", measures=("masking",))
    assert sorted(set(table["explainer"])) == ["grad-cam", "own"]
