"""What README and notebooks claim: written as in claims.csv, and true in the reference as often as they say."""

import json
import re
from pathlib import Path

import pytest

from lficam.lab.report import claims, values, verify
from lficam.lab.report.claims import Claim, Condition
from lficam.lab.report.values import Cell, Values

ROOT = Path(__file__).parents[2]


def prose(file):
    """A page's or a notebook's text."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".ipynb"):
        return "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    return text


@pytest.mark.parametrize("claim", claims.claims(), ids=lambda claim: f"{claim.profile}: {claim.claim}")
def test_what_is_claimed_is_written_and_true(claim):
    (written,) = claim.pattern.finditer(prose(claim.file))
    folder = ROOT / "figures" / claim.profile
    reference = values.read(folder) if (folder / "values.csv").is_file() else Values("none")
    if not reference.seeds_of(claim.notebook):
        pytest.skip(f"figures/{claim.profile} has no reference of {claim.notebook}")
    found = claims.holds(reference, claim)
    assert len(found) == len(reference.seeds_of(claim.notebook)), "the reference lacks some of its numbers"
    if written.groups():
        assert written[1] == f"{sum(found.values())} of {len(found)}", "run `python tools/docs.py`"
    else:
        assert all(found.values())


@pytest.mark.parametrize("file", sorted({claim.file for claim in claims.claims()}))
def test_every_count_of_runs_is_held_by_a_claim(file):
    held = sum(claim.pattern.groups for claim in claims.claims() if claim.file == file)
    assert len(re.findall(r"\b\d of \d\b", prose(file))) == held


def test_counts_are_written_into_the_text(tmp_path, monkeypatch):
    least = [Condition("scores", "d | tame | AD | reproduced", "<", "d | rise | AD | reproduced")]
    claim = Claim("", "toy", "a.md", "TAME is least in {count} runs.", "05", least)
    monkeypatch.setattr(claims, "claims", lambda: [claim])
    text = "TAME is\nleast in 5 of 5 runs. RISE in 5 of 5 runs."
    assert claims.counted(text, "a.md", tmp_path) == text  # no reference
    (tmp_path / "toy").mkdir()
    values.write(made_up(), tmp_path / "toy")
    assert claims.counted(text, "a.md", tmp_path) == "TAME is\nleast in 2 of 3 runs. RISE in 5 of 5 runs."
    assert claims.counted(text, "b.md", tmp_path) == text


def made_up():
    """Two explainers and a control in three runs."""
    runs = {"d | tame | AD": (1, 2, 9), "d | rise | AD": (3, 3, 3), "d | centre | AD": (0, 5, 5)}
    found = Values("toy", runs={"05": {seed: {"settings": {}, "lficam": "1"} for seed in (1, 2, 3)}})
    found.cells = {Cell("05", "scores", row, "reproduced"): dict(enumerate(x, 1)) for row, x in runs.items()}
    return found


@pytest.mark.parametrize(
    ("left", "relation", "right", "true"),
    [
        ("d | tame | AD | reproduced", "<", "d | rise | AD | reproduced", [True, True, False]),
        ("d | tame | AD | reproduced", "<", "d | * | AD | reproduced", [False, True, False]),
        ("d | tame | AD | reproduced", "<", "d | * but centre | AD | reproduced", [True, True, False]),
        ("d | * but tame / centre | AD | reproduced", ">", "2.5", [True, True, True]),
        ("d | * | * | reproduced", "<", "6", [True, True, False]),
        ("d | tame | IC | reproduced", ">", "0", []),
        ("d | tame | AD | low", ">", "0", []),
    ],
)
def test_conditions(left, relation, right, true):
    claim = Claim("", "toy", "", "", "05", [Condition("scores", left, relation, right)])
    assert list(claims.holds(made_up(), claim).values()) == true


def test_conditions_hold_together_or_not_at_all():
    both = [
        Condition("scores", "d | tame | AD | reproduced", "<", "5"),
        Condition("scores", "d | centre | AD | reproduced", ">", "2"),
    ]
    assert claims.holds(made_up(), Claim("", "toy", "", "", "05", both)) == {1: False, 2: True, 3: False}
    gone = [*both, Condition("scores", "d | gone | AD | reproduced", ">", "2")]
    assert claims.holds(made_up(), Claim("", "toy", "", "", "05", gone)) == {}


def test_a_verdict_says_which_conclusions_hold(monkeypatch):
    rise = [Condition("scores", "d | rise | AD | reproduced", "<", "4")]
    tame = [Condition("scores", "d | tame | AD | reproduced", "<", "4")]
    least = [Condition("scores", "d | centre | AD | reproduced", ">", "-1")]
    every = [Claim(name, "toy", "", "", "05", found) for name, found in (("a", rise), ("b", tame), ("c", least))]
    monkeypatch.setattr(claims, "claims", lambda: every)
    reference, ours = made_up(), made_up()
    ours.cells[Cell("05", "scores", "d | rise | AD", "reproduced")] = {1: 3, 2: 4.5, 3: 3}
    found = verify.judge(ours, reference)
    assert found[0].conclusions == {"a": False, "c": True}  # b divides the reference
    assert verify.sentence(found, ROOT, "toy").endswith("Conclusions: 1 of 2 hold; not: a.")
    assert "Conclusions: 2 of 2 hold." in verify.sentence(verify.judge(made_up(), reference), ROOT, "toy")
    monkeypatch.setattr(claims, "claims", list)
    assert "Conclusions" not in verify.sentence(verify.judge(ours, reference), ROOT, "toy")
