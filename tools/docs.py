"""Make the generated parts of the pages anew, from docstrings, from data/*.csv and from the published results,
and in how many runs what pages and notebooks claim is true (lficam/data/tables/claims.csv):

    python tools/docs.py

A page says itself what it shows, between one of these lines and `<!-- end -->`:

    <!-- api: NAMES -->                names within lficam, as `training.jobs.train`
    <!-- csv: FILE [BEGINNING ...] --> a file; with beginnings only the rows that begin so
    <!-- PROFILE:NOTEBOOK/TABLE.csv -->  a table of figures/; of one with a column "reproduced" the rows that were
"""

import ast
import csv
import importlib
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout, whatever is installed

BLOCK = re.compile(r"<!-- ([\w-]+):( ?)(\S+(?: \S+)*?) -->\n.*?<!-- end -->", re.S)


def fill(text: str, figures: Path = ROOT / "figures") -> str:
    """A page's text with every generated block made anew. Raises `InputError` for a table that was not published."""

    def block(match: re.Match[str]) -> str:
        kind, space, what = match.groups()
        made = MAKERS[kind](what) if space and kind in MAKERS else None if space else results(figures / kind / what)
        return match[0] if made is None else f"<!-- {kind}:{space}{what} -->\n{made}\n<!-- end -->"

    return BLOCK.sub(block, text)


def results(path: Path) -> str:
    """A table of a finished notebook, written as on the page of the results; below it N and what its intervals hold."""
    from lficam.errors import InputError
    from lficam.lab.report import latex, tables, values

    try:
        record = json.loads((path.parent / "record.json").read_bytes())
        header, rows = tables.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"A page shows {path}, which is not published ({error}): run that notebook.") from None
    if "reproduced" in header:
        rows = [row for row in rows if row[header.index("reproduced")]]
    entry = next(entry for entry in record["tables"] if entry["file"] == path.name)
    reference = (path.parents[1] / "values.csv").is_file()
    runs = len(values.read(path.parents[1]).seeds_of(path.parent.name)) if reference else 1
    read = tables.readable(header, rows, entry.get("digits"))
    n = "" if read.n else next(iter(re.findall(r"N = \d+", entry.get("caption", ""))), "")
    shown = [i for i, texts in enumerate(zip(*read.rows, strict=True)) if set(texts) != {tables.DASH}]
    lines = ([row[i] for i in shown] for row in read.rows)
    notes = " ".join(filter(None, (latex.notes(read, {}, runs), n and f"{n}.")))
    return markdown([read.header[i] for i in shown], lines) + (f"\n\n{notes}" if notes else "")


def table(what: str) -> str:
    """A CSV file of the project; with beginnings after its name only the rows that begin so."""
    name, *beginnings = what.split()
    with (ROOT / name).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    titles = [title.replace("_", " ").replace("authors ", "authors' ") for title in header]
    return markdown(titles, [row for row in rows if row[0].startswith(tuple(beginnings or [""]))])


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def reference(names: str) -> str:
    """What lficam has under these names."""
    return "\n".join(map(entry, names.split()))


def entry(name: str) -> str:
    """What lficam has under a name, as Markdown: signature, docstring and the methods that a class documents itself."""
    home, _, short = name.rpartition(".")
    try:
        thing = getattr(importlib.import_module(f"lficam.{home}" if home else "lficam"), short)
    except AttributeError:
        thing = importlib.import_module(f"lficam.{name}")
    thing = inspect.unwrap(thing)
    lines = [*_described(f"lficam.{name}", thing)]
    for method, value in vars(thing).items() if inspect.isclass(thing) else ():
        value = getattr(value, "fget", None) or getattr(value, "func", value)  # of properties, cached ones too
        if inspect.isfunction(value) and value.__doc__ and value.__name__ == method and method[0] != "_":
            lines += ["", *(f"    {line}".rstrip() for line in _described(f".{method}", value))]
    source = Path(inspect.getsourcefile(thing)).resolve().relative_to(ROOT).as_posix()
    return "\n".join([f"### {name}", "", "```text", *lines, "```", "", f"In [{source}](../{source}).", ""])


def _described(name: str, thing: Any) -> Iterator[str]:
    yield from textwrap.wrap(name + _arguments(thing), 110, subsequent_indent=" " * 8, break_on_hyphens=False)
    for line in inspect.getdoc(thing).splitlines():
        yield f"    {line}".rstrip()


def _arguments(thing: Any) -> str:
    """The arguments as the source writes them; of a class those of __init__, or the fields."""
    if inspect.ismodule(thing):
        return ""
    node = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    if isinstance(node, ast.ClassDef):
        node, kind = next((item for item in node.body if getattr(item, "name", "") == "__init__"), None), node
        fields = [ast.unparse(item) for item in kind.body if isinstance(item, ast.AnnAssign)]
        bases = [base for base in thing.__mro__[1:] if base.__module__.startswith("lficam.")]
        if node is None:
            return f"({', '.join(fields)})" if fields else _arguments(bases[0]) if bases else ""
    if any("property" in ast.unparse(mark) for mark in node.decorator_list):
        return ""
    arguments = node.args
    if arguments.args and arguments.args[0].arg == "self":
        del arguments.args[0]
    return f"({ast.unparse(arguments)})"


MAKERS: dict[str, Callable[[str], str]] = {"api": reference, "csv": table}


def notebook(path: Path) -> str:
    """A notebook's file with the counts of its claims made anew."""
    from lficam.lab.report.claims import counted

    made = json.loads(path.read_bytes())
    for cell in made["cells"]:
        if cell["cell_type"] == "markdown":
            text = counted("".join(cell["source"]), path.relative_to(ROOT).as_posix(), ROOT / "figures")
            cell["source"] = text.splitlines(keepends=True)
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every page and notebook whose generated parts have changed."""
    from lficam import files
    from lficam.lab.report.claims import counted

    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in (*pages, *sorted((ROOT / "notebooks").glob("*.ipynb"))):
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(ROOT).as_posix()
        now = notebook(page) if page.suffix == ".ipynb" else counted(fill(text), name, ROOT / "figures")
        if now != text:
            with files.atomic(page, "w") as file:
                file.write(now)
            print(name)


if __name__ == "__main__":
    main()
