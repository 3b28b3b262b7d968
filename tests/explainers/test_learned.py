"""L-CAM, TAME and T-TAME on complete classifiers: golden outputs of the authors' code, and what stays frozen."""

import pytest
import torch
from networks import (
    TinyNet,
    TinyVGG,
    golden_images,
    golden_outputs,
    in_threads,
    small,
    small_swin,
    small_vit,
    watch,
    watch_method,
)
from torch import nn
from torchvision import models

import lficam
from lficam.errors import InputError
from lficam.losses import mask_area
from lficam.maps import minmax, normalise_and_upsample
from lficam.models.authors import explainer_state


def close(found, expected, atol=1e-4):
    torch.testing.assert_close(found, torch.as_tensor(expected).to(found.dtype), rtol=0, atol=atol)


def near(found, expected, share):
    """Equal up to a share of the largest of the expected numbers; a bias before a batch norm has none but noise."""
    close(found, expected, atol=share * expected.abs().max().item() + 1e-6)


# The authors' code: L-CAM

LCAM_MODELS = {
    "Fm": ("l-cam-fm", "features.29"),
    "Img": ("l-cam-img", "features.29"),
    "FmA": ("l-cam-fm-ce", "features.29"),
    "ImgA": ("l-cam-img-ce", "features.29"),
    "7x7_Img": ("l-cam-img", "features.30"),
}


def l_cam(name):
    """An explainer with the weights of the golden file, and the outputs to compare with."""
    reference = golden_outputs("lcam_tinyvgg")
    network = TinyVGG()
    network.load_state_dict(reference["backbone_state"])
    method, layer = LCAM_MODELS[name]
    explainer = lficam.attach(network, method, [layer])
    lficam.load_authors(explainer, reference["attn_state"])
    return explainer, reference


@pytest.mark.parametrize("name", LCAM_MODELS)
def test_training_steps_of_l_cam(name):
    explainer, reference = l_cam(name)
    expected, labels = reference["models"][name], reference["labels"]
    full = {**reference["models"]["Fm"], **expected} if name != "7x7_Img" else expected  # the same maps in four models
    explainer.train()
    fuse = explainer.mechanism.fuse
    with (
        watch(explainer.classifier.network.classifier[6]) as logits,
        watch_method(explainer.mechanism, "fused") as calls,
    ):
        terms, still = explainer.loss(golden_images(), labels)
    maps = calls[0][1].detach()
    close(logits[-1][:, ::10], expected["train_logits"])
    assert torch.equal(still, logits[-1].argmax(1) == labels)
    close(maps.diagonal().movedim(-1, 0), full["c_labels"])
    close(maps.sigmoid(), full["masks"])  # (4, 4, h, w): of every image the maps of all labels of the batch
    assert [x.item() for x in terms.values()] == pytest.approx(
        expected["losses"] * (1 if len(expected["losses"]) > 1 else 2), rel=1e-4
    )

    terms["total"].backward()
    # Through the masked image a gradient meets ReLUs and poolings of float32: the authors' is 6e-3 from the exact one.
    share = 1e-5 if name.startswith("Fm") else 1e-2
    near(fuse.bias.grad[labels.unique()], expected["grad_bias"], share)
    for row, gradient in expected["grad_weight_rows"].items():
        near(fuse.weight.grad[row, :, 0, 0], gradient, share)
    assert fuse.weight.grad.double().norm().item() == pytest.approx(expected["grad_weight_norm"], rel=share)

    groups = [{"params": [fuse.weight]}, {"params": [fuse.bias], "lr": 0.02}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    optimizer.step()
    close(fuse.bias.detach()[expected["bias_classes"]], expected["bias_after_1_step"], atol=1e-4)
    close(fuse.weight.detach()[3, :, 0, 0], expected["weight_row_3_after_1_step"], atol=1e-5)
    terms, _ = explainer.loss(golden_images(), labels)
    assert terms["total"].item() == pytest.approx(expected["loss_of_step_2"], rel=1e-4)
    optimizer.zero_grad()
    terms["total"].backward()
    optimizer.step()
    close(fuse.bias.detach()[expected["bias_classes"]], expected["bias_after_2_steps"], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["Fm", "7x7_Img"])
def test_explanations_of_l_cam(name):
    explainer, reference = l_cam(name)
    explains_as(explainer, reference["models"][name]["eval"])


def explains_as(explainer, expected):
    """Predictions, and the probability that is left when the image is multiplied by its min-max map."""
    pixels = golden_images()
    maps, logits = explainer.maps_and_logits(pixels)
    classes = logits.argmax(1)
    assert classes.tolist() == expected["class_idx"]
    close(logits.softmax(1)[range(4), classes], expected["y"])
    masked = explainer.classifier(pixels * normalise_and_upsample(maps[:, 0], 224)[:, None])
    close(masked.softmax(1)[range(4), classes], expected["y_masked"][0])
    close(explainer(pixels), maps[:, 0], atol=0)
    close(explainer(pixels, classes), maps[:, 0], atol=0)


# The authors' code: TAME


def tame(method="tame", **options):
    reference = golden_outputs("tame_tinynet")
    network = TinyNet()
    network.load_state_dict(reference["backbone_state"], strict=False)
    explainer = lficam.attach(network, method, ["s1", "s2", "s3"], **options)
    lficam.load_authors(explainer, reference["attn_state"])
    return explainer, reference


@torch.no_grad()
def test_explanations_of_tame():
    explainer, reference = tame()
    expected = reference["eval"]
    explains_as(explainer, expected)
    close(minmax(explainer(golden_images())[0]), expected["cam_img0"])
    features, logits = explainer.features(golden_images(), stop=False)
    close(features[2][..., ::3, ::3], reference["features"])
    close(logits[:, ::10], reference["logits"])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_training_steps_of_tame(mode):
    explainer, reference = tame(classifier_mode=mode)
    expected, labels = reference[f"{mode}_mode"], reference["labels"]
    network, mechanism = explainer.classifier.network, explainer.mechanism
    frozen = {name: value.clone() for name, value in network.state_dict().items()}
    parameters = dict(mechanism.named_parameters())
    groups = [
        {"params": [p for name, p in parameters.items() if "weight" in name], "weight_decay": 5e-4},
        {"params": [p for name, p in parameters.items() if "bias" in name]},
    ]
    optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=0.9, nesterov=True)
    explainer.train()
    for step in expected["steps"]:
        for group, rate, momentum in zip(optimizer.param_groups, step["lr"], step["momentum"], strict=True):
            group["lr"], group["momentum"] = rate, momentum
        with watch(network.fc) as logits, watch_method(mechanism, "fused") as calls:
            terms, _ = explainer.loss(golden_images(), labels)
        assert [x.item() for x in terms.values()] == pytest.approx(step["losses"], rel=1e-4)
        close(logits[-1][:, ::10], step["logits"])
        optimizer.zero_grad()
        terms["total"].backward()
        if "grads" in step:
            close(calls[0][1].detach().sigmoid()[..., ::3, ::3], step["masks"])
            for name, gradient in explainer_state(step["grads"]).items():
                near(parameters[name].grad, gradient, 1e-3)
            near(parameters["fuse.bias"].grad[[3, 421, 977]], step["grad_fuse_bias"], 1e-3)
            for row, gradient in step["grad_fuse_rows"].items():
                near(parameters["fuse.weight"].grad[row, :, 0, 0], gradient, 1e-3)
        optimizer.step()
    for name, value in explainer_state(expected["after"]).items():
        found = mechanism.state_dict()[name]
        close(found[[3, 421, 977]] if name.startswith("fuse") else found, value, atol=1e-5)
    # In train mode the authors' frozen classifier drifts, and is not saved. Ours stays what it is.
    for name, value in network.state_dict().items():
        assert torch.equal(value, frozen[name]), name
    theirs = expected.get("backbone_after", {})
    drifted = [name for name, value in theirs.items() if not torch.allclose(value, frozen[name], rtol=0.01)]
    assert len(drifted) == (8 if mode == "train" else 0)


# The authors' code: T-TAME

MASKS = {"random": "batch", "diagonal": "own", "max": "top"}
SPACES = {"raw_normalize": "pixels", "renormalize": "pixels", "new": "normalised"}


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("space", SPACES)
def test_training_forward_of_t_tame(space, masks):
    explainer, _ = tame("t-tame", masks=MASKS[masks], space=SPACES[space], classifier_mode="train")
    expected = golden_outputs("ttame")["train"][f"{space}_{masks}"]
    explainer.train()
    with watch(explainer.classifier.network.fc) as logits, watch_method(explainer.mechanism, "fused") as calls:
        terms, still = explainer.loss(golden_images(), None)  # labels are what the classifier says of the image
    assert logits[0].argmax(1).tolist() == expected["labels"].tolist()
    assert torch.equal(still, logits[1].argmax(1) == expected["labels"])
    close(logits[1][:, ::10], expected["logits"])
    close(calls[-1][1].detach().sigmoid()[..., ::3, ::3], expected["masks"])
    assert [x.item() for x in terms.values()] == pytest.approx(expected["losses"], rel=1e-4)


# What is computed, and what is masked


PIXELS = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])


def explainer_of(method="tame", network=None, **options):
    torch.manual_seed(1)
    return lficam.attach(network or small(), method, **{"mean": 0.5, "std": 0.25, "size": 32} | options)


def constant_masks(explainer, value):
    """Let every class map be that number everywhere."""
    nn.init.zeros_(explainer.mechanism.fuse.weight)
    nn.init.constant_(explainer.mechanism.fuse.bias, value)


@pytest.mark.parametrize(
    ("method", "options", "stems", "heads"),
    [
        ("l-cam-fm", {}, 1, 1),
        ("l-cam-img", {}, 2, 1),
        ("tame", {}, 2, 1),
        ("t-tame", {}, 2, 2),
        ("tame", {"masked": "features"}, 1, 1),
        ("l-cam-fm", {"labels": "batch"}, 2, 2),
    ],
)
def test_passes(method, options, stems, heads):
    """In training as listed, and the clean one keeps no graph; an explanation takes one, with a target no head."""
    explainer = explainer_of(method, layers=["second"] if method[0] == "l" else ["first", "second"], **options)
    network, graphs = explainer.classifier.network, []
    network.first.register_forward_hook(lambda *call: graphs.append(call[-1].requires_grad))
    with watch(network.first) as first, watch(network.fc) as fc, watch_method(explainer.mechanism, "branches") as calls:
        explainer.train().loss(PIXELS, LABELS)
        assert (len(first), len(fc)) == (stems, heads)
        assert len(calls) == 1  # batch norm in the mechanism takes one step a batch
        assert not any(maps.requires_grad for maps in calls[0][0][0])
        assert not graphs[0]
        explainer.eval()(PIXELS)
        explainer(PIXELS, LABELS)
        assert (len(first), len(fc)) == (stems + 2, heads + 1)


@pytest.mark.parametrize("build", [small, small_swin], ids=["maps", "channels last"])
@pytest.mark.parametrize("method", ["l-cam-fm", "l-cam-img", "tame", "t-tame"])
def test_masks_of_one_leave_all_as_it_is_and_of_zero_nothing(method, build):
    explainer = explainer_of(method, build())
    pixels, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 3])
    for value, shown in ((40.0, pixels), (-200.0, 0 * pixels)):
        constant_masks(explainer, value)
        with watch(explainer.classifier.network) as logits:
            terms, _ = explainer.loss(pixels, labels)
        if value > 0 or explainer.settings.masked == "image":  # a black image
            close(logits[-1], explainer.classifier(shown), atol=1e-5)
        else:  # no features: the same for every image, and not what a black image gives
            close(logits[-1][0], logits[-1][1], atol=1e-6)
        height = (mask_area(torch.ones(1, 1, 4, 4)) if value > 0 else mask_area(torch.zeros(1, 1, 4, 4))).item()
        assert terms["area"].item() == pytest.approx(2 * height, rel=1e-5)


def test_a_layer_whose_output_is_overwritten_can_be_explained_by_and_masked():
    explainer = explainer_of("l-cam-fm", layers=["second.1"])  # the activation writes into it
    assert explainer.layers[0].reused
    pixels, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 3])
    network = explainer.classifier.network
    with torch.no_grad():
        before = network.second[1](network.second[0](network.first(explainer.classifier.normalise(pixels))))
    close(explainer.features(pixels)[0][0], before, atol=1e-6)
    assert before.min() < 0
    explainer.loss(pixels, labels)[0]["total"].backward()
    assert explainer.mechanism.fuse.weight.grad.abs().sum() > 0
    constant_masks(explainer, 40.0)
    with watch(network) as logits:
        explainer.loss(pixels, labels)
    close(logits[0], explainer.classifier(pixels), atol=1e-5)


@torch.no_grad()
def test_maps_and_logits_in_one_pass_of_any_classes():
    explainer, pixels = explainer_of("tame"), PIXELS[:3]
    every, logits = explainer.maps_and_logits(pixels, torch.arange(5))
    close(logits, explainer.classifier(pixels), atol=1e-6)
    each = torch.tensor([[4, 0], [1, 1], [2, 3]])
    close(explainer.maps_and_logits(pixels, each)[0], every[torch.arange(3)[:, None], each], atol=1e-6)
    close(explainer(pixels), every[range(3), logits.argmax(1)], atol=1e-6)
    close(explainer.attribute(pixels, [4, 0, 1]), every[range(3), [4, 0, 1]], atol=1e-6)
    close(explainer(pixels, torch.tensor([4, 0, 1], dtype=torch.uint8)), every[range(3), [4, 0, 1]], atol=1e-6)


# Frozen


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("method", ["l-cam-fm", "l-cam-img", "tame", "t-tame"])
def test_training_changes_the_mechanism_alone(method, mode):
    """In train mode with the classifier's dropout and batch statistics, which no running ones come of."""
    network = small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    explainer = explainer_of(method, network, classifier_mode=mode)
    parts = lambda: {part.training for part in explainer.classifier.modules()}  # noqa: E731
    assert not explainer.training
    assert parts() == {False}
    calm = explainer.loss(PIXELS, LABELS)[0]["total"].item()
    assert explainer.train() is explainer
    assert parts() == {mode == "train"}
    if method == "l-cam-img":
        totals = {explainer.loss(PIXELS, LABELS)[0]["total"].item() for _ in range(4)}
        assert (len(totals) > 1) == (totals != {calm}) == (mode == "train")
    mechanism = {name: value.clone() for name, value in explainer.state_dict().items()}
    assert set(mechanism) == set(explainer.mechanism.state_dict())
    optimizer = torch.optim.SGD(explainer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        explainer.loss(PIXELS, LABELS)[0]["total"].backward()
        optimizer.step()
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is not None for p in explainer.mechanism.parameters())
    assert not torch.equal(mechanism["fuse.weight"], explainer.mechanism.fuse.weight)
    explainer.load_state_dict(mechanism)
    assert explainer.eval().loss(PIXELS, LABELS)[0]["total"].item() == calm


# Any classifier

CLASSIFIERS = {
    "own": (small, {"size": 32, "mean": 0.5, "std": 0.25}),
    "created": (lambda: lficam.create("plain", "resnet-8", 4), {}),
    "created with attention": (lambda: lficam.create("lfi-cam", "resnet-8", 4, mean=0.5, std=0.5), {}),
    "torchvision": (lambda: models.squeezenet1_1(num_classes=4), {"size": 64}),
    "tokens": (small_vit, {}),
    "channels last": (small_swin, {"size": 32}),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_any_classifier_can_be_explained(name):
    build, options = CLASSIFIERS[name]
    torch.manual_seed(0)
    network = build()
    explainer = lficam.attach(network, "tame-no-skip", **options)
    pixels = torch.rand(2, 3, explainer.classifier.size, explainer.classifier.size)
    # The features are what the layers give when the classifier takes the normalised image by itself.
    outer = network if hasattr(network, "classify_and_attend") else explainer.classifier
    with torch.no_grad(), watch(network.get_submodule(explainer.layers[-1].name)) as outputs:
        logits = outer(pixels)
    logits = getattr(logits, "logits", logits)
    with torch.no_grad():
        maps, ours = explainer.maps_and_logits(pixels, torch.tensor([0, 1]))
        features, _ = explainer.features(pixels)
    close(ours, logits, atol=1e-5)
    close(explainer.classifier(pixels).detach(), logits, atol=1e-5)
    close(features[-1], explainer.layers[-1].maps(outputs[0]), atol=1e-5)
    assert maps.shape == (2, 2, explainer.layers[0].height, explainer.layers[0].width)
    terms, still = explainer.train().loss(pixels, torch.tensor([0, 1]))
    terms["total"].backward()
    assert torch.isfinite(terms["total"])
    assert still.shape == (2,)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in explainer.mechanism.parameters())


PAPERS = {
    ("vgg16", "l-cam-img"): (["features.29"], 513_000),
    ("resnet50", "l-cam-fm"): (["layer4"], 2_049_000),
    ("vgg16", "tame"): (["features.16", "features.23", "features.30"], 1_874_664),
    ("resnet50", "tame"): (["layer2", "layer3", "layer4"], 9_100_776),
    ("vgg16", "tame-no-skip"): (["features.16", "features.23", "features.30"], 4_290_000),
    ("resnet50", "tame-no-skip-no-norm"): (["layer2", "layer3", "layer4"], 9_093_608),
    ("vit_b_16", "t-tame"): ([f"encoder.layers.encoder_layer_{i}.ln_1" for i in (9, 10, 11)], 4_081_384),
}


@pytest.mark.parametrize(("name", "method"), PAPERS, ids=str)
def test_layers_and_parameters_of_the_papers(name, method):
    layers, parameters = PAPERS[name, method]
    with torch.device("meta"):  # shapes alone
        explainer = lficam.attach(models.get_model(name, weights=None), method)
    assert [layer.name for layer in explainer.layers] == layers
    assert sum(p.numel() for p in explainer.parameters() if p.requires_grad) == parameters


# Weights of others


@pytest.mark.parametrize(
    ("method", "fuse", "place", "prefix"),
    [("l-cam-fm", "op", "attnM.", "module."), ("tame", "fuser", "attn.", ""), ("t-tame", "fuser", "1.", "model.")],
)
def test_the_mechanism_is_taken_out_of_a_whole_model(method, fuse, place, prefix):
    """The authors' checkpoints hold it under their names beside the classifier's weights."""
    trained, fresh = explainer_of(method, small(seed=1)), explainer_of(method, small(seed=1))
    for value in trained.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1)
    theirs = {"fuse": fuse, "convs": "convs", "norms": "bns"}
    state = {f"{prefix}features.{name}": value for name, value in small(seed=1).state_dict().items()}
    for name, value in trained.state_dict().items():
        part, _, rest = name.partition(".")
        state[f"{prefix}{place}{theirs[part]}.{rest}"] = value.clone()
    assert lficam.load_authors(fresh, state) is fresh
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in trained.state_dict().items())
    assert torch.equal(fresh(PIXELS), trained(PIXELS))
    with pytest.raises(InputError, match=r"1 unknown \(attn.extra\)"):
        lficam.load_authors(fresh, state | {"attn.extra": torch.zeros(1)})
    with pytest.raises(InputError, match=r"with 3 classes: 2 of another shape \(fuse.weight, fuse.bias\)"):
        lficam.load_authors(explainer_of(method, small(3)), state)
    with pytest.raises(InputError, match=rf"Cannot load these weights into {method} Small .*missing \("):
        lficam.load_authors(fresh, small().state_dict())


# Several threads, modes, and what is refused


@torch.no_grad()
def test_threads_share_explainers_of_one_classifier():
    network = small()
    explainers = [explainer_of(method, network) for method in ("l-cam-img", "l-cam-fm", "tame", "t-tame")]
    sets = [(explainer, pixels) for explainer in explainers for pixels in PIXELS.split(2)]
    calls = [lambda e=e, x=x: e(x) for e, x in sets] + [lambda e=e, x=x: e(x, 3) for e, x in sets]
    assert in_threads([*calls, lambda: explainers[0].classifier(sets[0][1])], rounds=3)


def test_pixels_are_looked_at_where_they_are_given():
    explainer = lficam.attach(small(), "tame", size=32, mean=0, std=1)  # images that are normalised already: no range
    assert explainer(PIXELS * 5 - 2).isfinite().all()
    with pytest.raises(InputError, match="expected floating-point numbers that are finite, got NaN"):
        explainer(PIXELS * torch.nan)
    explainer = explainer_of("l-cam-fm", labels="batch").train()  # in training a GPU would wait for the look
    explainer.loss(PIXELS * 3, LABELS)
    assert explainer.classifier.answer(PIXELS * 3).shape == (4, 5)


@pytest.mark.parametrize("method", ["l-cam-img", "tame"])
def test_pixels_and_classes_of_any_device_are_taken(method):
    """The device "meta", of shapes alone, refuses tensors of others like any."""
    explainer = explainer_of(method).to("meta")
    for found in (explainer(PIXELS), explainer(PIXELS, [1, 2, 3, 4]), explainer(PIXELS, LABELS)):
        assert (found.device.type, len(found)) == ("meta", 4)
    assert explainer.classifier(PIXELS).is_meta
    for name in ("grad-cam", "layer-cam", "rise"):
        options = {"masks": 3} if name == "rise" else {}
        assert lficam.baseline(explainer.classifier, name, **options)(PIXELS, 2).is_meta
    for name in ("plain", "abn", "lfi-cam"):
        model = lficam.create(name, "resnet-8", 3)
        own = lficam.baseline(model, "own")
        own.classifier.to("meta")
        model.train()
        assert model(PIXELS).logits.is_meta  # in train mode
        assert model.eval()(PIXELS).logits.is_meta
        assert model.explain(PIXELS, 2).is_meta
        assert own(PIXELS, 2).is_meta


@pytest.mark.parametrize(
    "broken", ["mechanism.fuse.weight", "classifier.network.second.0.weight", "classifier.network.fc.bias"]
)
def test_broken_weights_are_told(broken):
    explainer = explainer_of("tame")
    nn.init.constant_(explainer.get_parameter(broken), torch.nan)
    for target in (None, 1) if "fc" not in broken else (None,):  # which is behind the last layer
        with pytest.raises(InputError, match="not finite: the weights are broken"):
            explainer(PIXELS, target)


@pytest.mark.parametrize("method", ["l-cam-fm", "tame"])
def test_what_is_made_in_inference_mode_can_be_used_and_trained(method):
    network = small()
    with torch.inference_mode():
        explainer = explainer_of(method, network)
        maps = explainer(PIXELS)
    assert torch.equal(explainer(PIXELS), maps)
    explainer.train().loss(PIXELS, LABELS)[0]["total"].backward()
    assert all(p.grad is not None for p in explainer.mechanism.parameters())
    network.forward = torch.no_grad()(network.forward)
    with pytest.raises(InputError, match=r"Small computes without gradients .* no explainer of it can be tr"):
        explainer.loss(PIXELS, LABELS)
