"""The headline numbers: of each paper's own method, published beside reproduced, from the notebooks' tables."""

from .reading import DASH, read_csv, reading

HEADLINES = (  # paper, notebook, its table, measure ("": AD and IC, which the table names), explainers
    ("ABN (CVPR 2019), LFI-CAM (ICCV 2021)", "01_train_lficam", "accuracy.csv", "top-1 accuracy (%)", ()),
    ("LFI-CAM: stability of the maps", "06_iou", "average.csv", "IoU between models", ()),
    ("L-CAM (ECCV workshops 2022)", "03_lcam", "scores.csv", "", ("l-cam-fm", "l-cam-img")),
    ("TAME (ISM 2022)", "04_tame", "scores.csv", "", ("tame",)),
    (
        "TAME, T-TAME (IEEE Access 2024) and others on the same images",
        *("05_ad_ic", "scores.csv", ""),
        ("t-tame", "tame", "l-cam-img", "score-cam", "grad-cam", "rise"),
    ),
)
AD_IC = ("AD 100", "IC 100")
LIKE = {"published": 1, "reproduced": 1, "low": 1, "high": 1}  # decimals of AD and IC in percent
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
    found = [
        (paper, notebook, _rows(finished[notebook], *wanted))
        for paper, notebook, *wanted in HEADLINES
        if notebook in finished
    ]
    both = any(row["Δ"] != DASH for *_, rows in found for row in rows)
    names = [name for name in (*WORDS, *COLUMNS) if both or name != "Δ"]
    groups = [
        (paper, notebook, [(None if r["reproduced"] != DASH else "other", [r[name] for name in names]) for r in rows])
        for paper, notebook, rows in found
        if rows
    ]
    note = "Δ: reproduced − published." if both else "No row has both: this profile ran none of the papers’ settings."
    columns = [(name, "number" if name in COLUMNS else None) for name in names]
    table = ("Headline numbers", columns, groups)
    return {"title": "Headline numbers.", "caption": CAPTION.format(note), "table": table} if groups else None


def _rows(section, file, measure, explainers):
    """Texts by the names of `WORDS` and `COLUMNS`; none when the table is not as expected."""
    entry = next((entry for entry in section.record.get("tables", []) if entry["file"] == file), None)
    keep = {} if measure else {"explainer": explainers, "measure": AD_IC}
    try:
        header, rows = read_csv(section.folder / file) if entry else ([], [])
        if not {"published", "reproduced", *keep} <= set(header):
            return []
        rows = [row for row in rows if all(row[header.index(name)] in values for name, values in keep.items())]
        read = reading(header, rows, LIKE if keep else entry.get("digits"), fold=False)
    except ValueError:
        return []  # its section says so
    found = []
    for row in read.rows:
        named = dict(zip(read.header, row, strict=True))
        method = named.get("method") or named.get("explainer", DASH)
        where = [named[name] for name in ("dataset", "backbone", "classifier") if named.get(name, DASH) != DASH]
        if method != CONTROL or named["reproduced"] != DASH:
            words = (method, ", ".join(where) or DASH, measure or named["measure"])
            found.append(dict(zip(WORDS, words, strict=True)) | {name: named.get(name, DASH) for name in COLUMNS})
    return found
