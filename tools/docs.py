"""Make the generated parts of the documentation anew, from docstrings and from data/*.csv:

    python tools/docs.py

A page says itself what it shows, between `<!-- api: NAMES -->` or `<!-- csv: FILE [BEGINNING ...] -->` and
`<!-- end -->`: names within lficam, as `training.jobs.train`; a file, of which only the rows are shown that begin so.
Tables of results are filled by `lficam publish`.
"""

import ast
import csv
import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout, whatever is installed


def fill(text):
    """A page's text with every generated block made anew."""
    makers = {"api": lambda names: "\n".join(map(entry, names.split())), "csv": table}

    def block(match):
        return f"<!-- {match[1]}: {match[2]} -->\n{makers[match[1]](match[2])}\n<!-- end -->"

    return re.sub(rf"<!-- ({'|'.join(makers)}): (.+?) -->\n.*?<!-- end -->", block, text, flags=re.S)


def entry(name):
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


def _described(name, thing):
    yield from textwrap.wrap(name + _arguments(thing), 110, subsequent_indent=" " * 8, break_on_hyphens=False)
    for line in inspect.getdoc(thing).splitlines():
        yield f"    {line}".rstrip()


def _arguments(thing):
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


def table(what):
    """A CSV file of the project as a Markdown table; with beginnings after its name only the rows that begin so."""
    name, *beginnings = what.split()
    with (ROOT / name).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows if row[0].startswith(tuple(beginnings or [""]))]
    lines = [
        [title.replace("_", " ").replace("authors ", "authors' ") for title in header],
        ["---"] * len(header),
        *rows,
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main():
    """Write every page whose generated parts have changed."""
    from lficam import files

    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (now := fill(text)) != text:
            with files.atomic(page, "w") as file:
                file.write(now)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
