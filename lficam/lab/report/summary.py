"""The headline numbers: of each paper's own method, published beside reproduced, from the notebooks' tables."""

from dataclasses import dataclass, field

from .parts import text
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
OTHER = ' class="other"'
WORDS = ("method", "on", "measure")
COLUMNS = ("published", "reproduced", "interval", "Δ", "N")


def headlines(sections):
    """One table of all papers, a group of rows each; "" when no notebook has any of them."""
    finished = {section.name: section for section in sections if section.record}
    groups = [(headline, _rows(headline, finished.get(headline.notebook))) for headline in HEADLINES]
    groups = [(headline, rows) for headline, rows in groups if rows]
    if not groups:
        return ""
    both = any(row[3] != DASH != row[4] for _, rows in groups for row in rows)
    columns = [name for name in (*WORDS, *COLUMNS) if both or name != "Δ"]
    kinds = [' class="number"' * (name in COLUMNS) for name in columns]
    head = "".join(f'<th scope="col"{kind}>{name}</th>' for kind, name in zip(kinds, columns, strict=True))
    note = "Δ: reproduced − published." if both else "No row has both: this profile ran none of the papers’ settings."
    return (
        '<figure class="table"><figcaption><b>Headline numbers.</b> Published by the paper, and reproduced here with '
        f"its 95 % interval. {note} Grey: published for settings that were not run here. The conventions stand at the "
        'tables they are taken from.</figcaption><div class="scroll" role="region" aria-label="Headline numbers" '
        f'tabindex="0"><table><thead><tr>{head}</tr></thead>{"".join(_group(*group, kinds, both) for group in groups)}'
        "</table></div></figure>"
    )


def _group(headline, rows, kinds, both):
    title = f'{text(headline.paper)} <a href="#{headline.notebook}">{headline.notebook}</a>'
    lines = [f'<tr><th scope="rowgroup" colspan="{len(kinds)}" class="group">{title}</th></tr>']
    for row in rows:
        shown = [c for c, name in zip(row, (*WORDS, *COLUMNS), strict=True) if both or name != "Δ"]
        first, *cells = (f"{kind}>{text(c)}" for kind, c in zip(kinds, shown, strict=True))
        line = f'<th scope="row"{first}</th>' + "".join(f"<td{c}</td>" for c in cells)
        lines.append(f"<tr{OTHER * (row[4] == DASH)}>{line}</tr>")
    return f"<tbody>{''.join(lines)}</tbody>"


def _rows(headline, section):
    """Method, where, measure and the numbers, as texts; none when the table is not as expected."""
    tables = section.record.get("tables", []) if section else []
    entry = next((entry for entry in tables if entry["file"] == headline.file), None)
    if not entry:
        return []
    try:
        header, rows = read_csv(section.folder / section.name / headline.file)
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
        found.append([method, ", ".join(where) or DASH, measure, *(named.get(c, DASH) for c in COLUMNS)])
    return found
