"""The headline numbers: of each paper's own method, published beside reproduced, from the notebooks' tables."""

from dataclasses import dataclass, field

from .reading import DASH, read_csv, reading

AD_IC = ("AD 100", "IC 100")
LIKE = {"published": 1, "reproduced": 1, "low": 1, "high": 1}  # decimals of AD and IC in percent


@dataclass(frozen=True)
class Headline:
    """A paper's number in a notebook's table: the rows whose columns hold one of the values of `keep`."""

    paper: str
    notebook: str
    file: str
    measure: str = ""  # "": the table says it itself
    keep: dict = field(default_factory=dict)
    digits: dict = field(default_factory=dict)  # instead of the table's


def _ad_ic(paper, notebook, *explainers):
    return Headline(paper, notebook, "scores.csv", "", {"explainer": explainers, "measure": AD_IC}, LIKE)


HEADLINES = (
    Headline("ABN (CVPR 2019), LFI-CAM (ICCV 2021)", "01_train_lficam", "accuracy.csv", "top-1 accuracy (%)"),
    Headline("LFI-CAM: stability of the maps", "06_iou", "average.csv", "IoU between models"),
    _ad_ic("L-CAM (ECCV workshops 2022)", "03_lcam", "l-cam-fm", "l-cam-img"),
    _ad_ic("TAME (ISM 2022)", "04_tame", "tame"),
    _ad_ic(
        "TAME, T-TAME (IEEE Access 2024) and others on the same images",
        "05_ad_ic",
        *("t-tame", "tame", "l-cam-img", "score-cam", "grad-cam", "rise"),
    ),
)
CONTROL = "plain"  # whose published accuracy is left to the notebook's own table
WORDS = ("method", "on", "measure")
COLUMNS = ("published", "reproduced", "interval", "Δ", "N")
CAPTION = (
    "Published by the paper, and reproduced here with its 95 % interval. {} Grey: published for settings that were not "
    "run here. The conventions stand at the tables they are taken from."
)


def headlines(sections):
    """One table of all papers, a group of rows each, as values of the page; None when no notebook has any of them."""
    finished = {section.name: section for section in sections}
    groups = [(headline, _rows(headline, finished.get(headline.notebook))) for headline in HEADLINES]
    groups = [(headline, rows) for headline, rows in groups if rows]
    if not groups:
        return None
    both = any(row["Δ"] != DASH for _, rows in groups for row in rows)
    names = [name for name in (*WORDS, *COLUMNS) if both or name != "Δ"]
    note = "Δ: reproduced − published." if both else "No row has both: this profile ran none of the papers’ settings."
    shown = [
        (h.paper, h.notebook, [("other" if r["reproduced"] == DASH else None, [r[n] for n in names]) for r in rows])
        for h, rows in groups
    ]
    columns = [(name, "number" if name in COLUMNS else None) for name in names]
    return {
        "title": "Headline numbers.",
        "caption": CAPTION.format(note),
        "table": ("Headline numbers", columns, shown),
        "rows": 0,  # never folded
    }


def _rows(headline, section):
    """Texts by the names of `WORDS` and `COLUMNS`; none when the table is not as expected."""
    tables = section.record.get("tables", []) if section else []
    entry = next((entry for entry in tables if entry["file"] == headline.file), None)
    if not entry:
        return []
    try:
        header, rows = read_csv(section.folder / headline.file)
        if not {"published", "reproduced", *headline.keep} <= set(header):
            return []
        rows = [row for row in rows if all(row[header.index(c)] in values for c, values in headline.keep.items())]
        read = reading(header, rows, headline.digits or entry.get("digits"), fold=False)
    except ValueError:
        return []  # its section says so
    found = []
    for row in read.rows:
        named = dict(zip(read.header, row, strict=True))
        method = named.get("method") or named.get("explainer", DASH)
        where = [named[c] for c in ("dataset", "backbone", "classifier") if named.get(c, DASH) != DASH]
        if method == CONTROL and named["reproduced"] == DASH:
            continue
        measure = headline.measure or named.get("measure", DASH)
        words = dict(zip(WORDS, (method, ", ".join(where) or DASH, measure), strict=True))
        found.append(words | {name: named.get(name, DASH) for name in COLUMNS})
    return found
