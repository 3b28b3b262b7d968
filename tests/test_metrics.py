"""Metrics by hand on small images."""

import pytest
import torch

from lficam.errors import InputError
from lficam.metrics import correct, energy_in_mask, intersection_over_union

MAP = torch.tensor([[[0.0, 0.5], [1.0, 0.5]]])
MASK = torch.tensor([[[False, True], [True, False]]])


def test_correct():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 0.0]])
    labels = torch.tensor([0, 1, 0])
    assert correct(logits, labels).tolist() == [True, False, False]  # the tie counts against the label
    assert correct(logits, labels, k=2).tolist() == [True, True, True]
    assert correct(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0])).tolist() == [False]


def test_iou():
    assert intersection_over_union(MAP, MASK).item() == pytest.approx(2 / 3)  # 3 pixels above, 2 of them in the mask
    assert intersection_over_union(MAP, MASK, threshold=0.5).item() == pytest.approx(1 / 2)  # strictly above
    assert intersection_over_union(MAP * 0, MASK & False).item() == 1


def test_energy():
    assert energy_in_mask(MAP, MASK).item() == pytest.approx(1.5 / 2)
    assert energy_in_mask(MAP * 0, MASK).item() == 0


@pytest.mark.parametrize("metric", [intersection_over_union, energy_in_mask])
def test_maps_of_another_size_are_refused(metric):
    with pytest.raises(InputError, match="upsample the maps first"):
        metric(MAP[:, :1], MASK)
