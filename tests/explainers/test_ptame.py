"""P-TAME: the authors' outputs and training steps, checkpoints, classifiers that are functions, what is refused."""
# ruff: noqa: ARG005 - of two networks a row needs less

import pytest
import torch
from networks import TinyConv, golden_outputs, small, small_vit

import lficam
from lficam import losses
from lficam.errors import InputError
from lficam.explainers.frozen import freeze
from lficam.explainers.learned import LOSS
from lficam.explainers.mechanism import TAME
from lficam.maps import minmax
from lficam.metrics import scoring
from lficam.models import checkpoints
from lficam.training import loop
from lficam.training.recipes import find

LAYERS = ["layer1", "layer2", "layer3"]
RECIPES = {  # weights of cross-entropy, area, variation; border, power
    "class_default": (1.5, 2, 0.01, 0.3, 0.3),
    "tab1_resnet50": (0.16142940055382465, 0.8385705994463174, 0, 0.3, 0.3),
    "tab1_vgg16": (0.07278, 0.977712, 0.0001, 0.3, 0.3),
    "tab1_vit_b_16": (0.13129188542479736, 0.8385705994463174, 0, 0, 0.5),
    "tab2_mobilenetv3": (0.051073698326945305, 0.9454752532765268, 0.003451048396527767, 0, 0.3),
}


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def golden(**options):
    """What the file holds, an explainer with its weights, and the images."""
    content = golden_outputs("ptame_tiny")
    networks = TinyConv(6, 10, 20), TinyConv(8, 12, 16)
    for network, name in zip(networks, ("backbone_state", "aux_state"), strict=True):
        network.load_state_dict(content[name])
    classifier, auxiliary = (freeze(network, size=32) for network in networks)
    explainer = lficam.attach(classifier, "p-tame", LAYERS, auxiliary=auxiliary, **options)
    state = {f"net.attention.{name}": value for name, value in content["attention_state"].items()}
    state["net.attention.attention.layer1.0.weight"] = content["aux_state"]["layer1.0.weight"]
    return content, lficam.load_authors(explainer, state), content["image_uint8"].float() / 255


@torch.no_grad()
def test_explanations_equal_the_authors():
    content, explainer, images = golden()
    wanted, classes = content["eval"], torch.arange(10)
    maps, logits = explainer.maps_and_logits(images, classes)
    close(logits, wanted["logits"])
    close(maps, wanted["class_maps_raw"])
    close(minmax(maps), wanted["class_maps_minmax"])
    close(explainer(images, wanted["targets"]), maps[range(4), wanted["targets"]], 1e-6)
    large = content["measures"]["masks_up"]
    masked = explainer.classifier.answer(images * large)
    close(masked, wanted["logits_masked"])


def test_training_steps_equal_the_authors():
    """Three steps of the recipe tab1_resnet50, by the loop's AdamW and schedule, after the passes of the file."""
    content, _, images = golden()
    wanted = content["train"]
    for name, weights in RECIPES.items():
        masks, logits = wanted["masks"], wanted["logits_masked"]
        terms = losses.explanation_loss(logits, wanted["targets"], masks, *weights)
        terms = [terms["total"], *(terms.get(LOSS[i], 0) / (weights[i] or 1) for i in range(3))]
        torch.testing.assert_close(torch.tensor(terms), wanted["losses"][name], rtol=1e-5, atol=1e-6)

    _, explainer, _ = golden(**dict(zip(LOSS, RECIPES["tab1_resnet50"], strict=True)))
    explainer.train()
    parameters = dict(explainer.mechanism.named_parameters())
    recipe = find("authors", "p-tame", "imagenet", "resnet50", lr=1e-2, weight_decay=0.01, precision="float32")
    adam = loop.optimiser(explainer, recipe)
    for step in range(3):
        loss, cross_entropy, *_, lr, beta = wanted["log_loss_ce_area_variation_lr_beta1"][step].tolist()
        loop.set_rates(adam, *recipe.rates(step, 10))
        assert [(group["lr"], group["betas"][0]) for group in adam.param_groups] == [pytest.approx((lr, beta))] * 2
        terms, _ = loop.train_step(
            explainer, adam, images, torch.zeros(4, dtype=torch.long), recipe
        )  # labels: not used
        assert terms["total"].item() == pytest.approx(loss, rel=1e-5)
        assert terms["cross_entropy"].item() == pytest.approx(
            explainer.settings.cross_entropy * cross_entropy, rel=1e-5
        )
        if step == 0:
            for name, gradient in wanted["grads_step0"].items():
                ours = parameters[name.replace("bns", "norms").replace("fuser", "fuse")].grad
                close(ours, gradient, 1e-4 * gradient.abs().max().item() + 1e-7)
    for name, value in wanted["attention_state_after_3_steps"].items():
        if "running" not in name and "tracked" not in name and not (name.startswith("convs") and name.endswith("bias")):
            close(parameters[name.replace("bns", "norms").replace("fuser", "fuse")].detach(), value, 1e-4)
    assert not any(p.requires_grad or p.grad is not None for p in explainer.auxiliary.parameters())
    assert not any(network.training for network in (explainer.auxiliary, explainer.classifier))


def test_a_function_is_explained_and_scored(tmp_path):
    """Which is called for its scores alone; the checkpoint knows it by its answer."""
    content, explainer, images = golden()
    path = tmp_path / "p-tame.pt"
    checkpoints.save(path, checkpoints.facts(explainer))
    network, auxiliary = explainer.classifier, explainer.auxiliary
    scores = lambda pixels: network.answer(pixels).detach().numpy()  # noqa: E731 - an array, without gradients
    with pytest.raises(InputError, match=r"looks by a TinyConv of your own: give it as well \(auxiliary=\)"):
        lficam.load(path, classifier=scores)
    called = lficam.load(path, classifier=scores, auxiliary=auxiliary)
    torch.testing.assert_close(called(images), explainer(images))
    assert torch.equal(lficam.load(path, classifier=network, auxiliary=auxiliary)(images), explainer(images))
    with pytest.raises(InputError, match="trained on another TinyConv than this one"):
        lficam.load(path, classifier=lambda pixels: -scores(pixels), auxiliary=auxiliary)
    with pytest.raises(InputError, match="trained on another TinyConv than this one"):
        lficam.load(path, classifier=network, auxiliary=TinyConv(8, 12, 16))
    own = lficam.images(images, content["eval"]["targets"], [*"abcdefghij"])
    explainers = {"p-tame": called, "rise": lficam.baseline(called.classifier, "rise", masks=4)}
    table = scoring.score(explainers, own, measures=("masking",))
    wanted = scoring.score({"p-tame": explainer}, own, measures=("masking",))
    same = table[table.explainer == "p-tame"].probability
    assert same.to_numpy() == pytest.approx(wanted.probability.to_numpy(), abs=1e-6)
    called.train()
    with pytest.raises(InputError, match="Function computes without gradients"):
        called.loss(images, content["eval"]["targets"])
    with pytest.raises(InputError, match="no layer with feature maps: use rise"):
        lficam.baseline(called.classifier, "grad-cam")


def test_t_tame_by_an_auxiliary_classifier():
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    explainer = lficam.attach(freeze(small(), size=32), "t-tame", auxiliary=freeze(small_vit(), size=32))
    assert explainer(pixels).shape == (2, 4, 4)
    assert [layer.name.rpartition(".")[2] for layer in explainer.layers] == ["ln_1"] * 3


def make(classifier, auxiliary, size=32, method="p-tame", **options):
    return lficam.attach(classifier, method, auxiliary=auxiliary, **options)(torch.rand(1, 3, size, size))


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda net, other: make(net, other, method="l-cam-fm"), "l-cam-fm masks feature maps of the classifier expl"),
        (lambda net, other: make(net, freeze(small(), size=48)), r"images of 48 x 48, .* 32 x 32: freeze it with"),
        (lambda net, other: make(net, "resnet0"), "Unknown classifier 'resnet0'"),
        (lambda net, other: make(net, small_vit), "small_vit fails with pixels .2, 3, 32, 32."),
        (lambda net, other: make(net, other, 36), "5 x 5 never become 18 x 18"),
        (lambda net, other: make(lambda x: x[:, 0], other), r"Function returns \(2, 224, 224\)"),
        (lambda net, other: make(freeze(nan, size=32), other), "not finite"),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(attempt, says):
    with pytest.raises(InputError, match=says):
        attempt(freeze(small(), size=32), freeze(small(seed=1), size=32))


def nan(pixels):
    return torch.full((len(pixels), 5), torch.nan)


def test_what_it_adds():
    """The authors' numbers of parameters, of 1,000 classes, for layers of resnet18 and resnet50."""
    for channels, wanted in (([64, 128, 256, 512], 1_311_040), ([512, 1024, 2048], 9_099_776)):
        assert sum(p.numel() for p in TAME(channels, 1000, "p-tame").parameters()) == wanted
