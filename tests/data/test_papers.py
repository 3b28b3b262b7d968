"""Published numbers, and tables of ours beside them."""

import pandas as pd

from lficam import files
from lficam.data import papers
from lficam.lab.report.results import show
from lficam.training import recipes


def test_published_numbers_are_the_files():
    table = papers.published_accuracy()
    row = table[(table.dataset == "CIFAR-100") & (table.backbone == "ResNet-110") & (table.method == "abn")]
    assert row.published.dropna().tolist() == [77.5]  # 22.5 % error
    assert row["last epoch"].dropna().tolist() == [76.97]  # 23.03 %, of the same training
    log = papers.published_trainings()
    best = log.groupby("backbone").test_top1_error_pct.min()
    assert best[["ResNet-110", "WRN-28-10"]].tolist() == [22.82, 18.11]
    assert log.groupby(["dataset", "backbone"]).epoch.max().tolist() == [300, 300, 300, 300, 90]
    of_abn = table[(table.method == "abn") & (table.source == "ABN, CVPR 2019")]
    assert set(log.backbone) <= set(of_abn.backbone)
    assert of_abn["last epoch"].notna().all()
    lfi = table[table.method == "lfi-cam"]
    assert len(lfi) == 5
    assert lfi.published.isna().all()
    per_model, mean = papers.published_iou()
    assert (len(per_model), len(mean)) == (30, 6)
    row = per_model[(per_model.method == "lfi-cam") & (per_model.dataset == "STL-10")]
    assert row.published.tolist() == [0.64, 0.65, 0.65, 0.63, 0.65]
    assert row.pair.tolist() == ["first", "second", "third", "fourth", "fifth"]
    assert mean[(mean.method == "abn") & (mean.dataset == "Cat&Dog")].published.tolist() == [0.3]


def test_tables_come_with_the_package(home, monkeypatch):
    """In a folder, and with a project folder, that have nothing of the repository."""
    monkeypatch.chdir(home)
    assert len(papers.published_faithfulness()) > 100
    assert {"abn", "lfi-cam"} <= {row["method"] for row in recipes.read()}
    assert all(files.table(name).is_file() for name in files.TABLES)


def test_beside_published_keeps_both_sides():
    ours = pd.DataFrame({"dataset": ["A", "B"], "reproduced": [1.0, 2.0]})
    theirs = pd.DataFrame({"dataset": ["B", "C", "D"], "published": [3.0, 4.0, None]})
    table = show(papers.beside_published(ours, theirs, ["dataset"]), {"reproduced": 1, "published": 1})
    assert table.to_numpy().tolist() == [["A", "1.0", "—"], ["B", "2.0", "3.0"], ["C", "—", "4.0"]]


def test_backbones_are_named_as_in_the_papers():
    names = {"resnet-110": "ResNet-110", "resnet50": "ResNet-50", "lfi-resnet18": "ResNet-18"}
    names |= {"wrn-28-10": "WRN-28-10", "vgg16_bn": "vgg16_bn"}
    assert {name: papers.backbone_title(name) for name in names} == names
