"""Scores of explainers on a data set: against a slow loop, and by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import lficam
from lficam import data, faithfulness, features, scoring
from lficam.classifiers import freeze
from lficam.errors import InputError
from lficam.maps import finish


@pytest.fixture(scope="module")
def images():
    return data.load("photo-digits", "test", count=20)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(1)
    return freeze(lficam.create("plain", "resnet-8", 10))


@pytest.fixture(scope="module")
def explainers(classifier):
    torch.manual_seed(2)
    made = {method: lficam.attach(classifier, method) for method in ("tame", "l-cam-img")}
    return made | {method: lficam.baseline(classifier, method) for method in ("grad-cam", "centre")}


def test_equals_a_loop_over_images_and_explainers(explainers, classifier, images):
    table = scoring.score(explainers, images, batch_size=8)
    assert table.explainer.tolist() == [name for name in explainers for _ in range(20)]
    for name, explainer in explainers.items():
        rows = table[table.explainer == name]
        assert rows.image.tolist() == list(images.ids)
        for i in (0, 7, 19):
            pixels, row = images.pixels([i]), rows.iloc[i]
            logits = classifier(pixels)
            target = logits.argmax(1)
            maps = finish(explainer(pixels, target).detach(), 32)
            assert row["class"] == target.item()
            assert row.probability == pytest.approx(logits.softmax(1).max().item(), abs=1e-5)
            for fraction in (1.0, 0.5, 0.15):
                masked = classifier(faithfulness.keep_top(maps, fraction) * pixels).softmax(1)[0, target]
                assert row[f"masked_{100 * fraction:g}"] == pytest.approx(masked.item(), abs=1e-4)


def test_one_clean_pass_is_shared(explainers, classifier, images):
    seen = []
    handle = classifier.network.backbone.stages[0].register_forward_hook(lambda *a: seen.append(len(a[1][0])))
    try:
        scoring.score({name: explainers[name] for name in ("tame", "l-cam-img")}, images, batch_size=20)
    finally:
        handle.remove()
    assert seen == [20, 60, 60]  # clean, and of each explainer the masked images of three fractions at once


def test_the_batch_size_changes_nothing(explainers, images):
    a, b = (scoring.score(explainers, images, batch_size=size) for size in (3, 20))
    assert a[["explainer", "image", "class"]].equals(b[["explainer", "image", "class"]])
    numbers = a.columns.drop(["explainer", "image", "class"])
    np.testing.assert_allclose(a[numbers], b[numbers], atol=1e-4)


def test_without_masks_there_is_no_overlap(explainers, images):
    table = scoring.score(explainers, dataclasses.replace(images, masks=None))
    assert not {"iou", "energy"} & set(table.columns)
    assert set(scoring.summary(table).measure) == {f"{m} {p}" for m in ("AD", "IC") for p in (100, 50, 15)}


def test_explainers_of_two_classifiers_are_refused(explainers, images):
    other = lficam.attach(lficam.create("plain", "resnet-8", 10), "tame")
    with pytest.raises(InputError, match="explainers of one classifier, got 2"):
        scoring.score(explainers | {"other": other}, images)


def test_summary_by_hand():
    table = pd.DataFrame(
        {
            "explainer": ["a", "a", "b", "b"],
            "probability": [0.8, 0.5, 0.8, 0.5],
            "masked_100": [0.4, 0.6, 0.8, 0.5],
            "iou": [0.2, 0.4, 0.0, 1.0],
        }
    )
    rows = scoring.summary(table).set_index(["explainer", "measure"]).reproduced.to_dict()
    assert rows == pytest.approx(
        {("a", "AD 100"): 25, ("a", "IC 100"): 50, ("a", "IoU"): 0.3}
        | {("b", "AD 100"): 0, ("b", "IC 100"): 0, ("b", "IoU"): 0.5}
    )
    wide = scoring.wide(scoring.summary(table))
    assert wide.columns.tolist() == ["explainer", "AD 100", "IC 100", "IoU"]
    assert wide["AD 100"].tolist() == ["25.0 [0.0, 50.0]", "0.0 [0.0, 0.0]"]


class Halves:
    """An explainer that lights up the left half for the first class asked for, the right one for the second."""

    def __init__(self, classifier):
        self.classifier = classifier

    def explain(self, pixels, classes):  # noqa: ARG002
        maps = torch.zeros(*classes.shape, 4, 8)
        maps[:, 0, :, :4] = 1
        maps[:, 1, :, 4:] = 1
        return maps, None


def test_side_by_side(explainers, classifier, images):
    scenes, classes, maps, share = scoring.side_by_side(Halves(classifier), images, 5, right=False)
    assert scenes.shape == (5, 3, 32, 64)
    assert torch.equal(scenes[0, ..., :32], images.pixels([0])[0])
    assert torch.equal(scenes[0, ..., 32:], images.pixels([1])[0])
    assert classes[0].tolist() == images.labels[:2].tolist()
    assert maps.shape == (5, 2, 32, 64)
    assert (share > 0.9).all()
    trained = scoring.side_by_side(explainers["tame"], images, 5, right=False)
    assert trained[2].shape == (5, 2, 32, 64)
    assert ((trained[3] > 0) & (trained[3] < 1)).all()


def test_side_by_side_without_a_scene(classifier, images):
    same = images.subset([0, 10])  # of one class
    with pytest.raises(InputError, match="no two neighbours of different classes"):
        scoring.side_by_side(Halves(classifier), same, right=False)


def test_pooling_layers_are_not_suggested():
    names = [layer.name for layer in features.suggest(freeze(lficam.create("plain", "vgg-8", 10)).layers, 3)]
    assert names == [f"backbone.stages.{i}" for i in range(3)]
