"""The real notebooks on classifiers, 01, 02 and 06, through the real runner at the `smoke` profile."""

import pandas as pd
import pytest

pytestmark = pytest.mark.slow
NAME = "01_train_lficam"


@pytest.fixture(scope="module")
def record(project):
    """This one trains by itself, in processes of its own."""
    return project.run(NAME)[NAME]


def test_results_of_01(record):
    assert record["profile"] == "smoke"
    assert record["parameters"]["recipe"]["epochs"] == 1
    assert set(record["results"]["accuracy"]) == {"plain", "abn", "lfi-cam"}
    assert all(0 <= value <= 1 for value in record["results"]["overlap"].values())
    assert record["results"]["data"]["train"][0] == 200


def test_tables_and_figures_of_01(record, project):
    folder = project.reports / NAME
    assert [entry["file"] for entry in record["tables"]] == ["accuracy.csv", "overlap.csv", "faithfulness.csv"]
    assert {entry["file"] for entry in record["figures"]} == {
        "data.png", "curves.png", "maps.png", "inside.png", "summary.png", "faithfulness.png"
    }  # fmt: skip
    accuracy = pd.read_csv(folder / "accuracy.csv")
    ours = accuracy[accuracy.dataset == "photo-digits"]
    assert ours.method.tolist() == ["plain", "abn", "lfi-cam"]
    assert ((ours.low <= ours.reproduced) & (ours.reproduced <= ours.high)).all()
    assert ours.published.isna().all()
    theirs = accuracy[(accuracy.dataset == "CIFAR-100") & (accuracy.backbone == "ResNet-110")]
    assert theirs.set_index("method").published.to_dict() == {"plain": 75.9, "abn": 77.5}
    assert theirs.reproduced.isna().all()
    overlap = pd.read_csv(folder / "overlap.csv")
    assert set(overlap.method) == {"plain", "abn", "lfi-cam", "centre"}
    assert (overlap.N == 100).all()


def test_report_of_01(record, project):
    page = (project.reports / "index.html").read_text()
    for entry in record["tables"] + record["figures"]:
        assert f"{NAME}/{entry['file']}" in page
    assert (project.reports / NAME / f"{NAME}.html").is_file()


@pytest.fixture(scope="module")
def stability(project):
    """02 and 06, which find the same models."""
    project.train("02_abn_stability")
    return project.run("02_abn_stability", "06_iou")


def test_results_of_02(stability, project):
    record, folder = stability["02_abn_stability"], project.reports / "02_abn_stability"
    assert record["results"]["models"] == 8  # two data sets, two methods, two settings
    accuracy = pd.read_csv(folder / "accuracy.csv")
    assert len(accuracy) == 8
    assert (accuracy.N == 60).all()
    bottleneck = pd.read_csv(folder / "bottleneck.csv").set_index(["dataset", "method"])["maps behind M"].to_dict()
    assert bottleneck["photo-digits", "abn"] == 10  # as many maps as classes
    assert bottleneck["photo-digits-2", "abn"] == 2
    assert bottleneck["photo-digits-2", "lfi-cam"] == 64  # all of the last stage
    assert {f["file"] for f in record["figures"]} == {"stability-photo-digits.png", "stability-photo-digits-2.png"}


def test_results_of_06(stability, project):
    folder = project.reports / "06_iou"
    pairs = pd.read_csv(folder / "pairs.csv")
    assert len(pairs) == 2 * 2 * 2 * 2  # data sets, methods, protocols; of two models one pair, and its mean
    assert pairs.iou.between(0, 1).all()
    average = pd.read_csv(folder / "average.csv")
    published = average[average.dataset == "Cat&Dog"].set_index("method").published.to_dict()
    assert published == {"abn": 0.3, "lfi-cam": 0.73}
    assert average[average.dataset == "photo-digits"].published.isna().all()
    control = pd.read_csv(folder / "control.csv")
    assert set(control.compared) == {"same image", "another image"}
    assert len(pd.read_csv(folder / "masks.csv")) == 8
    assert [f["file"] for f in stability["06_iou"]["figures"]] == ["between-models.png", "threshold.png"]
