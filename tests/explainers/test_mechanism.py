"""Attention mechanisms alone: golden outputs of the authors' code, and the same maps computed the long way round."""

import pytest
import torch
import torch.nn.functional as F
from networks import all_classes, golden_outputs
from torch import nn

from lficam.explainers.features import Layer
from lficam.explainers.mechanism import LCAM, TAME, class_maps
from lficam.losses import explanation_loss, mask_area, mask_variation
from lficam.maps import upsample
from lficam.models.authors import explainer_state
from lficam.models.checkpoints import load_state

# branch: whether it has a norm, whether it adds its features, its activation
BRANCHES = {
    "tame": (True, True, torch.relu),
    "no-skip": (True, False, torch.relu),
    "no-skip-no-norm": (False, False, torch.relu),
    "sigmoid": (True, True, torch.sigmoid),
}
SMALL = {"TAME": "tame", "NoskipNobatchnorm": "no-skip-no-norm", "Noskipconnection": "no-skip"}


def close(found, expected, atol=1e-4):
    torch.testing.assert_close(found, torch.as_tensor(expected).to(found.dtype), rtol=0, atol=atol)


def random_tame(branch, dtype=torch.float64, channels=(4, 6, 5), classes=7):
    """A TAME with random weights and statistics, and two images' features of 8 x 8, 4 x 4 and 3 x 3 places."""
    torch.manual_seed(0)
    mechanism = TAME(list(channels), classes, branch).to(dtype)
    for part in mechanism.norms:
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2)
    features = [torch.randn(2, c, side, side, dtype=dtype) for c, side in zip(channels, (8, 4, 3), strict=False)]
    return mechanism, features


def naive(mechanism, features, branch):
    """TAME as its paper draws it: every branch upsampled, all concatenated, one convolution to all K classes."""
    normed, skip, activation = BRANCHES[branch]
    branches = []
    for maps, conv, norm in zip(features, mechanism.convs, mechanism.norms, strict=True):
        z = norm(conv(maps)) if normed else conv(maps)
        z = activation(z + maps if skip else z)
        branches.append(F.interpolate(z, features[0].shape[2:], mode="bilinear", align_corners=False))
    return mechanism.fuse(torch.cat(branches, 1))


# The authors' code


def test_l_cam_at_the_width_of_vgg():
    reference = golden_outputs("lcam_attention")
    mechanism = LCAM([512], 1000)
    mechanism.load_state_dict(explainer_state(reference["attn_state"]))
    with torch.no_grad():
        maps = mechanism([reference["fm"]], torch.tensor(reference["classes"]))
    close(maps, reference["c"])
    own = torch.sigmoid(mechanism([reference["fm"]], reference["labels"][:1, None]))
    close(own, reference["own"][:1])
    close(upsample(own[:, 0].detach(), 224)[0, ::7, ::7], reference["a2_up224"])
    masks = torch.sigmoid(mechanism([reference["fm"]], reference["labels"]))  # of all labels of the batch
    close(masks, reference["masks"][:1])


def test_the_loss_and_its_terms():
    reference = golden_outputs("lcam_attention")
    terms = explanation_loss(reference["logits"], reference["labels"], reference["masks"])
    assert list(terms) == ["total", "cross_entropy", "area", "variation"]
    assert [x.item() for x in terms.values()] == pytest.approx(reference["losses"], rel=1e-4)
    assert mask_area(reference["masks"]).item() == pytest.approx(reference["area_raw"], rel=1e-4)
    assert mask_variation(reference["masks"]).item() == pytest.approx(reference["variation_raw"], rel=1e-4)
    assert mask_area(reference["own"]).item() == pytest.approx(reference["area_own"], rel=1e-4)
    assert mask_variation(reference["own"]).item() == pytest.approx(reference["variation_own"], rel=1e-4)


def small_tame(version):
    """The mechanism of a golden version with its weights, what goes in and out, and the classes with weights."""
    reference = golden_outputs("tame_small")
    expected = reference["versions"][version]
    mechanism = TAME([32, 48, 64], 1000, SMALL[version])
    load_state(mechanism, explainer_state(all_classes(expected["state"], reference["classes"])), version)
    count = len(expected["features"][0])  # of the version without norm only one image is stored
    return mechanism, expected, reference["labels"][:count], torch.tensor(reference["classes"])


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("version", SMALL)
def test_tame_and_its_ablations(version, mode):
    mechanism, expected, labels, classes = small_tame(version)
    mechanism.train(mode == "train")  # batch statistics
    with torch.no_grad():
        maps = mechanism(expected["features"], classes)
        own = mechanism(expected["features"], labels[:, None])[:, 0]
    close(own, expected[f"{mode}_c_own"])
    if mode == "eval":
        close(maps[:, :10, ::3, ::3], expected["eval_c"])
    if version != "NoskipNobatchnorm":
        close(maps.double().sum((0, 2, 3)), expected[f"{mode}_c_sum"], atol=1e-2)


@pytest.mark.parametrize("version", ["TAME", "Noskipconnection"])
def test_training_forward_of_tame(version):
    mechanism, expected, labels, _ = small_tame(version)
    masks = torch.sigmoid(mechanism(expected["features"], labels)).detach()
    close(masks, expected["train_masks"])
    terms = explanation_loss(expected["logits"], labels, masks)
    assert [x.item() for x in terms.values()] == pytest.approx(expected["losses"], rel=1e-4)
    statistics = explainer_state(expected["norm_after_1_forward"])
    assert len(statistics) == 6
    for name, value in statistics.items():
        close(mechanism.state_dict()[name], value, atol=1e-5)


@pytest.mark.parametrize(("version", "class_token"), [("TAME", "drop"), ("TTAME", "multiply")])
def test_tokens_become_maps_as_in_t_tame(version, class_token):
    reference = golden_outputs("ttame")["vit"]
    layer = Layer("ln_1", "tokens", 32, 14, 14, extra=1)
    features = [layer.maps(tokens, class_token == "multiply") for tokens in reference["seqs"]]
    close(features[0][:, ::4], reference[version]["pre"], atol=1e-6)
    mechanism = TAME([32, 32, 32], 1000)
    load_state(mechanism, explainer_state(all_classes(reference["state"], reference["classes"])), version)
    with torch.no_grad():
        maps = mechanism.eval()(features, torch.tensor(reference["classes"]))
    close(maps[:, :2], reference[version]["c"])
    close(maps.double().sum((0, 2, 3)), reference[version]["c_sum"], atol=1e-2)


# The long way round


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("branch", BRANCHES)
def test_fusing_before_upsampling_changes_nothing(branch, mode):
    mechanism, features = random_tame(branch)
    mechanism.train(mode == "train")
    for maps in features:
        maps.requires_grad_()
    results = []
    for function in (lambda: mechanism(features, torch.arange(7)), lambda: naive(mechanism, features, branch)):
        maps = function()
        inputs = [*mechanism.parameters(), *features]
        gradients = torch.autograd.grad((maps.sigmoid() * torch.arange(7)[:, None, None]).square().sum(), inputs)
        results.append((maps, *gradients))
    assert results[0][0].shape == (2, 7, 8, 8)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("branch", ["", *BRANCHES])
def test_maps_of_some_classes_are_those_maps_of_all(branch):
    mechanism, features = random_tame(branch or "tame")
    if not branch:
        mechanism = LCAM([4], 7).double()
    mechanism.eval()
    every = mechanism(features, torch.arange(7))
    some = torch.tensor([6, 2, 2])
    torch.testing.assert_close(mechanism(features, some), every[:, some], rtol=0, atol=1e-13)
    each = torch.tensor([[3, 3], [0, 6]])  # other classes for each image, one of them twice
    expected = torch.stack([every[i, each[i]] for i in range(2)])
    torch.testing.assert_close(mechanism(features, each), expected, rtol=0, atol=1e-13)


def test_class_maps_by_hand():
    weight = torch.tensor([[1.0, 0.0], [2.0, -1.0]])[:, :, None, None]
    maps = torch.tensor([[[[1.0, 2.0]], [[10.0, 20.0]]]])  # one image, two channels, 1 x 2 places
    assert class_maps(weight, maps, torch.tensor([1, 0])).tolist() == [[[[-8.0, -16.0]], [[1.0, 2.0]]]]


def test_the_first_layer_sets_the_resolution_up_to_56():
    mechanism = TAME([2, 3], 4).eval()
    for side, expected in ((8, 8), (56, 56), (64, 56)):
        features = [torch.rand(1, 2, side, side), torch.rand(1, 3, 5, 5)]
        assert mechanism(features, torch.tensor([0])).shape == (1, 1, expected, expected)


# Losses


def test_area_and_variation_by_hand():
    """One image, one mask [[1, 2], [3, 4]] / 10."""
    masks = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]], dtype=torch.float64)
    powers = [(value + 0.0005) ** 0.3 for value in (0.1, 0.2, 0.3, 0.4)]
    assert mask_area(masks).item() == pytest.approx(sum(powers) / 4, rel=1e-12)
    # Downwards 0.2, 0.2; to the right 0.1, 0.1. Every pixel is a corner, which lies on two edges.
    differences = 2 * 0.04 + 2 * 0.01
    edges = 2 * (0.01 + 0.04 + 0.09 + 0.16)
    assert mask_variation(masks).item() == pytest.approx((differences + 0.3 * edges) / 2, rel=1e-12)


def test_variation_is_a_sum_over_the_masks_and_a_mean_over_the_images():
    masks = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    each = sum(mask_variation(masks[i : i + 1, j : j + 1]) for i in range(2) for j in range(3))
    torch.testing.assert_close(mask_variation(masks), each / 2)
    torch.testing.assert_close(mask_area(masks), sum(mask_area(masks[i : i + 1]) for i in range(2)) / 2)


def test_weights_multiply_the_terms_and_zero_leaves_one_out():
    logits, labels, masks = torch.randn(2, 3), torch.tensor([0, 2]), torch.rand(2, 2, 4, 4)
    weights = {"cross_entropy": 3.0, "area": 5.0, "variation": 7.0}
    terms = explanation_loss(logits, labels, masks, **weights)
    torch.testing.assert_close(terms["cross_entropy"], 3 * F.cross_entropy(logits, labels))
    torch.testing.assert_close(terms["area"], 5 * mask_area(masks))
    torch.testing.assert_close(terms["variation"], 7 * mask_variation(masks))
    torch.testing.assert_close(terms["total"], sum(terms[name] for name in weights))
    for name in weights:
        fewer = explanation_loss(logits, labels, masks, **weights | {name: 0})
        assert set(fewer) == set(terms) - {name}
        torch.testing.assert_close(fewer["total"], terms["total"] - terms[name])
