"""What is counted equals what is published, to the last one; and it is said where it does not."""

from pathlib import Path

import pytest
import yaml

from lficam.data import papers
from lficam.metrics import counts

PROFILES = Path(__file__).parents[2] / "notebooks" / "profiles"


def test_parameters_are_the_published_ones():
    table, theirs = counts.attention_parameters(), papers.published_parameters()
    columns = list(theirs.columns[:-1])
    assert table[columns].to_numpy().tolist() == theirs[columns].to_numpy().tolist()
    assert table.reproduced.tolist() == theirs.total.tolist() == table.published.tolist()
    assert len(table) == 9
    assert (table.equal == "yes").all()
    of_tame = table.set_index(["method", "backbone"]).loc["TAME", "VGG-16"]  # by hand: 256, 512 and 512 maps
    assert of_tame.branch_convs == 256 * 257 + 2 * 512 * 513
    assert (of_tame.batch_norms, of_tame.fusion) == (2 * 1280, 1000 * 1281)


def test_forward_passes_are_the_published_ones():
    table = counts.papers_passes()
    assert table.reproduced.tolist() == papers.published_passes().published.tolist()
    assert len(table) == 10
    assert (table.equal == "yes").all()
    for backbone, profile in {"VGG-16": "paper", "ResNet-50": "paper-resnet50"}.items():
        settings = yaml.safe_load((PROFILES / profile / "05_ad_ic.yaml").read_text())
        assert counts.MASKS[backbone] == settings["options"]["rise"]["masks"]


@pytest.mark.parametrize("column", ["batch_norms", "total"])
def test_another_number_is_not_equal(monkeypatch, column):
    theirs = papers.published_parameters()
    theirs.loc[2, column] += 1
    monkeypatch.setattr(papers, "published_parameters", lambda: theirs)
    assert counts.attention_parameters().equal.tolist() == ["yes"] * 2 + ["no"] + ["yes"] * 6


def test_another_number_of_passes_is_not_equal(monkeypatch):
    monkeypatch.setitem(counts.MASKS, "ResNet-50", 4000)
    table = counts.papers_passes()
    assert table[table.equal == "no"].explainer.tolist() == ["rise"]
