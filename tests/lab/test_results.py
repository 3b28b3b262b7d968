"""What a notebook leaves: tables, figures, and the record that says it succeeded."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lficam.lab.report.results import Report, show
from lficam.lab.report.tables import readable
from lficam.lab.report.values import numbers_of


def test_report_is_complete_only_with_its_record(home):
    report = Report("01_x", profile="smoke", parameters={"lr": 0.1})
    table = pd.DataFrame({"a": [1.23456, None]})
    shown = report.table(table, "numbers", "Numbers", "N = 2", {"a": 2})
    assert shown.a.tolist() == ["1.23", "—"]
    figure = plt.figure()
    report.figure(figure, "empty", "Nothing", "An empty figure")
    plt.close(figure)
    folder = home / "reports" / "lab" / "01_x"
    assert not (folder / "record.json").exists()
    report.finish("cpu", 7, accuracy=np.float64(0.5))
    record = json.loads((folder / "record.json").read_text())
    assert record["results"] == {"accuracy": 0.5}
    assert record["seed"] == 7
    said = {"command", "commit", "dirty", "versions", "device", "started", "seconds", "parameters", "profile"}
    assert said <= record.keys()
    assert all((folder / entry["file"]).stat().st_size for entry in record["tables"] + record["figures"])
    assert pd.read_csv(folder / "numbers.csv").a[0] == 1.23456
    Report("01_x")
    assert not (folder / "record.json").exists()  # a new run starts without the old claim


def test_a_notebook_writes_numbers_as_the_page_does():
    table = pd.DataFrame({"n": [3, 4], "x": [1 / 3, -2.0], "y": [-0.125, None], "name": ["a-1", "nan"]})
    texts = [line.split(",") for line in table.to_csv(index=False).split()[1:]]
    rows = readable(list(table), texts, {"n": 1, "y": 2}, fold=False).rows
    assert show(table, {"n": 1, "y": 2}).to_numpy().tolist() == rows
    assert rows == [["3", "0.333333", "−0.12", "a-1"], ["4", "−2", "—", "—"]]


def test_a_notebook_shows_tables_without_row_numbers_and_with_words_to_the_left():
    table = show(pd.DataFrame({"method": ["tame", "<b>"], "N": [3, 4], "published": [1.5, None]}), {"published": 1})
    page = table._repr_html_()
    assert page.count("<tr>") == 3
    assert not re.search("row_heading|index_name", page)
    assert "&lt;b&gt;" in page
    assert re.search(r"#T_\w+ \.col0 \{\s*text-align: left", page)
    assert not re.search(r"\.col[12] \{\s*text-align: left", page)
    assert "method" in show(table.head(0))._repr_html_()  # nothing but its header


def test_times_are_no_numbers_of_a_run(tmp_path):
    header = "explainer,published,reproduced,equal,milliseconds,lower quartile,upper quartile,in a batch,forward passes"
    (tmp_path / "t.csv").write_text(f"{header}\nrise,4000,2000,no,5.5,5.1,5.9,4.4,2000\n")
    assert list(numbers_of(tmp_path / "t.csv")) == [("rise", "reproduced", 2000), ("rise", "forward passes", 2000)]
