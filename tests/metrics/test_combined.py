"""Coherency, complexity, ADCC, ARCC, single deletion: against their authors' code, by hand, as columns of scores."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from networks import TinyConv, golden_outputs

import lficam
from lficam.errors import InputError
from lficam.explainers.frozen import freeze
from lficam.maps import normalise_and_upsample
from lficam.metrics import combined, faithfulness, localisation, scoring, single_deletion
from lficam.metrics.combined import COMBINATIONS, Combination, join

MEASURES = ("adcc", "adcc-normalised", "arcc", "single-deletion")


def tiny(state):
    network = TinyConv(8, 12, 16)
    network.load_state_dict(state)
    return freeze(network, size=32)


@pytest.fixture(scope="module")
def golden():
    return golden_outputs("adcc_arcc")


@pytest.fixture(scope="module")
def own(golden):
    """The images of the golden file and Grad-CAM of its classifier, which the authors' metrics were run with."""
    content = golden["adcc_tiny"]
    images = lficam.images(content["image_uint8"], torch.zeros(4, dtype=torch.long), classes=tuple("0123456789"))
    return images, {"grad-cam": lficam.baseline(tiny(content["state"]), "grad-cam", "layer3")}


@pytest.fixture(scope="module")
def table(own):
    images, explainers = own
    return scoring.score(explainers | {"centre": lficam.baseline(None, "centre")}, images, measures=MEASURES)


def test_columns_are_the_authors(golden, table):
    """Image 2's Grad-CAM of the masked image is 0 everywhere: no coherency."""
    wanted, part = golden["adcc_tiny"], table[table.explainer == "grad-cam"]
    drop, coherency, complexity, adcc = wanted["per_image_ad_coherency_complexity_adcc"].numpy().T
    assert part.undefined_normalised.tolist() == [0, 0, 1, 0]
    found = scoring.values_of(part)
    np.testing.assert_allclose(part["class"], wanted["class_idx"])
    np.testing.assert_allclose(found["AD normalised"], 100 * drop, atol=1e-3)
    np.testing.assert_allclose(part.complexity, complexity, atol=1e-5)
    np.testing.assert_allclose(part.coherency_normalised, np.nan_to_num(coherency), atol=1e-5)
    np.testing.assert_allclose(found["ADCC normalised"], np.nan_to_num(adcc), atol=1e-5)


def test_coherency_and_complexity_of_the_authors(golden):
    for name, pair in golden["coherency_pairs"].items():
        a, b = pair["a"][None], pair["b"][None]
        assert localisation.complexity(a).item() == pytest.approx(pair["complexity_a"], abs=1e-6)
        if name == "nan_b":
            with pytest.raises(InputError, match="Maps: NaN or infinity in 1 of 1"):
                localisation.coherency(a, b)
            continue
        assert localisation.coherency(a, b).item() == pytest.approx(pair["adcc_repo"], abs=1e-6, nan_ok=True)


def test_arcc_of_the_authors(golden):
    """ROAD as pytorch-grad-cam cuts it, by percentiles, with our imputation; then its joined scores.

    Of image 2, whose map is 0 at most places, it removes every pixel: nothing is left to fill from.
    """
    wanted, own = golden["arcc_grad_cam_1.5.7"], golden["adcc_tiny"]
    result, some, classifier = wanted["results"]["noise0_softmax"], [0, 1, 3], tiny(own["state"])
    pixels, maps = own["image_uint8"][some] / 255, wanted["maps"][some]
    logits = classifier(pixels)

    def left(order, q):
        cut = torch.tensor(np.percentile(order.flatten(1).numpy(), q, axis=1), dtype=torch.float32)
        filled = faithfulness.road_impute(pixels, order >= cut[:, None, None], noise=0)
        return faithfulness.class_scores(classifier.answer(filled), logits.argmax(1))

    gaps = [left(1 - maps, q) - left(maps, q) for q in (20, 40, 60, 80)]
    road = torch.stack(gaps).mean(0) / 2
    torch.testing.assert_close(road.double(), result["road_combined"][some], atol=1e-5, rtol=0)
    terms = np.stack([result["coherency"], 1 - result["complexity"], (2 * result["road_combined"]).clip(0, 1)])
    np.testing.assert_allclose(join(terms), result["arcc"], atol=1e-6)
    np.testing.assert_allclose(join(terms, "geometric"), wanted["geometric_mean_for_comparison"], atol=1e-6)


def test_columns_are_those_of_a_loop(own, table):
    """Black where nothing is kept, probabilities, our own cut of ROAD: image by image."""
    images, explainers = own
    explainer = explainers["grad-cam"]
    classifier, part = explainer.classifier, table[table.explainer == "grad-cam"].reset_index()
    for i in range(4):
        pixels = images.pixels([i])
        target, raw = classifier(pixels).argmax(1), explainer(pixels)
        maps = normalise_and_upsample(raw, 32)
        again = normalise_and_upsample(explainer(maps[:, None] * pixels, target), 32)
        found = localisation.coherency(maps, again).nan_to_num(0)
        assert part.coherency[i] == pytest.approx(found.item(), abs=1e-4)
        turns, grain = faithfulness.perturbation_steps(maps, 10), 0
        kept = [
            faithfulness.class_scores(classifier.answer(faithfulness.road_impute(pixels, gone, grain)), target)
            for level in (2, 4, 6, 8)
            for gone in (turns > 10 - level, turns <= level)
        ]
        road = sum(kept[::2]) - sum(kept[1::2])
        assert part.road[i] == pytest.approx(road.item() / 8, abs=0.01)  # the noise is 0.01
    centre = table[table.explainer == "centre"]
    assert centre.coherency.tolist() == pytest.approx([1] * 4)
    assert not centre.undefined.any()


def test_joined_scores_by_hand():
    assert join([[0.5, 0.0, 1.0, np.nan], [0.5, 1, 1, 1], [0.25, 1, 1, 0]]).tolist() == pytest.approx(
        [0.375, 0, 1, np.nan], nan_ok=True
    )
    assert join([[0.5], [0.5], [0.25]], "geometric").item() == pytest.approx(0.0625 ** (1 / 3))
    columns = {"probability": [0.8, 0.5], "masked_100": [0.4, 0.5], "complexity": [0.5, 0.25]}
    columns |= {"coherency": [0.5, 0.0], "undefined": [0, 1], "road": [0.125, 2.0]}
    table = pd.DataFrame({"explainer": "a"} | columns)
    rows = combined.combinations(table).set_index("convention")
    half = 3 / (1 / 0.5 + 1 / 0.75 + 1)
    wanted = {"ADCC": 0.25, "ADCC defined": 0.5, "ADCC half": (0.5 + half) / 2, "ARCC": 0.375 / 2}
    wanted |= {"ADCC of means": 3 / (1 / 0.25 + 1 / 0.625 + 1 / 0.75), "ARCC geometric": 0.0625 ** (1 / 3) / 2}
    assert rows.reproduced.to_dict() == pytest.approx(wanted)
    assert rows.N.tolist() == [2, 1, 2, 2, 2, 2]
    assert set(rows.undefined) == {1}
    assert (rows.low <= rows.reproduced).all()
    assert (rows.reproduced <= rows.high).all()
    summary = scoring.summary(table).set_index("measure")
    assert summary.reproduced[["coherency", "complexity", "ADCC", "ADCC defined", "ARCC"]].tolist() == pytest.approx(
        [0.25, 0.375, 0.25, 0.5, 0.1875]
    )
    assert summary.N["ADCC defined"] == 1
    both = pd.concat([table.assign(explainer=name, image=["x", "y"]) for name in ("a", "centre")])
    assert scoring.compare(both, "ADCC defined").N.tolist() == [1]
    with pytest.raises(InputError, match="no image for which it is defined of a and centre"):
        scoring.compare(both[both.image == "y"], "ADCC defined")
    with pytest.raises(InputError, match="These scores hold no coherency: score with measures="):
        combined.combinations(table, {"normalised": COMBINATIONS["ADCC normalised"]})
    with pytest.raises(InputError, match="Unknown undefined 'nan'"):
        Combination("", undefined="nan")


def test_drops_and_gains_of_the_authors(golden):
    pairs = golden["ad_ag_ai_arrays"]
    torch.testing.assert_close(faithfulness.average_drop(pairs["p"], pairs["o"]).float(), 100 * pairs["ad_each"])
    torch.testing.assert_close(faithfulness.average_gain(pairs["p"], pairs["o"]).float(), 100 * pairs["ag_each"])


def test_single_deletion_of_the_authors():
    content = golden_outputs("idsds")
    classifier, pixels, labels = tiny(content["state"]), content["image_uint8"] / 255, content["labels"]
    mean, clean = classifier.normalise.mean.flatten(), classifier(pixels)
    drops = []
    for cell in range(16):
        altered = classifier.answer(single_deletion.without_cell(pixels, cell, mean))
        drops.append(faithfulness.class_scores(clean, labels, "logit"))
        drops[-1] -= faithfulness.class_scores(altered, labels, "logit")
    drops = torch.stack(drops, 1)
    torch.testing.assert_close(drops, content["output_drop_per_cell"], atol=1e-5, rtol=0)
    for name, result in content["results"].items():
        found = single_deletion.agreement(result["attribution"][:, 0], drops)
        torch.testing.assert_close(found, result["spearman_per_image"], atol=1e-6, rtol=0, equal_nan=True)
        assert found.nanmean().item() == pytest.approx(result["score"], abs=1e-6), name


def test_single_deletion_is_a_column(own, table):
    images, explainers = own
    pixels, classifier = images.pixels(range(4)), explainers["grad-cam"].classifier
    classes, mean = classifier(pixels).argmax(1), classifier.normalise.mean.flatten()
    said = [classifier.answer(single_deletion.without_cell(pixels, cell, mean)) for cell in range(16)]
    drops = torch.stack([(classifier(pixels) - one).gather(1, classes[:, None])[:, 0] for one in said], 1)
    maps = torch.nn.functional.interpolate(explainers["grad-cam"](pixels)[:, None], (32, 32), mode="bilinear")[:, 0]
    part = table[table.explainer == "grad-cam"]
    np.testing.assert_allclose(part.single_deletion, single_deletion.agreement(maps, drops), atol=1e-6)
    rows = scoring.summary(table).set_index(["explainer", "measure"])
    assert rows.N["grad-cam", "single deletion"] == rows.N["grad-cam", "single deletion defined"] == 4
    with pytest.raises(InputError, match=r"drops: expected one a cell, \(4, 16\), got \(4, 9\)"):
        single_deletion.agreement(maps, drops[:, :9])


def test_a_constant_map_is_counted(own):
    images, explainers = own

    class Ones:
        classifier = explainers["grad-cam"].classifier

        def __call__(self, pixels, target=None):  # noqa: ARG002
            return torch.ones(len(pixels), 4, 4)

    rows = scoring.summary(scoring.score({"ones": Ones()}, images, measures=MEASURES)).set_index("measure")
    assert rows.reproduced[["ADCC", "ARCC", "coherency", "complexity", "single deletion"]].tolist() == [0] * 5
    assert not {"ADCC defined", "single deletion defined"} & set(rows.index)
    assert dataclasses.asdict(COMBINATIONS["ADCC"])["undefined"] == "zero"


def test_in_domain():
    """Every other image lacks one cell, another in each epoch, augmented or not."""
    images = lficam.images(torch.full((200, 3, 8, 8), 200, dtype=torch.uint8), torch.zeros(200, dtype=torch.long), "ab")
    images = dataclasses.replace(images, mean=(0.25, 0.5, 1))
    found = single_deletion.in_domain(images)
    assert found.digest != images.digest
    for augment in (False, True):
        first, again, other = (found.pixels(range(200), augment=augment, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        whole = images.pixels(range(200), augment=augment, seed=1)
        gone = (first != whole).any(1)
        assert 70 < gone.any(2).any(1).sum() < 130
    cells = torch.nn.functional.avg_pool2d(gone.double()[:, None], 2).flatten(1)
    assert set(cells.sum(1).tolist()) == {0, 1}
    assert (cells.sum(0) > 0).all()
