"""The page of reports/PROFILE: one file that opens anywhere, from what the notebooks left.

Here its values are gathered, all of them plain; page.html says how they are shown, and escapes each.
"""

import base64
import json
from pathlib import Path
from urllib.parse import quote

from ... import files
from ...plots import pictures
from ...progress import duration
from ..notebooks.finished import read_record
from . import latex
from .reading import DASH, number, read_csv, reading
from .summary import headlines

BROAD = 45  # characters: longer texts in a table are broken into lines
KINDS = {".png": "image/png", ".svg": "image/svg+xml", ".csv": "text/csv", ".tex": "text/x-tex"}


def _pages():
    import jinja2  # not where errors are told, which is without the extra `lab` too

    place = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=place, autoescape=True, trim_blocks=True, lstrip_blocks=True)


def write_index(folder):
    """Write index.html of reports/PROFILE or figures/PROFILE: summary, tables, figures, run records, deviations.

    It holds its images and tables itself; what failed, is damaged or was not run is named. Returns its path.
    Raises `InputError` when the disk refuses.
    """
    folder = Path(folder)
    settings = files.root() / "notebooks" / "profiles" / folder.name
    names = {path.stem for path in settings.glob("*.yaml")}
    names |= {path.parent.name for path in folder.glob("[!.]*/record.json")}
    names |= {path.name.removesuffix(".failed.ipynb") for path in folder.glob("*.failed.ipynb")}
    sections = [Section(folder / name, place) for place, name in enumerate(sorted(names), 1)]
    done = [section for section in sections if section.record]
    page = (
        _pages()
        .get_template("page.html")
        .render(
            profile=folder.name,
            place=f"{folder.parent.name}/{folder.name}/",
            sections=sections,
            finished=len(done),
            took=duration(sum(section.seconds for section in done)),
            summary=_summary(sections),
            headlines=headlines(done),
            deviations=_deviations(),
            pairs=_pairs,
        )
    )
    with files.atomic(folder / "index.html") as file:
        file.write(page.encode("utf-8", "replace"))  # a damaged record may hold what UTF-8 cannot
    return folder / "index.html"


class Section:
    """One notebook on the page, in reports/PROFILE/NAME: what it left, or that it left nothing. place: its number."""

    def __init__(self, folder, place):
        self.folder, self.name, self.record, self.damage = folder, folder.name, None, ""
        try:
            self.record = read_record(folder)
        except (ValueError, OSError) as error:
            self.damage = str(error) if folder.exists() else ""
        self.failure = _failure(folder.parent / f"{self.name}.failed.ipynb")
        self.state = "failed" if self.failure or self.damage else "finished" if self.record else "not run yet"
        self.id, self.title = quote(self.name), _title(files.root() / "notebooks" / f"{self.name}.ipynb") or self.name
        record = self.record or {}
        seconds = max(0.0, number(record.get("seconds")) or 0.0)
        self.seconds = seconds if seconds < 1e9 else 0.0  # also of a record that says Infinity or NaN
        results = record.get("results")
        self.images = results.get("data") if isinstance(results, dict) else None
        self.commit = str(record.get("commit", "unknown"))
        self.parts = [
            _part(show, folder, entry, f"{word} {place}.{i}")
            for word, kind, show in (("Table", "tables", _table), ("Figure", "figures", _figure))
            for i, entry in enumerate(record.get(kind, []), 1)
        ]
        self.kept = (folder / f"{self.name}.html").is_file()
        words = ("executed notebook", "executed notebook, .ipynb", "record")
        beside = zip(words, (f"{self.name}.html", f"{self.name}.ipynb", "record.json"), strict=True)
        self.beside = [(word, _link(folder, folder / file)) for word, file in beside if (folder / file).is_file()]
        tables = [folder / entry["file"] for entry in record.get("tables", [])]
        tables = [path.with_suffix(end) for path in tables for end in (".csv", ".tex")]
        tables = [path for path in tables if path.is_file() and path.is_relative_to(folder)]
        self.tables = [(path.name, _link(folder, path)) for path in tables]


def _part(show, folder, entry, place):
    """A table or figure of a record as values; where it cannot be shown, the reason."""
    title = {"title": f"{place}. {latex.sentence(entry.get('title') or '')}"}
    try:
        if not (folder / entry["file"]).is_relative_to(folder):
            raise ValueError("it lies outside of the notebook's folder")
        return title | show(folder, entry, place)
    except (ValueError, OSError) as error:
        return {"file": entry["file"], "error": str(error)}


def _table(folder, entry, place):
    path = folder / entry["file"]
    header, rows = read_csv(path)
    read = reading(header, rows, entry.get("digits"))
    name = f"{folder.name}-{Path(entry['file']).stem}"
    return {
        "caption": " ".join(filter(None, (str(entry.get("caption") or ""), latex.notes(read, entry)))),
        "table": _grid(place, read.header, read.rows, read.numeric),
        "rows": len(rows),
        "saves": [
            ("CSV, full numbers", f"{name}.csv", _inside(path.read_bytes(), ".csv")),
            ("LaTeX", f"{name}.tex", _inside(latex.table(path, entry, folder.name).encode(), ".tex")),
        ],
    }


def _figure(folder, entry, _):
    """An image, as SVG if it is of lines, and its files."""
    png = folder / entry["file"]
    if png.suffix != ".png":
        raise ValueError("a figure has to be a PNG")
    shown = pictures.sharper(png)
    content = shown.read_bytes()
    there = [path for path in (png, png.with_suffix(".svg"), png.with_suffix(".pdf")) if path.is_file()]
    return {
        "caption": str(entry.get("caption") or ""),
        "src": _inside(content, shown.suffix),
        "alt": entry.get("title") or entry["file"],
        "width": pictures.width(content),
        "links": [(path.suffix[1:].upper(), _link(folder, path)) for path in there],
    }


def _grid(label, header, rows, numeric, wrap=False):
    """A table of the page; numbers stand to the right. wrap: break all its texts into lines."""
    broad = [wrap or max((len(row[i]) for row in rows), default=0) > BROAD for i in range(len(header))]
    kinds = ["number" if n else "wrap" if b else None for n, b in zip(numeric, broad, strict=True)]
    return label, list(zip(header, kinds, strict=True)), [("", "", [(None, row) for row in rows])]


def _summary(sections):
    words = {"notebook": None, "title": "wrap", "state": None, "took": "number", "commit": None}
    rows = [
        [
            {"text": section.name, "link": section.id},
            section.title,
            {"text": section.state, "class": None if section.state == "finished" else "bad"},
            duration(section.seconds) if section.record else DASH,
            section.commit[:7] + " + changes" * bool(section.record.get("dirty")) if section.record else DASH,
        ]
        for section in sections
    ]
    return "Notebooks", list(words.items()), [("", "", [(None, row) for row in rows])]


def _deviations():
    """data/deviations.csv as an appendix; None where the project folder has none."""
    try:
        header, rows = read_csv(files.root() / "data" / "deviations.csv")
    except ValueError:
        return None
    names = [name.replace("_", " ") for name in header]
    return {"rows": len(rows), "table": _grid("Deviations", names, rows, [False] * len(names), True)} if rows else None


def _inside(content, suffix):
    """Bytes as an address that holds them."""
    return f"data:{KINDS[suffix]};base64,{base64.b64encode(content).decode()}"


def _link(folder, path):
    return quote(f"{folder.name}/{path.relative_to(folder).as_posix()}")


def _pairs(values, between):
    """A mapping as text; of data splits the number of images and the hash of their list, shortened."""

    def text(value):
        match value:
            case [int(n), str(hashed)] if len(hashed) == 64:
                return f"N = {n} (list {hashed[:12]})"
        return value

    known = isinstance(values, dict) and values
    return ", ".join(f"{key}{between}{text(value)}" for key, value in values.items()) if known else DASH


def _title(notebook):
    """The first heading of a notebook, "" without one."""
    try:
        cells = json.loads(notebook.read_bytes())["cells"]
        lines = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown").splitlines()
    except (OSError, ValueError, KeyError):
        return ""
    return next((line.removeprefix("# ").strip() for line in lines if line.startswith("# ")), "")


def _failure(notebook):
    """Why a kept notebook failed, "" when there is none."""
    try:
        return str(json.loads(notebook.read_bytes())["metadata"]["lficam"]["failure"]) or "It left no reason."
    except OSError:
        return ""
    except (ValueError, KeyError, TypeError):
        return "It left no reason."
