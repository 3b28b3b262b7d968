"""The figure of all seeds: which numbers it takes, by hand."""

import json

import pytest

from lficam.lab.report import figures, values
from lficam.lab.report.page import write_index
from lficam.lab.report.publish import publish
from lficam.lab.report.values import Cell, Values
from lficam.metrics import seeds


def numbers(notebook, table, rows, column="reproduced"):
    found = Values("toy", runs={notebook: {1: {}, 2: {}}})
    found.cells = {Cell(notebook, table, row, column): dict(enumerate(runs, 1)) for row, runs in rows.items()}
    return found


def test_the_centre_of_the_same_classifier_is_the_line():
    rows = {"d | r | tame | AD 100": (10, 14), "d | r | centre | AD 100": (50, 54), "d | v | tame | AD 100": (20, 22)}
    found = figures._rows(numbers("05_ad_ic", "scores", rows), "05_ad_ic", figures.PANELS["05_ad_ic"][0])
    assert {key: (row.values, row.control) for key, row in found.items()} == {
        ("r", "tame"): ([10, 14], 52),
        ("r", "centre"): ([50, 54], 52),
        ("v", "tame"): ([20, 22], None),
    }
    assert found["r", "tame"].interval == pytest.approx((12, *seeds.interval([10, 14])))
    drops = numbers("01_train_lficam", "faithfulness", {"abn | own": (1, 2), "abn | centre": (5, 5)}, "AD 50")
    (row,) = figures._rows(drops, "01_train_lficam", figures.PANELS["01_train_lficam"][2]).items()
    assert (row[0], row[1].control) == (("", "abn"), 5)


def test_models_are_points_and_the_mean_is_over_seeds():
    rows = {"d | abn | 1": (60, 70), "d | abn | 2": (62, 80), "d | lfi-cam | 1": (50,)}
    found = numbers("02_abn_stability", "accuracy", rows)
    (row,) = figures._rows(found, "02_abn_stability", figures.PANELS["02_abn_stability"][0]).values()
    assert row.values == [60, 70, 62, 80]
    assert row.interval == pytest.approx((68, *seeds.interval([61, 75])))
    assert "A point is a model of a run, of 2" in figures.over_seeds(found, "02_abn_stability")[1]


def test_what_is_published_stands_beside_it():
    found = numbers("06_iou", "average", {"CIFAR-10 | abn": (0.4, 0.5), "photo-digits | abn": (0.3, 0.3)})
    published = [row.published for row in figures._rows(found, "06_iou", figures.PANELS["06_iou"][0]).values()]
    assert published == [[0.29], ()]


def test_without_numbers_there_is_no_figure():
    assert figures.over_seeds(numbers("06_iou", "average", {"d | abn": (0.4,)}), "06_iou") is None
    assert figures.over_seeds(numbers("07_other", "average", {"d | abn": (1, 2)}), "07_other") is None


def test_it_is_published_and_on_both_pages(home):
    for seed in (1, 2):
        place = home / "reports" / "toy" / f"seed-{seed}" / "06_iou"
        place.mkdir(parents=True)
        (place / "average.csv").write_text(f"dataset,method,reproduced,low,high\nd,abn,0.{seed},0.1,0.3\n")
        record = {"notebook": "06_iou", "profile": "toy", "tables": [{"file": "average.csv"}], "figures": []}
        record |= {"settings": {"seed": seed}, "versions": {"lficam": "1"}}
        record |= dict.fromkeys(("commit", "dirty", "device", "started", "seconds"), "x")
        (place / "record.json").write_text(json.dumps(record))
    values.write(values.collect(home / "reports" / "toy"), home / "reports" / "toy")
    assert "Figure 1.1. Seed by seed." in write_index(home / "reports" / "toy").read_text()
    publish("toy")
    there = home / "figures" / "toy" / "06_iou"
    assert sorted(path.name for path in there.glob("seeds*")) == ["seeds.png", "seeds.svg"]
    assert json.loads((there / "record.json").read_text())["figures"][0]["file"] == "seeds.png"
    assert write_index(home / "figures" / "toy").read_text().count("Seed by seed.</b>") == 1
