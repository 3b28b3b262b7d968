"""The real notebooks on explainers, 03, 04 and 05, through the real runner at the `smoke` profile."""

import pandas as pd
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def explaining(project):
    names = ("03_lcam", "04_tame", "05_ad_ic")
    project.train(*names)
    return project.run(*names)


def test_results_of_03(explaining, project):
    folder = project.reports / "03_lcam"
    scores = pd.read_csv(folder / "scores.csv")
    ours = scores.dropna(subset=["reproduced"])
    assert set(ours.classifier) == {"resnet-8", "vgg-8"}
    assert {"l-cam-img", "l-cam-fm-ce", "no area", "no variation", "own masks", "grad-cam", "centre"} == set(
        ours[ours.classifier == "resnet-8"].explainer
    )
    faithful = {f"{m} {p}" for m in ("AD", "IC") for p in (100, 50, 15)} | {"AG 100"}
    assert set(ours.measure) == faithful | {"IoU", "energy", "pointing"}
    assert ((ours.low <= ours.reproduced) & (ours.reproduced <= ours.high)).all()
    assert (ours.N == 60).all()
    assert ours.published.isna().all()
    table = pd.read_csv(folder / "table.csv")
    assert len(table) == 7 + 4
    assert {f["file"] for f in explaining["03_lcam"]["figures"]} == {
        "terms.png", "maps-resnet-8.png", "maps-vgg-8.png", "loss-parts.png", "summary.png", "scenes.png"
    }  # fmt: skip
    # One convolution from 64 or 128 maps to 10 classes.
    assert explaining["03_lcam"]["results"]["parameters"] == {"resnet-8": 650, "vgg-8": 1290}


def test_results_of_04(explaining, project):
    folder = project.reports / "04_tame"
    ours = pd.read_csv(folder / "scores.csv").dropna(subset=["reproduced"])
    assert set(ours.explainer) == {"tame", "tame-no-skip", "tame, 1 layer", "l-cam-img", "grad-cam", "centre"}
    halves = pd.read_csv(folder / "scenes.csv")
    assert set(halves.explainer) == {"tame", "tame-no-skip", "tame, 1 layer", "l-cam-img"}
    assert halves.reproduced.between(0, 100).all()
    assert {f["file"] for f in explaining["04_tame"]["figures"]} == {
        "lr-range.png", "terms.png", "maps.png", "summary.png", "scenes.png"
    }  # fmt: skip


def test_results_of_05(explaining, project):
    record = explaining["05_ad_ic"]
    folder = project.reports / "05_ad_ic"
    table = pd.read_csv(folder / "table.csv")
    passes = table.set_index("explainer")["#FW"].to_dict()
    assert passes == {"tame": 1, "l-cam-img": 1, "grad-cam": 1, "score-cam": 64, "rise": 20, "random": 0, "centre": 0}
    scores = pd.read_csv(folder / "scores.csv").dropna(subset=["reproduced"])
    assert {"insertion", "deletion", "MoRF", "LeRF", "IoU", "AD 100"} <= set(scores.measure)
    assert (scores.N == 12).all()
    conventions = pd.read_csv(folder / "conventions.csv").set_index("convention")
    assert len(conventions) == 8
    papers = scores[(scores.explainer == "l-cam-img") & (scores.measure == "AD 100")].reproduced.item()
    assert conventions.reproduced["papers"] == pytest.approx(papers, abs=0.01)
    compared = pd.read_csv(folder / "compare.csv")
    assert len(compared) == 2 * (len(passes) - 1)
    assert compared.p.between(0, 1).all()
    sanity = pd.read_csv(folder / "sanity.csv").set_index("explainer").reproduced
    assert sanity["centre"] == pytest.approx(1)  # it looks at nothing
    assert {f["file"] for f in record["figures"]} == {
        "superimposed.png", "plane.png", "curves.png", "thresholds.png", "cost.png", "conventions.png"
    }  # fmt: skip
