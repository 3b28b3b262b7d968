r"""Tables for papers: \input{table.tex} after \usepackage{booktabs}, and {longtable} for the long ones."""

import re

from .reading import read_csv, reading

LONG = 40  # rows: more of them do not fit on a page
WIDE = 7  # columns: more of them are set in small type
TEXT = 45  # characters: longer texts are broken into lines
SPECIAL = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}"},
    **{"—": "---", "–": "--", "−": "$-$", "Δ": r"$\Delta$", "×": r"$\times$", "±": r"$\pm$"},
    **{"≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\rightarrow$", "·": r"$\cdot$", "\0": "{}"},
}


def escape(text):
    r"""Plain text as one line of LaTeX.

    >>> print(escape("50 %_a --set"))
    50 \%\_a -{}-set
    """
    text = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", str(text)).split())
    return "".join(SPECIAL.get(sign, sign) for sign in re.sub("-(?=-)", "-\0", text))


def table(path, entry, notebook):
    r"""A CSV file as a LaTeX table for reading, with \caption and \label{tab:NOTEBOOK-TABLE}.

    path: of the file; entry: of the record, with title, caption and digits. Up to 40 rows it floats (`table`), longer
    ones are a `longtable`. Raises `ValueError` when the file cannot be read.
    """
    header, rows = read_csv(path)
    read = reading(header, rows, entry.get("digits"))
    caption = " ".join(filter(None, (sentence(entry.get("title", "")), entry.get("caption", ""), notes(read, entry))))
    label = "tab:" + re.sub(r"[^\w:-]", "-", f"{notebook}-{path.stem}", flags=re.ASCII)
    heading = f"\\caption{{{escape(caption)}}}\\label{{{label}}}"
    columns = "".join(map(_column, read.numeric, zip(*[read.header, *read.rows], strict=True)))
    lines = [_line(row) for row in read.rows]
    size = ["\\small"] * (len(read.header) > WIDE)
    if len(lines) > LONG:
        start, end = [f"\\begin{{longtable}}{{{columns}}}", f"{heading}\\\\"], ["\\end{longtable}"]
        top = ["\\toprule", _line(read.header), "\\midrule", "\\endhead"]
        start, end, packages = ["\\begingroup", *size, *start], [*end, "\\endgroup"], "booktabs and longtable"
    else:
        start = ["\\begin{table}", "\\centering", *size, heading, f"\\begin{{tabular}}{{{columns}}}"]
        top, end = ["\\toprule", _line(read.header), "\\midrule"], ["\\end{tabular}", "\\end{table}"]
        packages = "booktabs"
    head = f"% \\input this; UTF-8, needs the package{'s' * (' ' in packages)} {packages}."
    return "\n".join([head, *start, *top, *lines, "\\bottomrule", *end]) + "\n"


def sentence(text):
    """A title with a full stop."""
    return f"{text}." if text and str(text)[-1] not in ".?!" else str(text)


def notes(read, entry):
    """What a caption still has to say: N if all rows share it, and what Δ is."""
    said = f"N = {read.n}" in str(entry.get("caption", ""))
    n = f"N = {read.n}." if read.n and not said else ""
    return " ".join(filter(None, (n, "Δ: reproduced − published." if "Δ" in read.header else "")))


def _column(numeric, texts):
    return "r" if numeric else "p{5cm}" if max(map(len, texts)) > TEXT else "l"


def _line(row):
    cells = " & ".join(map(escape, row))
    return ("{}" if cells[:1] in "[*" else "") + cells + r" \\"
