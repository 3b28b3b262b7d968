"""The real notebooks at the `smoke` profile with few images: 01 through the real runner, the others cell by cell."""

import pandas as pd
import pytest

from lficam.lab.report import values

pytestmark = pytest.mark.slow
NAME = "01_train_lficam"


@pytest.fixture(scope="module")
def record(project):
    """It trains by itself, in a process of its own."""
    return project.run(NAME, parallel=1)


def test_results_of_01(record):
    assert record["profile"] == "smoke"
    assert record["parameters"]["recipe"]["epochs"] == 1
    assert set(record["results"]["accuracy"]) == {"plain", "abn", "lfi-cam"}
    assert all(0 <= value <= 1 for value in record["results"]["overlap"].values())
    assert record["results"]["data"]["train"][0] == 60


def test_tables_and_figures_of_01(record, project):
    folder = project.reports / NAME
    assert [entry["file"] for entry in record["tables"]] == [
        "accuracy.csv", "overlap.csv", "faithfulness.csv", "black.csv"
    ]  # fmt: skip
    black = pd.read_csv(folder / "black.csv", index_col="classifier")
    assert black.index.tolist() == ["plain", "abn", "lfi-cam"]
    assert black.sum(axis=1).tolist() == pytest.approx([1] * 3)
    assert {entry["file"] for entry in record["figures"]} == {
        "data.png", "curves.png", "authors.png", "maps.png", "inside.png", "summary.png", "faithfulness.png"
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
    assert (overlap.N == 20).all()


def test_report_of_01(record, project):
    page = (project.reports / "index.html").read_text()
    for entry in record["tables"] + record["figures"]:
        assert f"{NAME}/{entry['file']}" in page
    assert (project.reports / NAME / f"{NAME}.html").is_file()


def test_results_of_02(project):
    record, folder = project.execute("02_abn_stability"), project.reports / "02_abn_stability"
    assert record["results"]["models"] == 8  # two data sets, two methods, two settings
    accuracy = pd.read_csv(folder / "accuracy.csv")
    assert len(accuracy) == 8
    assert (accuracy.N == 20).all()
    bottleneck = pd.read_csv(folder / "bottleneck.csv").set_index(["dataset", "method"])["maps behind M"].to_dict()
    assert bottleneck["photo-digits", "abn"] == 10  # as many maps as classes
    assert bottleneck["photo-digits-2", "abn"] == 2
    assert bottleneck["photo-digits-2", "lfi-cam"] == 64  # all of the last stage
    assert {f["file"] for f in record["figures"]} == {"stability-photo-digits.png", "stability-photo-digits-2.png"}


def test_results_of_03(project):
    record, folder = project.execute("03_lcam", scenes=4), project.reports / "03_lcam"
    scores = pd.read_csv(folder / "scores.csv")
    ours = scores.dropna(subset=["reproduced"])
    assert set(ours.classifier) == {"resnet-8", "vgg-8"}
    assert {"l-cam-img", "l-cam-fm-ce", "no area", "no variation", "own masks", "grad-cam", "centre"} == set(
        ours[ours.classifier == "resnet-8"].explainer
    )
    faithful = {f"{m} {p}" for m in ("AD", "IC") for p in (100, 50, 15)} | {"AG 100"}
    assert set(ours.measure) == faithful | {"IoU", "energy", "pointing"}
    assert ((ours.low <= ours.reproduced) & (ours.reproduced <= ours.high)).all()
    assert (ours.N == 20).all()
    assert ours.published.isna().all()
    table = pd.read_csv(folder / "table.csv")
    assert len(table) == 7 + 4
    assert {f["file"] for f in record["figures"]} == {
        "terms.png", "maps-resnet-8.png", "maps-vgg-8.png", "loss-parts.png", "summary.png", "scenes.png"
    }  # fmt: skip
    turned = pd.read_csv(folder / "inside-out.csv").set_index(["classifier", "explainer"])["all"]
    assert turned["resnet-8", "centre"].startswith("0 [0, ")
    assert turned.index.tolist() == table.set_index(["classifier", "explainer"]).index.tolist()
    # One convolution from 64 or 128 maps to 10 classes.
    assert record["results"]["parameters"] == {"resnet-8": 650, "vgg-8": 1290}


def test_results_of_04(project):
    record, folder = project.execute("04_tame", scenes=4), project.reports / "04_tame"
    ours = pd.read_csv(folder / "scores.csv").dropna(subset=["reproduced"])
    trained = {"tame", "tame-no-skip", "tame, 1 layer", "l-cam-img", "p-tame"}
    assert set(ours.explainer) == trained | {"grad-cam", "centre"}
    assert pd.read_csv(folder / "parameters.csv").equal.tolist() == ["yes"] * 9
    halves = pd.read_csv(folder / "scenes.csv")
    assert set(halves.explainer) == trained
    assert halves.reproduced.between(0, 100).all()
    assert {f["file"] for f in record["figures"]} == {
        "lr-range.png", "terms.png", "maps.png", "summary.png", "scenes.png"
    }  # fmt: skip


def test_results_of_05(project):
    record, folder = project.execute("05_ad_ic", test_count=8), project.reports / "05_ad_ic"
    table = pd.read_csv(folder / "table.csv")
    passes = table.set_index("explainer")["#FW"].to_dict()
    assert passes == {
        "tame": 1, "l-cam-img": 1, "grad-cam": 1, "hires-cam": 1, "finer-cam": 1,
        "score-cam": 64, "opti-cam": 5, "rise": 20, "random": 0, "centre": 0,
    }  # fmt: skip
    assert table.explainer.tolist() == list(passes)  # family by family
    cost = pd.read_csv(folder / "cost.csv").set_index("explainer")
    assert cost["forward passes"].to_dict() == passes
    assert set(cost) - {"forward passes"} == set(values.TIMES)
    assert pd.read_csv(folder / "passes.csv").equal.tolist() == ["yes"] * 10
    scores = pd.read_csv(folder / "scores.csv").dropna(subset=["reproduced"])
    assert {"insertion", "deletion", "MoRF", "LeRF", "IoU", "AD 100"} <= set(scores.measure)
    assert (scores.N == 8).all()
    conventions = pd.read_csv(folder / "conventions.csv").set_index("convention")
    assert len(conventions) == 8
    papers = scores[(scores.explainer == "l-cam-img") & (scores.measure == "AD 100")].reproduced.item()
    assert conventions.reproduced["papers"] == pytest.approx(papers, abs=0.01)
    compared = pd.read_csv(folder / "compare.csv")
    assert len(compared) == 4 * (len(passes) - 1)  # measures
    assert set(compared.against) == {"centre"}
    assert compared["p (Holm)"].between(0, 1).all()
    sanity = pd.read_csv(folder / "sanity.csv").set_index("explainer").reproduced
    assert sanity["centre"] == pytest.approx(1)  # it looks at nothing
    assert set(passes) - set(sanity.index) == {"score-cam", "opti-cam", "rise"}  # which are slow
    assert {f["file"] for f in record["figures"]} == {
        "superimposed.png", "plane.png", "curves.png", "thresholds.png", "cost.png", "conventions.png"
    }  # fmt: skip


def test_results_of_06(project):
    record, folder = project.execute("06_iou"), project.reports / "06_iou"
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
    assert [f["file"] for f in record["figures"]] == ["between-models.png", "threshold.png"]


def test_results_of_07(project):
    record, folder = project.execute("07_metrics", test_count=8), project.reports / "07_metrics"
    evidence = pd.read_csv(folder / "evidence.csv")
    assert len(evidence) == 4
    assert evidence.reproduced.between(0, 100).all()
    scores = pd.read_csv(folder / "scores.csv").set_index(["explainer", "measure"]).reproduced
    assert scores["exact mask", "precision"] == pytest.approx(1)
    assert scores["inside out", "energy"] == 0
    assert scores["ones", "AD 100"] < scores["random", "AD 100"]
    agreement = pd.read_csv(folder / "agreement.csv")
    assert set(agreement.truth) == {"precision", "energy"}
    assert {"AD 100", "insertion", "ADCC", "ARCC", "single deletion"} <= set(agreement.measure)
    assert not {"precision", "energy", "IoU"} & set(agreement.measure)
    between = pd.read_csv(folder / "between.csv")
    assert between["tau-b"].dropna().between(-1, 1).all()
    fooled = pd.read_csv(folder / "fooled.csv").set_index(["measure", "pair"]).reproduced
    assert fooled["complexity", "ones"] == 0
    networks = pd.read_csv(folder / "networks.csv").set_index("measure")
    assert len(networks) == 3 * 4  # measures; two networks, each trained twice
    assert networks.reproduced["single deletion"].between(-1, 1).all()
    assert {f["file"] for f in record["figures"]} == {
        "known.png", "agreement.png", "between.png", "fooled.png", "networks.png"
    }  # fmt: skip
