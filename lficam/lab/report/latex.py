r"""Tables for papers: \input{table.tex} with booktabs; longtable for long ones, graphicx for wide ones."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .tables import RANGED, Readable, read_csv, readable

LONG = 40  # rows: more of them do not fit on a page
WIDE, BROAD = 80, 100  # characters of a row: set in small type, and scaled to the line
TEXT = 45  # characters: longer texts are broken into lines
ONE_RUN = "One run: intervals hold images only, not how trainings vary."
AGREES = "Reference: its mean, and where one more run would lie; agrees: what lies there."
OVER_SEEDS = "Means of {} runs that differ in the seed; intervals over trainings and images."
SPECIAL = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}"},
    **{"—": "---", "–": "--", "−": "$-$", "Δ": r"$\Delta$", "×": r"$\times$", "±": r"$\pm$"},
    **{"≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\rightarrow$", "·": r"$\cdot$", "\0": "{}"},
}


def escape(text: str) -> str:
    r"""Plain text as one line of LaTeX.

    >>> print(escape("50 %_a --set"))
    50 \%\_a -{}-set
    """
    text = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", str(text)).split())
    return "".join(SPECIAL.get(sign, sign) for sign in re.sub("-(?=-)", "-\0", text))


def table(path: Path, entry: dict[str, Any], notebook: str, runs: int = 1) -> str:
    r"""A CSV file as a LaTeX table for reading, with \caption and \label{tab:NOTEBOOK-TABLE}.

    path: of the file; entry: of the record, with title, caption and digits; runs: whose means it has. Up to 40 rows it
    floats (`table`), longer ones are a `longtable`; what is wider than a line is scaled to it. Raises `ValueError` when
    the file cannot be read.
    """
    header, rows = read_csv(path)
    read = readable(header, rows, entry.get("digits"))
    caption = " ".join(
        filter(None, (sentence(entry.get("title", "")), entry.get("caption", ""), notes(read, entry, runs)))
    )
    label = "tab:" + re.sub(r"[^\w:-]", "-", f"{notebook}-{path.stem}", flags=re.ASCII)
    heading = f"\\caption{{{escape(caption)}}}\\label{{{label}}}"
    texts = list(zip(*[read.header, *read.rows], strict=True))
    columns = "".join(map(_column, read.numeric, texts))
    body = ["\\toprule", _line(read.header), "\\midrule"]
    lines = [*map(_line, read.rows), "\\bottomrule"]
    width = sum(min(max(map(len, column)), TEXT) + 2 for column in texts)
    size = ["\\footnotesize" if width > BROAD else "\\small"] * (width > WIDE)
    if len(read.rows) > LONG:
        start = ["\\begingroup", *size, f"\\begin{{longtable}}{{{columns}}}", f"{heading}\\\\"]
        lines = [*start, *body, "\\endfirsthead", *body, "\\endhead", *lines, "\\end{longtable}", "\\endgroup"]
        packages = "booktabs, longtable"
    else:
        tabular = [f"\\begin{{tabular}}{{{columns}}}", *body, *lines, "\\end{tabular}"]
        if width > BROAD:
            tabular = ["\\resizebox{\\linewidth}{!}{%", *tabular, "}"]
        start = ["\\begin{table}", "\\centering", heading, "\\par\\smallskip", *size]
        lines = [*start, *tabular, "\\end{table}"]
        packages = "booktabs, graphicx" if width > BROAD else "booktabs"
    return "\n".join([f"% \\input this; UTF-8; needs {packages}.", *lines]) + "\n"


def sentence(text: str) -> str:
    """A title with a full stop."""
    return f"{text}." if text and str(text)[-1] not in ".?!" else str(text)


def notes(read: Readable, entry: dict[str, Any], runs: int = 1) -> str:
    """What a caption still has to say: N if all rows share it, what intervals hold, what Δ and agreement are."""
    said = f"N = {read.n}" in str(entry.get("caption", ""))
    n = f"N = {read.n}." if read.n and not said else ""
    intervals = "interval" in read.header or any(RANGED.fullmatch(text) for row in read.rows for text in row)
    held = "" if not intervals else OVER_SEEDS.format(runs) if runs > 1 else ONE_RUN
    told = [held, n, "Δ: reproduced − published." if "Δ" in read.header else ""]
    return " ".join(filter(None, [*told, AGREES if "agrees" in read.header else ""]))


def _column(numeric: bool, texts: Iterable[str]) -> str:
    return "r" if numeric else "p{5cm}" if max(map(len, texts)) > TEXT else "l"


def _line(row: Iterable[str]) -> str:
    cells = " & ".join(map(escape, row))
    return ("{}" if cells[:1] in "[*" else "") + cells + r" \\"
