"""Numbers by seed as files, tables over seeds, and the verdict: by hand, and how often it is wrong."""

import json
import shutil

import numpy as np
import pytest

from lficam import cli
from lficam.errors import InputError
from lficam.lab.graph.reproduce import seeds_of
from lficam.lab.notebooks import run
from lficam.lab.report import values, verify
from lficam.lab.report.publish import publish
from lficam.lab.report.values import Cell, Values

SETTINGS = {"epochs": 3, "recipe": "desk"}
CELLS = [Cell("01", "t", f"method {i}", "reproduced") for i in range(40)]


def facts(settings=SETTINGS, version="1"):
    return {"settings": settings, "lficam": version, "commit": "c"}


def drawn(seeds, rng, shift=0.0):
    """Numbers of 40 rows: own means, own noise of training, and a noise of images that all seeds share."""
    found = Values("toy", runs={"01": {seed: facts() for seed in seeds}})
    means, spreads = 50 + 10 * np.sin(range(40)), 1 + np.arange(40) % 3
    for cell, mean, spread in zip(CELLS, means, spreads, strict=True):
        found.cells[cell] = {seed: mean + rng.normal(shift * spread, spread) for seed in seeds}
        for name, half in (("low", -2.0), ("high", 2.0)):
            found.cells[cell._replace(column=name)] = {seed: v + half for seed, v in found.cells[cell].items()}
        found.cells[cell._replace(column="N")] = dict.fromkeys(seeds, 100.0)
    return found


def write_table(folder, seed, text, notebook="01_toy", **more):
    """What a notebook leaves: one table, and its record."""
    place = (folder if seed is None else folder / f"seed-{seed}") / notebook
    place.mkdir(parents=True)
    (place / "t.csv").write_text(text)
    record = {"notebook": notebook, "profile": folder.name, "tables": [{"file": "t.csv"} | more], "figures": []}
    record |= {"settings": {"seed": seed or 7, "workers": seed, "epochs": 3}, "versions": {"lficam": "1"}}
    record |= dict.fromkeys(("commit", "dirty", "device", "started", "seconds"), "x")
    (place / "record.json").write_text(json.dumps(record))


TABLE = """dataset,method,model,reproduced,low,high,N,published,source,AD 100
d,abn,1,{0}.0,{1},{2},100,77.5,ABN,"{0}.5 [{1}, {2}]"
d,plain,1,,,,,75.9,ABN,
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "reports" / "toy"
    for seed, value in ((1, 10), (2, 12), (10, 14)):
        write_table(folder, seed, TABLE.format(value, value - 1, value + 1))
    return folder


def test_numbers_of_all_seeds_are_written_and_read_again(folder):
    found = values.collect(folder)
    assert [path.name for path in values.places(folder)] == ["seed-1", "seed-2", "seed-10"]
    row = ("01_toy", "t", "d | abn | 1")
    assert found.cells[Cell(*row, "reproduced")] == {1: 10, 2: 12, 10: 14}
    assert found.cells[Cell(*row, "AD 100")] == {1: 10.5, 2: 12.5, 10: 14.5}
    columns = ["reproduced", "low", "high", "N", "AD 100", "AD 100 low", "AD 100 high"]
    assert [cell.column for cell in found.cells] == columns
    assert found.runs["01_toy"][2]["settings"] == {"epochs": 3}
    lines = values.write(found, folder).read_text().splitlines()
    assert lines[:2] == ["notebook,table,row,column,seed,value", "01_toy,t,d | abn | 1,reproduced,1,10.0"]
    again = values.read(folder)
    assert again.cells == found.cells
    assert again.seeds_of("01_toy") == [1, 2, 10]


def test_a_table_that_shows_another_once_more_does_not_count(tmp_path):
    write_table(tmp_path / "toy", 1, TABLE.format(5, 4, 6), of="scores")
    assert not values.collect(tmp_path / "toy").cells


def test_pages_and_published_tables_are_over_seeds(home):
    """Of three seeds: one page each, one of all; published are means, with the reference beside a further run."""
    for seed, value in ((1, 10), (2, 12), (3, 14)):
        write_table(home / "reports" / "toy", seed, TABLE.format(value, value - 1, value + 1))
    page = run.report(home / "reports" / "toy")
    assert "Means of 3 runs that differ in the seed" in page.read_text()
    assert "seed-1/01_toy/record.json" in page.read_text()
    assert "toy, seed-2" in (home / "reports" / "toy" / "seed-2" / "index.html").read_text()
    publish("toy")
    published = home / "figures" / "toy"
    assert "d,abn,1,12.0," in (published / "01_toy" / "t.csv").read_text()
    assert values.read(published).seeds_of("01_toy") == [1, 2, 3]
    shutil.rmtree(home / "reports" / "toy")
    write_table(home / "reports" / "toy", None, TABLE.format(13, 12, 14))
    text = run.report(home / "reports" / "toy").read_text()
    assert "One run: intervals hold images only" in text
    assert "The results of toy agree with the reference (figures/toy, 3 runs): 100.0% of 3 numbers" in text
    assert "12.000 [2.0" in text  # 12 -+ 4.303 * 2 * sqrt(4/3)


def test_tables_over_seeds_by_hand(folder):
    """Three runs 10, 12, 14: s = 2; images 1/1.96 each."""
    found = values.collect(folder)
    header = TABLE.splitlines()[0].split(",")
    rows = values.over_seeds(
        found, "01_toy", "t", header, [["d", "abn", "1", "10.0", "9", "11", "100", "77.5", "ABN", "10.5 [9, 11]"]]
    )
    named = dict(zip(header, rows[0], strict=True))
    low, high = values.seeds.interval([10, 12, 14], [1 / values.seeds.Z] * 3)
    assert (named["reproduced"], named["N"], named["model"]) == ("12.0", "100", "1")
    assert (float(named["low"]), float(named["high"])) == pytest.approx((low, high))
    assert named["AD 100"] == f"12.5 [{low + 0.5:.1f}, {high + 0.5:.1f}]"


def test_a_table_that_shows_another_once_more_has_its_means_and_verdict():
    runs = {
        "d | r | tame | AD 100": (10, 12, 14),
        "d | r | tame | AD 50": (20, 20, 23),
        "d | r | rise | AD 100": (5, 5, 5),
    }
    found = Values("toy", runs={"05": {seed: facts() for seed in (1, 2, 3)}})
    found.cells = {Cell("05", "scores", row, "reproduced"): dict(enumerate(x, 1)) for row, x in runs.items()}
    header, rows = ["explainer", "#FW", "AD 100", "AD 50"], [["tame", "1", "10.0 [9.0, 11.0]", "40.0 [38.0, 42.0]"]]
    (line,) = values.over_seeds(found, "05", "table", header, rows, of="scores")
    ends = [values.seeds.interval(numbers) for numbers in ((10, 12, 14), (20, 20, 23))]
    shown = [f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, (low, high) in zip((12, 21), ends, strict=True)]
    assert line == ["tame", "1", *shown]
    entry = {"file": "table.csv", "of": "scores"}
    header, (line,) = verify.beside_reference(found, "05", entry, header, rows)
    assert (header[-1], line[-1]) == ("agrees", "1 of 2")
    entry = {"file": "compare.csv", "digits": {"difference": 1}}
    found.cells[Cell("05", "compare", "AD | tame", "difference")] = {1: -2.0, 2: -4.0, 3: -3.0}
    table = ["measure", "explainer", "difference"], [["AD", "tame", "9"], ["AD", "new", "9"]]
    header, lines = verify.beside_reference(found, "05", entry, *table)
    low, high = values.seeds.prediction([-2.0, -4.0, -3.0])
    assert header[-2:] == ["reference", "agrees"]
    assert [line[-2:] for line in lines] == [[f"-3.0 [{low:.1f}, {high:.1f}]", "NO"], ["", ""]]


def test_differences_over_seeds_have_a_p_of_their_own():
    """Of two rows of a measure the less p counts twice, the other once; another measure's row is alone."""
    found = Values("toy")
    table = [[m, name, "1", "0", "2", "0.5"] for m, name in (("AD", "a"), ("AD", "b"), ("IC", "a"))]
    runs = ([3.0, 4.0, 5.0], [-1.0, 2.0, 2.0], [5.0, 1.0, 3.0])
    for (measure, name, *_), numbers in zip(table, runs, strict=True):
        found.cells[Cell("05", "compare", f"{measure} | {name}", "difference")] = dict(enumerate(numbers))
    header = ["measure", "explainer", "difference", "low", "high", "p (Holm)"]
    p = [values.seeds.p_value(numbers) for numbers in runs]
    found = [float(row[5]) for row in values.over_seeds(found, "05", "compare", header, table)]
    assert found == pytest.approx([2 * p[0], max(2 * p[0], p[1]), p[2]])


@pytest.mark.parametrize(
    ("edit", "words"), [("cut", "was cut or edited"), ("none", "is not there"), ("json", "cannot be read")]
)
def test_files_that_are_not_whole_are_refused(folder, edit, words):
    path = values.write(values.collect(folder), folder)
    if edit == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif edit == "none":
        path.unlink()
    else:
        path.with_suffix(".json").write_text("[]")
    with pytest.raises(InputError, match=words):
        values.read(folder)


@pytest.mark.slow
def test_an_equal_run_agrees_and_another_does_not():
    """Of 60 references and runs at most a few are judged wrong; a shift by three spreads is found each time."""
    wrong = missed = 0
    for i in range(60):
        rng = np.random.default_rng(i)
        reference = drawn(range(1, 6), rng)
        (same,), (other,) = (verify.judge(drawn([9], rng, shift), reference) for shift in (0, 3))
        assert same.cells == 80
        wrong, missed = wrong + (not same.agrees), missed + other.agrees
    assert wrong <= 6
    assert missed <= 3


def test_the_cells_outside_are_named_with_their_distance():
    rng = np.random.default_rng(0)
    reference, ours = drawn(range(1, 6), rng), drawn([7], rng)
    low, high = values.seeds.prediction(list(reference.cells[CELLS[3]].values()))
    ours.cells[CELLS[3]][7] = (low + high) / 2 + 2 * (high - low)
    del ours.cells[CELLS[4]]
    ours.cells[CELLS[5]._replace(column="N")] = {7: 99.0}
    (found,) = verify.judge(ours, reference)
    by_cell = {one.cell: one for one in found.outside}
    assert by_cell[CELLS[3]].distance == pytest.approx(4)
    assert by_cell[CELLS[4]].value is None
    assert not found.agrees  # N has to be equal
    told = verify.text([found], "figures/toy", "toy")
    assert "01, t: method 4, reproduced: not there" in told
    assert "DIFFER" in told


def test_what_no_run_varies_has_the_room_of_the_images():
    reference = drawn(range(1, 6), np.random.default_rng(0))
    reference.cells[CELLS[0]] = dict.fromkeys(range(1, 6), 0.0)
    assert verify.expected(reference.cells[CELLS[0]], 2.0) == (-2, 2)


def test_a_share_of_0_in_all_runs_is_no_count():
    """Not one of the images in five runs, and then one: a number outside, but none that has to be equal."""
    rng = np.random.default_rng(1)
    reference, ours = drawn(range(1, 6), rng), drawn([7], rng)
    for name in ("reproduced", "low", "high"):
        cell = CELLS[0]._replace(column=name)
        reference.cells[cell], ours.cells[cell] = dict.fromkeys(range(1, 6), 0.0), {7: 0.5}
    (found,) = verify.judge(ours, reference)
    (one,) = [one for one in found.outside if one.cell == CELLS[0]]
    assert (one.exact, one.distance) == (False, float("inf"))
    assert found.agrees


@pytest.mark.parametrize(("other", "agrees"), [((50.0, 49.0), True), ((50.0, 50.0), False)])
def test_a_count_that_varies_in_another_row_need_not_be_equal(other, agrees):
    """How many images have a ranking: 50 in all five runs, 49 in ours."""
    rng = np.random.default_rng(1)
    reference, ours = drawn(range(1, 6), rng), drawn([7], rng)
    for cell, counts, own in zip(CELLS, ((50.0, 50.0), other), (49.0, 50.0), strict=False):
        count = cell._replace(column="N")
        reference.cells[count] = {seed: counts[seed % 2] for seed in range(1, 6)}
        ours.cells[count] = {7: own}
    (found,) = verify.judge(ours, reference)
    (one,) = [one for one in found.outside if one.cell == CELLS[0]._replace(column="N")]
    assert one.exact is not agrees
    assert found.agrees is agrees


def incomparable():
    rng = np.random.default_rng(0)
    reference, ours = drawn(range(1, 6), rng), drawn([1], rng)
    few, other, newer, gone = (drawn([1], rng) for _ in range(4))
    other.runs["01"][1] = facts(SETTINGS | {"epochs": 4})
    newer.runs["01"][1] = facts(version="2")
    gone.runs = {}
    strange = drawn([1], rng)
    strange.profile = "other"
    return {
        "01 (seed 1) cannot be compared with the reference: epochs is 4 instead of 3": (other, reference),
        "lficam is 2 instead of 1": (newer, reference),
        "01 was not run": (gone, reference),
        "The reference has 1 run of 01": (ours, few),
        "The results are of profile 'other'": (strange, reference),
    }


@pytest.mark.parametrize("words", incomparable())
def test_what_cannot_be_judged_is_said(words):
    with pytest.raises(InputError) as told:
        verify.judge(*incomparable()[words])
    assert words in str(told.value)


def test_the_command_line_says_it_by_its_exit_code(home, capsys):
    rng = np.random.default_rng(1)
    for name, found in (("figures", drawn(range(1, 6), rng)), ("reports", drawn([6], rng))):
        (home / name / "toy").mkdir(parents=True)
        values.write(found, home / name / "toy")
    assert cli.main(["verify", "--profile", "toy"]) == 0
    assert "agree with the reference (figures/toy, 5 runs)" in capsys.readouterr().out
    values.write(drawn([6], rng, 5), home / "reports" / "toy")
    assert cli.main(["verify", "--profile", "toy"]) == 1
    assert cli.main(["verify", "--profile", "toy", "--reference", str(home)]) == 2
    assert "is not there" in capsys.readouterr().err


def test_seeds_are_read_as_people_write_them():
    assert seeds_of("1-5") == [1, 2, 3, 4, 5]
    assert seeds_of("3, 1,7-8") == [3, 1, 7, 8]
