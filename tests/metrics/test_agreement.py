"""Rankings of explainers by metrics and by the mask: against scipy's outputs, and by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from networks import golden_outputs, small
from scipy import stats

import lficam
from lficam.data import datasets
from lficam.errors import InputError
from lficam.explainers import controls
from lficam.explainers.controls import InsideOut
from lficam.explainers.frozen import freeze
from lficam.metrics import agreement, scoring
from lficam.metrics.agreement import kendall


@pytest.fixture(scope="module")
def golden():
    content = golden_outputs("meta_evaluation")
    return content | {name: content[name].numpy() for name in ("truth_explainer_x_image", "bootstrap_image_indices")}


def as_table(columns):
    """Values {column: (E, N)} as a table of scores."""
    explainers, count = next(iter(columns.values())).shape
    parts = [
        pd.DataFrame({"explainer": f"e{e}", "image": range(count), "probability": 0.5})
        .assign(**{name: values[e] for name, values in columns.items()})
        for e in range(explainers)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_tau_is_scipys(golden):
    truth = golden["truth_explainer_x_image"]
    for name, values in golden["metrics"].items():
        wanted, tau = golden["per_metric"][name], kendall(values.numpy().T, truth.T)
        np.testing.assert_allclose(tau, wanted["kendall_b_per_image"], atol=1e-6)
        assert kendall(values.numpy().mean(1), truth.mean(1)) == pytest.approx(wanted["kendall_b_of_means"])
        drawn = golden["bootstrap_image_indices"]
        of_means = kendall(values.numpy()[:, drawn].mean(2).T, truth[:, drawn].mean(2).T)
        found = np.percentile(of_means, [2.5, 50, 97.5])
        np.testing.assert_allclose(found, wanted["bootstrap_kendall_of_means_2.5_50_97.5"], atol=1e-9)
    rng = np.random.default_rng(0)
    for a, b in rng.integers(4, size=(20, 2, 7)):
        assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, nan_ok=True)


def test_agreement_of_a_table(golden):
    """sparsity stands for a metric: higher is better, no other column is needed; of deletion less is better."""
    names = {
        "good": "sparsity",
        "constant_on_image0": "insertion",
        "reversed": "deletion",
    }
    columns = {column: golden["metrics"][name].numpy() for name, column in names.items()}
    table = as_table(columns | {"precision": golden["truth_explainer_x_image"]})
    rows = agreement.agreement(table).set_index(["measure", "ranking"])
    for name, column in names.items():
        wanted, sign = golden["per_metric"][name], -1 if column == "deletion" else 1
        mean = sign * wanted["kendall_b_mean_over_images"]
        assert rows.reproduced[column, "per image"] == pytest.approx(mean, abs=1e-6)
        assert rows.reproduced[column, "of means"] == pytest.approx(sign * wanted["kendall_b_of_means"])
        assert (rows.low <= rows.reproduced).all()
        assert (rows.reproduced <= rows.high).all()
    assert rows.N["insertion", "per image"] == 11
    lost = rows.reproduced["insertion", "per image"] * 11 / 12
    assert rows.reproduced["insertion", "undefined 0"] == pytest.approx(lost)
    assert agreement.agreement(table, measures=["sparsity"]).ranking.tolist() == list(agreement.RANKINGS)
    order = golden["metric_names"]
    between = agreement.between([table, table], measures=list(names.values()))
    means = agreement.between([table], "of means", list(names.values()))
    for a, ours in names.items():
        for b, other in names.items():
            sign = (-1) ** ((ours == "deletion") + (other == "deletion"))
            at = order.index(a), order.index(b)
            wanted = golden["between_metrics_mean_kendall_b_per_image"][at].item()
            assert between.loc[ours, other] == pytest.approx(sign * wanted, abs=1e-6)
            wanted = golden["between_metrics_kendall_b_of_means"][at].item()
            assert means.loc[ours, other] == pytest.approx(sign * wanted)


def test_pairs_by_hand():
    table = as_table(
        {"sparsity": np.array([[1, 1.0], [2, 1], [3, 0]]), "precision": np.array([[0, 0.0], [1, 0], [2, 1]])}
    )
    pairs = agreement.agreement(table).set_index("ranking").loc["pairs"]
    assert pairs.reproduced == pytest.approx(3 / 5)  # 3 of 3; of the second image two pairs, both the other way round
    table["precision"] = 0.0
    assert agreement.agreement(table).empty


def test_fooled_by_hand():
    """Of two images one prefers the worse map and one is a tie; of deletion less is better."""
    table = as_table({"sparsity": np.array([[1, 1.0], [2, 1]]), "deletion": np.array([[1, 1.0], [2, 1]])})
    rows = agreement.fooled(table, {"bad": ("e0", "e1")}).set_index("measure")
    assert rows.reproduced.to_dict() == {"sparsity": 75, "deletion": 25}
    assert rows.pair.tolist() == ["bad"] * 2
    with pytest.raises(InputError, match="Unknown explainer 'centre'"):
        agreement.fooled(table, {"bad": ("e0", "centre")})


class Sees(torch.nn.Module):
    """Class 1 where a pixel in the upper left corner is bright, else class 0."""

    def forward(self, x):
        bright = x[:, 0, 0, 0] - 0.5
        return torch.stack([-bright, bright], 1)


def test_evidence():
    """A classifier that looks at the corner needs the object there, and nothing else."""
    pixels = torch.full((4, 3, 6, 6), 50, dtype=torch.uint8)
    labels, masks = torch.tensor([0, 1, 0, 1]), torch.zeros(4, 6, 6, dtype=torch.bool)
    pixels[labels == 1, :, 0, 0], masks[:, 0, 0] = 250, True
    images = dataclasses.replace(lficam.images(pixels, labels, "ab"), masks=masks)
    classifier = freeze(Sees(), size=6, mean=(0, 0, 0), std=(1, 1, 1))
    rows = agreement.evidence({"sees": classifier}, images).set_index("shown")
    assert rows.reproduced[list(agreement.SHOWN)].tolist() == [100, 100, 50, 50]
    with pytest.raises(InputError, match="no exact masks"):
        agreement.evidence({"sees": classifier}, dataclasses.replace(images, masks=None))


def test_maps_of_known_quality():
    images = datasets.load("photo-digits", "test", count=8)
    classifier = freeze(small(10), size=32)
    exact, ones = controls.ExactMask(classifier, images), lficam.baseline(classifier, "ones")
    pixels = images.pixels(range(8))
    assert torch.equal(exact(pixels), images.masks.float())
    centre = F.interpolate(lficam.baseline(classifier, "centre")(pixels)[:, None], 32)
    assert torch.equal(exact(pixels * centre), images.masks.float())  # masked, they are still the same
    assert torch.equal(exact(pixels * images.masks[:, None]), images.masks.float())
    assert ones(pixels).unique().tolist() == [0, 1]
    assert (ones(pixels) == 0).sum((1, 2)).tolist() == [1] * 8
    grad = lficam.baseline(freeze(small(10, seed=1), size=32), "grad-cam")
    borrowed, target = controls.Borrowed(grad, classifier), torch.arange(8)
    assert torch.equal(borrowed(pixels, target), grad(pixels, target))
    explainers = {"exact": exact, "ones": ones, "inside out": InsideOut(exact), "borrowed": borrowed}
    table = scoring.score(explainers, images, measures=("precision", "masking"))
    found = scoring.summary(table).set_index(["explainer", "measure"]).reproduced
    assert found["exact", "precision"] == 1
    share = images.masks.double().mean((1, 2))
    assert found["ones", "precision"] == pytest.approx(share.mean().item(), rel=0.1)  # as chance
    assert found["inside out", "precision"] == pytest.approx(share.mean().item())  # all of it comes last, at once
    assert found["ones", "AD 100"] < 5
    with pytest.raises(InputError, match="no exact masks"):
        controls.ExactMask(classifier, dataclasses.replace(images, masks=None))
    with pytest.raises(InputError, match="of the size of the masks"):
        exact(pixels[:, :, :16])


def test_a_map_turned_inside_out_is_below():
    """By the mask, and by a metric that sees it: the same images, a bump in the middle and its reverse."""
    images = datasets.load("photo-digits", "test", count=8)
    centre = lficam.baseline(freeze(small(10), size=32), "centre")
    table = scoring.score({"centre": centre, "reverse": InsideOut(centre)}, images, measures=("overlap", "sparsity"))
    energy = agreement.ranked(table, ["energy"])["energy"]
    assert (energy[:, 0] > energy[:, 1]).all()
    pixels = images.pixels(range(2))
    assert (InsideOut(centre)(pixels) == -centre(pixels)).all()


def test_errors():
    table = as_table({"sparsity": np.eye(2), "energy": np.eye(2)})
    assert scoring.summary(table).measure.unique().tolist() == ["energy", "sparsity"]
    with pytest.raises(InputError, match="at least two explainers, scored on the same images"):
        agreement.agreement(table[table.explainer == "e0"])
    with pytest.raises(InputError, match="at least two explainers, scored on the same images"):
        agreement.agreement(table.drop(index=0))
    with pytest.raises(InputError, match="Unknown measure 'IoU'"):
        agreement.agreement(table, "IoU")
    with pytest.raises(InputError, match="Unknown ranking 'pairs'"):
        agreement.between([table], "pairs")
