"""Metrics by hand on small images."""

import pandas as pd
import pytest
import torch

from lficam.errors import InputError
from lficam.losses import correct
from lficam.metrics.evaluation import one_class
from lficam.metrics.localisation import (
    average_precision,
    energy_in_mask,
    intersection_over_union,
    mask_correlation,
    pointing_game,
    rank_correlation,
    sparsity,
)

MAP = torch.tensor([[[0.0, 0.5], [1.0, 0.5]]])
MASK = torch.tensor([[[False, True], [True, False]]])


def test_correct():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    labels = torch.tensor([0, 1, 0, 2])
    assert correct(logits, labels).tolist() == [True, False, True, False]  # the first of equals is the larger one
    assert correct(logits, labels, k=2).tolist() == [True, True, True, True]
    assert correct(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0])).tolist() == [False]


def test_one_class():
    labels = torch.tensor([0, 1, 1])
    told = one_class(torch.tensor([1, 1, 1]), labels, ("cat", "dog"))
    assert told.startswith("WARNING: all 3 images are predicted as one class, 'dog', though their labels are of 2. The")
    assert "one class, number 7, though" in one_class(torch.tensor([7, 7, 7]), labels, ("cat", "dog"))
    for predicted, known in (([1, 0, 1], labels), ([1, 1, 1], labels[1:]), ([], labels)):
        assert one_class(torch.tensor(predicted), known) == ""


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_correct_is_whether_the_predicted_class_is_the_label(kind):
    """In bfloat16 one in thirty of these images has two largest logits."""
    logits = torch.randn(500, 1000, generator=torch.Generator().manual_seed(0)).to(kind)
    labels = logits.argmax(1)
    assert correct(logits, labels).all()
    assert correct(logits, labels.roll(1)).equal(labels == labels.roll(1))
    ranks = logits.sort(dim=1, descending=True, stable=True).indices
    assert correct(logits, ranks[:, 4], k=5).all()
    assert not correct(logits, ranks[:, 5], k=5).any()


def test_iou():
    assert intersection_over_union(MAP, MASK).item() == pytest.approx(2 / 3)  # 3 pixels above, 2 of them in the mask
    assert intersection_over_union(MAP, MASK, threshold=0.5).item() == pytest.approx(1 / 2)  # strictly above
    assert intersection_over_union(MAP * 0, MASK & False).item() == 1


def test_energy():
    assert energy_in_mask(MAP, MASK).item() == pytest.approx(1.5 / 2)
    assert energy_in_mask(MAP * 0, MASK).item() == 0


def test_average_precision():
    """By hand, ties together; by its definition on random maps; the same for any map in the same order."""
    maps, masks = torch.tensor([[[4.0, 3], [2, 1]]]), torch.tensor([[[True, False], [True, False]]])
    assert average_precision(maps, masks).item() == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(maps * 0, masks).item() == pytest.approx(2 / 4)  # all at once: the share of the mask
    assert average_precision(maps, ~(masks | ~masks)).item() == 0
    torch.manual_seed(0)
    maps, masks = torch.randint(5, (20, 6, 5)).double(), torch.rand(20, 6, 5) < 0.3
    for own, mask, found in zip(maps, masks, average_precision(maps, masks), strict=True):
        shares = [mask[own >= value].double().mean() for value in own[mask]]
        assert found.item() == pytest.approx(torch.stack(shares).mean().item())
    assert torch.equal(average_precision(maps.exp() - 7, masks), average_precision(maps, masks))


def test_mask_correlation():
    assert mask_correlation(MAP, MASK).item() == pytest.approx(0.5 / 0.5**0.5)  # MAP's deviations -.5, 0, .5, 0
    assert mask_correlation(1 - MAP, MASK).item() == pytest.approx(-(0.5**0.5))  # turned inside out
    level = torch.full((3, 5, 5), 0.1, dtype=torch.float64)  # whose mean is rounded
    half = torch.rand(3, 5, 5) > 0.5
    for values, mask in ((level, half), (torch.rand(3, 5, 5), half | True)):
        assert mask_correlation(values, mask).tolist() == [0] * 3


def test_pointing_game():
    assert pointing_game(MAP, MASK).tolist() == [True]
    assert pointing_game(MAP, ~MASK).tolist() == [False]
    level = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])  # the first maximum counts
    assert pointing_game(level, torch.tensor([[[False, True], [False, False]]])).tolist() == [True]
    assert pointing_game(level, torch.tensor([[[True, False], [True, True]]])).tolist() == [False]


def test_sparsity():
    point = torch.zeros(1, 4, 5)
    point[0, 2, 3] = 0.3
    assert sparsity(point).item() == pytest.approx(1 - 1 / 20)
    assert sparsity(MAP).item() == pytest.approx(3 / 8)  # (-3*0 - 0.5 + 0.5 + 3*1) / (4 * 2)
    assert sparsity(7 * MAP).item() == pytest.approx(3 / 8)
    assert sparsity(-MAP).item() == pytest.approx(3 / 8)
    assert sparsity(torch.stack([MAP[0] * 0, MAP[0] * 0 + 0.1])).tolist() == [0, 0]


def test_sparsity_is_half_the_mean_difference():
    maps = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(0)).double()
    values = maps.flatten(1)
    expected = (values[:, :, None] - values[:, None]).abs().mean((1, 2)) / (2 * values.mean(1))
    torch.testing.assert_close(sparsity(maps), expected)


def test_rank_correlation():
    a, b = torch.randint(0, 9, (2, 4, 6, 7), generator=torch.Generator().manual_seed(0)).float()  # with ties
    expected = [pd.Series(x).rank().corr(pd.Series(y).rank()) for x, y in zip(a.flatten(1), b.flatten(1), strict=True)]
    assert rank_correlation(a, b).tolist() == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(a, a.exp()).tolist() == pytest.approx([1] * 4)  # only the order counts
    assert rank_correlation(a, -a).tolist() == pytest.approx([-1] * 4)
    assert rank_correlation(a, torch.ones_like(a)).tolist() == [0] * 4
    assert rank_correlation(a[:1, :1, :2] * 0 + torch.tensor([0.0, 1.0]), torch.tensor([[[3.0, 4.0]]])).item() == 1


@pytest.mark.parametrize(
    "metric",
    [intersection_over_union, average_precision, energy_in_mask, mask_correlation, pointing_game, rank_correlation],
)
def test_maps_that_do_not_fit_are_refused(metric):
    with pytest.raises(InputError, match="upsample the maps first"):
        metric(MAP[:, :1], MASK)
    with pytest.raises(InputError, match="NaN or infinity in 1 of 2, the first is that of position 1"):
        metric(torch.stack([MAP[0], MAP[0] / 0]), MASK.repeat(2, 1, 1))
