"""The page of the results: whole in one file, right numbers, and no text that becomes markup."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lficam.cli import main
from lficam.lab.report import latex
from lficam.lab.report.page import write_index
from lficam.lab.report.publish import publish
from lficam.lab.report.results import Report
from lficam.lab.report.tables import difference, readable
from lficam.plots import pictures

ROOT = Path(__file__).parents[2]
HOSTILE = '<script>alert("1")</script> & 50 % of_$x$ {y} ~^\\ #1 — Δ'


class Page(HTMLParser):
    """What a page holds: tags with their attributes, and its text; fails when the tags do not nest."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def check_self_contained(path):
    """No script, nothing fetched; every image is inside, every link lands; returns the page."""
    page = Page(path)
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {"script", "link", "iframe", "object", "base", "form"}.isdisjoint(tag for tag, _ in page.tags)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    style = re.search("<style>(.*?)</style>", path.read_text(encoding="utf-8"), re.S)[1]
    assert "url(" not in style
    assert "@import" not in style
    for image in page.named("img"):
        assert image["src"].startswith(("data:image/png;base64,", "data:image/svg+xml;base64,"))
        assert image["alt"]
    for link in page.named("a"):
        target = link["href"]
        if target.startswith("#"):
            assert unquote(target[1:]) in {unquote(name) for name in ids}
        elif target.startswith("data:text/"):
            assert link["download"]
        else:
            assert (path.parent / unquote(target)).is_file(), target
    assert all(cell.get("scope") for cell in page.named("th"))
    return page


def saved(page, suffix):
    """The files of a kind that the page lets one save, by name."""
    links = [link for link in page.named("a") if link.get("download", "").endswith(suffix)]
    return {link["download"]: base64.b64decode(link["href"].partition(",")[2]) for link in links}


def draw():
    """A figure of lines and one with images."""
    lines, axis = plt.subplots(figsize=(4, 2), layout="constrained")
    axis.plot([1, 2], [3, 4])
    photos, axis = plt.subplots(figsize=(2, 2), layout="constrained")
    axis.imshow(np.random.default_rng(0).random((16, 16, 3)))
    return lines, photos


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """reports/smoke as two notebooks leave it that use the real `Report`."""
    where, drawn = tmp_path_factory.mktemp("reports") / "smoke", draw()
    rows = {
        "dataset": ["A", "B", "C"],
        "backbone": ["r", "r", "r"],
        "method": ["abn", "lfi-cam", "plain"],
        "reproduced": [78.123, 80.0, None],
        "low": [77.0, -1.0, None],
        "high": [79.0, 81.0, None],
        "N": pd.array([1000, 1000, None], dtype="Int64"),
        "published": [77.5, None, 76.0],
    }
    one = Report("01_train_lficam", where / "01_train_lficam", "smoke")
    digits = dict.fromkeys(("reproduced", "low", "high", "published"), 1)
    one.table(pd.DataFrame(rows), "accuracy", "Top-1 accuracy", "In %, 95 % Wilson interval.", digits)
    one.table(pd.DataFrame({"k": range(100), "x": np.arange(100) / 7}), "long", "Long", "")
    one.figure(drawn[0], "lines", "Lines", "two points")
    one.figure(drawn[1], "photos", "Photos", "noise")
    one.finish("cpu", 3, data={"test": [1000, "ab" * 32]})
    two = Report("02_hostile", where / "02_hostile", HOSTILE, {HOSTILE: HOSTILE})
    two.table(pd.DataFrame({HOSTILE: [HOSTILE, "[a"], "n": [1, 2]}), "t", HOSTILE, HOSTILE)
    two.figure(drawn[0], "f", HOSTILE, HOSTILE)
    two.finish("cpu", 3)
    plt.close("all")
    return where


@pytest.fixture
def folder(home, left):
    """A copy, to be damaged."""
    return Path(shutil.copytree(left, home / "reports" / "smoke"))


def test_the_page_is_whole(folder):
    page = check_self_contained(write_index(folder))
    text = "".join(page.text)
    assert "2 of 2 notebooks finished" in text
    sources = [image["src"] for image in page.named("img")]
    kinds = [Image.open(io.BytesIO(base64.b64decode(s.partition(",")[2]))).format for s in sources if "png" in s[:20]]
    assert (len(sources), kinds) == (3, ["PNG"])
    assert text.count(HOSTILE) >= 6
    assert {level for level, _ in page.tags if re.fullmatch("h[1-6]", level)} == {"h1", "h2", "h3"}
    assert "N = 1000 (list abababababab)" in text
    whole = (folder / "index.html").read_text()
    folded = re.search(r"<details><summary>All 100 rows</summary>(.*?)</details>", whole, re.S)
    assert folded[1].count("<tr>") == 101
    tables = saved(page, ".csv")
    assert tables["01_train_lficam-long.csv"] == (folder / "01_train_lficam" / "long.csv").read_bytes()
    assert saved(page, ".tex")["02_hostile-t.tex"] == (folder / "02_hostile" / "t.tex").read_bytes()


def test_published_beside_reproduced(folder):
    digits = dict.fromkeys(("reproduced", "low", "high", "published"), 1)
    read = readable(*_csv(folder / "01_train_lficam" / "accuracy.csv"), digits)
    assert read.header == ["dataset", "backbone", "method", "published", "reproduced", "interval", "Δ"]
    assert read.rows == [
        ["A", "r", "abn", "77.5", "78.1", "[77.0, 79.0]", "+0.6"],
        ["B", "r", "lfi-cam", "—", "80.0", "[−1.0, 81.0]", "—"],
        ["C", "r", "plain", "76.0", "—", "—", "—"],
    ]
    assert read.n == "1000"
    page = write_index(folder).read_text()
    assert "N = 1000. Δ: reproduced − published." in page
    headline = page[page.index("Headline numbers") : page.index('<section id="01_train_lficam">')]
    row = '<td class="number">77.5</td><td class="number">78.1</td><td class="number">[77.0, 79.0]</td>'
    assert row + '<td class="number">+0.6</td><td class="number">1000</td>' in headline
    assert "C, r" not in headline  # published alone, and not the paper's method
    changed = pd.read_csv(folder / "01_train_lficam" / "accuracy.csv").assign(published=[70.0, None, None])
    changed.to_csv(folder / "01_train_lficam" / "accuracy.csv", index=False)
    assert "+8.1" in write_index(folder).read_text()


def _csv(path):
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


@pytest.mark.parametrize(
    ("ours", "theirs", "digits", "text"),
    [
        ("78.123", "77.5", 1, "+0.6"),
        ("0.24", "0.30", 2, "−0.06"),
        ("1.04", "1.06", 1, "0.0"),
        ("2", "2", None, "0"),
        ("", "3", 1, "—"),
        ("3", "", 1, "—"),
        ("nan", "3", 1, "—"),
        ("x", "3", 1, "—"),
    ],
)
def test_difference(ours, theirs, digits, text):
    assert difference(ours, theirs, digits) == text


def test_other_tables_are_left_in_their_order():
    read = readable(["a", "iou", "low", "high", "N"], [["x", "0.5", "0.4", "0.6", "3"], ["y", "0.5", "", "", "4"]])
    assert read.header == ["a", "iou", "interval", "N"]
    assert read.rows == [["x", "0.5", "[0.4, 0.6]", "3"], ["y", "0.5", "—", "4"]]
    assert read.numeric == [False, True, True, True]
    assert readable(["a", "published", "low"], []).rows == []
    assert readable([], []).header == []


def test_failed_and_missing_notebooks_are_marked(folder, home):
    settings = home / "notebooks" / "profiles" / "smoke"
    settings.mkdir(parents=True)
    (settings / "09_later.yaml").touch()
    broken = {"metadata": {"lficam": {"failure": f"it broke {HOSTILE}"}}}
    (folder / "01_train_lficam.failed.ipynb").write_text(json.dumps(broken))
    (folder / "03_dead.failed.ipynb").write_text("[]")
    (folder / "04_empty").mkdir()
    (folder / "04_empty" / "record.json").write_text("{")
    page = check_self_contained(write_index(folder))
    text = "".join(page.text)
    assert "2 of 5 notebooks finished" in text
    assert "Not usable: its record.json is not JSON" in text
    assert "Failed: 01_train_lficam, 03_dead, 04_empty. Not run yet: 09_later." in text
    assert "earlier, finished run" in text
    assert HOSTILE in text
    assert text.count("The last run failed.") == 2
    assert "Not run yet." in text


@pytest.mark.parametrize(
    "damage",
    [
        {"seconds": "Infinity", "versions": 3, "parameters": [1], "commit": None, "results": [], "device": {}},
        {"seconds": float("nan"), "tables": [{"file": "t.csv", "title": 3, "caption": None, "digits": "none"}]},
        {"seconds": -5, "figures": [{"file": "t.csv"}], "results": {"data": {"test": [1], "x": None}}},
        {"tables": {"file": "x"}},
        {"tables": [{"file": "t.csv", "title": "\ud800", "digits": {"n": -1}}], "device": "\ud800"},
        {"figures": [{"file": "/nowhere/f.png"}]},
    ],
)
def test_a_damaged_record_does_not_break_the_page(folder, damage):
    path = folder / "02_hostile" / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    path = folder / "01_train_lficam" / "record.json"  # whose table is a headline
    path.write_text(path.read_text().replace('"reproduced": 1', '"reproduced": -1'))
    page = check_self_contained(write_index(folder))
    assert "accuracy.csv is not shown" in "".join(page.text)


def test_a_record_shows_no_file_from_elsewhere(folder, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("a\nprivate\n")
    path = folder / "02_hostile" / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tables": [{"file": str(secret)}]}))
    text = "".join(check_self_contained(write_index(folder)).text)
    assert "secret.csv is not shown: it lies outside" in text
    assert "private" not in text


def test_a_damaged_table_is_said_where_it_belongs(folder):
    table = folder / "02_hostile" / "t.csv"
    table.write_bytes(b"a,b\n1\n1,2,3\n\xff\xfe,\x00\n")
    check_self_contained(write_index(folder))
    table.write_text('a\n"' + "x" * 200_000 + '"\n')
    assert "t.csv is not shown" in write_index(folder).read_text()
    table.write_text("")
    check_self_contained(write_index(folder))


def test_figures_are_sharp_or_small(folder):
    for name, shown in (("lines", "svg"), ("photos", "png")):
        files = {end: folder / "01_train_lficam" / f"{name}.{end}" for end in ("png", "svg", "pdf")}
        assert all(path.stat().st_size for path in files.values())
        assert pictures.sharper(files["png"]) == files[shown]
    width = [pictures.width((folder / "01_train_lficam" / f).read_bytes()) for f in ("lines.png", "lines.svg")]
    assert width[0] == pytest.approx(4 * 120, rel=0.1)
    assert width[1] == pytest.approx(width[0], abs=2)
    assert pictures.width(b"png") is None


def test_a_figure_is_the_same_bytes_again(left, tmp_path):
    for figure, name in zip(draw(), ("lines", "photos"), strict=True):
        pictures.save(figure, tmp_path, name)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (left / "01_train_lficam" / path.name).read_bytes(), path.name
    plt.close("all")


def test_rounding_is_below_sight_and_leaves_white():
    colours = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    near = np.asarray(pictures.rounded(Image.fromarray(colours))).astype(int)
    assert np.abs(near - colours).max() <= 2
    assert (near[15, 15] == 255).all()


def check_latex(text):
    """Braces and environments are closed, nothing special stands bare, every row has its columns."""
    assert text.isascii() or not re.search("[—–−Δ×]", text)
    lines = text.splitlines()
    assert lines[0].startswith("% ")
    body = "\n".join(lines[1:])
    body = body.replace("{!}{%\n", "{!}{\n")
    bare = re.sub(r"\\[\\&%$#_{}]", "", re.sub(r"\$(-|\\[A-Za-z]+)\$", "", body.replace("\\\\", "")))
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[%#$~^]", bare)
    assert "_" not in re.sub(r"\\label\{[^}]*\}", "", bare)
    environments = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        assert kind == "begin" or environments.pop() == name
        environments += [name] * (kind == "begin")
    assert not environments
    columns = re.search(r"\\begin\{(?:tabular|longtable)\}\{(.*)\}", body)[1]
    n = len(columns.replace("p{5cm}", "p"))
    rows = [line for line in lines if line.endswith(r" \\")]
    rows = rows[1:] if "\\endfirsthead" in lines else rows  # which has the header twice
    assert all(len(re.findall(r"(?<!\\)&", row)) == n - 1 for row in rows)
    assert not [row for row in rows if row[0] in "[*"]
    return len(rows) - 1


def test_latex_is_well_formed(folder):
    rows = {path.stem: check_latex(path.read_text()) for path in folder.glob("*/*.tex")}
    assert rows == {"accuracy": 3, "long": 100, "t": 2}
    text = (folder / "01_train_lficam" / "accuracy.tex").read_text()
    assert r"\label{tab:01_train_lficam-accuracy}" in text
    assert r"A & r & abn & 77.5 & 78.1 & [77.0, 79.0] & +0.6 \\" in text
    assert r"[$-$1.0, 81.0]" in text
    assert r"\caption{Top-1 accuracy. In \%, 95 \% Wilson interval. One run: intervals hold images only" in text


def test_latex_escapes():
    assert latex.escape(r"a_b & 5 % \x {y} ~^ <z> #1 $") == (
        r"a\_b \& 5 \% \textbackslash{}x \{y\} \textasciitilde{}\textasciicircum{} \textless{}z\textgreater{} \#1 \$"
    )
    assert latex.escape("--set\n\nx") == "-{}-set x"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles(folder, tmp_path):
    tables = "\n".join(rf"\input{{{path}}}" for path in sorted(folder.glob("*/*.tex")))
    head = r"\documentclass{article}\usepackage{booktabs,graphicx,longtable}\begin{document}"
    (tmp_path / "all.tex").write_text(f"{head}\n{tables}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_command(folder, home, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: not opened.append(address))
    assert main(["report", "--profile", "smoke", "--open"]) == 0
    assert re.fullmatch(r"reports/smoke/index.html  \d+\.\d MB\n", capsys.readouterr().out)
    assert opened == [(folder / "index.html").as_uri()]
    for profile in ("nowhere", "../reports/smoke", "..", ""):
        assert main(["report", "--profile", profile]) == 2
        assert "`lficam run --profile" in capsys.readouterr().err
    assert main(["report", "--profile", "smoke", "--published"]) == 2
    assert "`lficam publish --profile smoke`" in capsys.readouterr().err
    (folder / "02_hostile" / "record.json").unlink()
    published = {path.name for path in publish("smoke")[0].iterdir()}
    assert published == {
        *("record.json", "accuracy.csv", "accuracy.tex", "long.csv", "long.tex"),
        *("lines.png", "lines.svg", "photos.png"),
    }
    assert main(["report", "--profile", "smoke", "--published"]) == 0
    page = check_self_contained(home / "figures" / "smoke" / "index.html")
    assert "the executed notebook is not kept here" in "".join(page.text)


def test_the_published_results_make_a_page(tmp_path, monkeypatch):
    monkeypatch.setenv("LFICAM_HOME", str(ROOT))
    shutil.copytree(ROOT / "figures" / "desk", tmp_path / "desk")
    path = write_index(tmp_path / "desk")
    page = check_self_contained(path)
    assert path.stat().st_size < 10e6
    text = "".join(page.text)
    records = [json.loads(p.read_text()) for p in (tmp_path / "desk").glob("*/record.json")]
    assert f"{len(records)} of {len(records)} notebooks finished" in text
    assert len(page.named("img")) == sum(len(record["figures"]) for record in records)
    assert "D01" in text
    assert "not shown" not in text
    for content in saved(page, ".tex").values():
        check_latex(content.decode())
