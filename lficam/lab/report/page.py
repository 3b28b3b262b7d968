"""The page of reports/PROFILE: one file that opens anywhere, from what the notebooks left.

Here its values are gathered, all of them plain; page.html says how they are shown, and escapes each.
"""

import base64
import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ... import files
from ...errors import InputError, choose
from ...plots import pictures
from ...progress import duration
from . import latex
from .records import read_record
from .tables import DASH, number, read_csv, readable
from .values import PLACE, Values, over_seeds, places, read
from .verify import beside_reference, judge, sentence

BROAD = 45  # characters: longer texts in a table are broken into lines
KINDS = {".png": "image/png", ".svg": "image/svg+xml", ".csv": "text/csv", ".tex": "text/x-tex"}

HEADLINES: tuple[
    tuple[str, str, str, str, tuple[str, ...]], ...
] = (  # paper, notebook, its table, measure ("": AD and IC, which the table names), explainers
    ("ABN (CVPR 2019), LFI-CAM (ICCV 2021)", "01_train_lficam", "accuracy.csv", "top-1 accuracy (%)", ()),
    ("LFI-CAM: stability of the maps", "06_iou", "average.csv", "IoU between models", ()),
    ("L-CAM (ECCV workshops 2022)", "03_lcam", "scores.csv", "", ("l-cam-fm", "l-cam-img")),
    ("TAME (ISM 2022)", "04_tame", "scores.csv", "", ("tame",)),
    (
        "TAME, T-TAME (IEEE Access 2024) and others on the same images",
        "05_ad_ic",
        "scores.csv",
        "",
        ("t-tame", "tame", "l-cam-img", "score-cam", "grad-cam", "rise"),
    ),
)
AD_IC = ("AD 100", "IC 100")
AD_IC_DIGITS = {"published": 1, "reproduced": 1, "low": 1, "high": 1}  # of percent
CONTROL = "plain"  # whose published accuracy is left to the notebook's own table
WORDS = ("method", "on", "measure")
COLUMNS = ("published", "reproduced", "interval", "Δ", "reference", "agrees", "N")
CAPTION = (
    "Published by the paper, and reproduced here with its 95 % interval. {} Grey: published for settings that were not "
    "run here. The conventions stand at the tables they are taken from."
)


def results_of(profile: str, published: bool = False) -> Path:
    """The folder of a profile's results, or of its published ones. Raises `InputError` where there are none."""
    home = files.root() / ("figures" if published else "reports")
    folder = home / profile
    if folder.parent != home or not folder.is_dir() or folder.samefile(home.parent):
        with contextlib.suppress(FileNotFoundError):
            choose("profile", profile, os.listdir(files.root() / "notebooks" / "profiles"))
        there = sorted(path.name for path in home.glob("[!.]*") if path.is_dir())
        known = f"; there is {', '.join(there)}" if there else ""
        first = f"lficam {'publish' if published else 'run'} --profile {profile}"
        raise InputError(f"No results of a profile {profile!r} in {files.short(home)}{known}. `{first}` makes them.")
    return folder


def write_index(folder: Path) -> Path:
    """Write index.html of reports/PROFILE or figures/PROFILE: summary, tables, figures, run records, deviations.

    It holds its images and tables itself; what failed, is damaged or was not run is named. Returns its path.
    Raises `InputError` when the disk refuses.
    """
    import jinja2  # not where errors are told, which is without the extra `lab` too

    of_seed, home = folder.name.startswith(PLACE), places(folder)[0]
    profile = folder.parent.name if of_seed else folder.name
    settings = files.root() / "notebooks" / "profiles" / profile
    names = {path.stem for path in settings.glob("*.yaml")}
    names |= {path.parent.name for path in home.glob("[!.]*/record.json")}
    names |= {path.name.removesuffix(".failed.ipynb") for path in home.glob("*.failed.ipynb")}
    numbers, reference = Values(profile), None
    with contextlib.suppress(InputError):
        numbers = read(folder)
    with contextlib.suppress(InputError):
        reference = read(files.root() / "figures" / profile) if folder.parent.name == "reports" else None
    sections = [Section(home / name, place, folder, numbers, reference) for place, name in enumerate(sorted(names), 1)]
    done = [section for section in sections if section.record]
    templates = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(loader=templates, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = pages.get_template("page.html").render(
        profile=f"{profile}, {folder.name}" if of_seed else profile,
        place=f"{folder.relative_to(folder.parents[2 if of_seed else 1]).as_posix()}/",
        verdict=_verdict(profile, numbers, reference),
        sections=sections,
        finished=len(done),
        took=duration(sum(section.seconds for section in done)),
        summary=_summary(sections),
        headlines=_headlines(done),
        deviations=_deviations(),
        pairs=_pairs,
    )
    with files.atomic(folder / "index.html") as file:
        file.write(page.encode("utf-8", "replace"))  # a damaged record may hold what UTF-8 cannot
    return folder / "index.html"


class Section:
    """One notebook on the page, in reports/PROFILE/NAME: what it left, or that it left nothing."""

    def __init__(self, folder: Path, place: int, base: Path, numbers: Values, reference: Values | None = None) -> None:
        """base: the page's folder; numbers: of all its seeds; reference: what they are set against, if there is one."""
        self.folder, self.name, self.damage = folder, folder.name, ""
        self.base, self.numbers, self.reference = base, numbers, reference
        self.runs = len(numbers.seeds_of(self.name))
        self.record: dict[str, Any] = {}  # none
        try:
            self.record = read_record(folder)
        except (ValueError, OSError) as error:
            self.damage = str(error) if folder.exists() else ""
        self.failure = _failure(folder.parent / f"{self.name}.failed.ipynb")
        self.state = "failed" if self.failure or self.damage else "finished" if self.record else "not run yet"
        self.id, self.title = quote(self.name), _title(files.root() / "notebooks" / f"{self.name}.ipynb") or self.name
        record = self.record
        seconds = max(0.0, number(record.get("seconds")) or 0.0)
        self.seconds = seconds if seconds < 1e9 else 0.0  # also of a record that says Infinity or NaN
        results = record.get("results")
        self.images = results.get("data") if isinstance(results, dict) else None
        self.commit = str(record.get("commit", "unknown"))
        self.parts = [
            _part(show, self, entry, f"{word} {place}.{i}")
            for word, kind, show in (("Table", "tables", _table), ("Figure", "figures", _figure))
            for i, entry in enumerate(record.get(kind, []), 1)
        ]
        if self.runs > 1 and not any(entry["file"] == "seeds.png" for entry in record.get("figures", [])):
            self.parts += _seeds(self, f"Figure {place}.{len(record.get('figures', [])) + 1}")
        self.kept = (folder / f"{self.name}.html").is_file()
        words = ("executed notebook", "executed notebook, .ipynb", "record")
        beside = zip(words, (f"{self.name}.html", f"{self.name}.ipynb", "record.json"), strict=True)
        self.beside = [(word, _link(base, folder / file)) for word, file in beside if (folder / file).is_file()]
        tables = [folder / entry["file"] for entry in record.get("tables", [])]
        tables = [path.with_suffix(end) for path in tables for end in (".csv", ".tex")]
        self.tables = [(p.name, _link(base, p)) for p in tables if p.is_file() and p.is_relative_to(folder)]

    def table(self, entry: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
        """Header and rows of one of its tables, over seeds where there are several, with the reference beside them.

        Raises `ValueError`.
        """
        header, rows = read_csv(self.folder / entry["file"])
        if self.runs > 1:
            of = str(entry.get("of") or "")
            rows = over_seeds(self.numbers, self.name, Path(entry["file"]).stem, header, rows, of)
        return beside_reference(self.reference, self.name, entry, header, rows) if self.reference else (header, rows)


def _part(
    show: Callable[["Section", dict[str, Any], str], dict[str, Any]],
    section: "Section",
    entry: dict[str, Any],
    place: str,
) -> dict[str, Any]:
    """A table or figure of a record as values; where it cannot be shown, the reason."""
    folder = section.folder
    title = {"title": f"{place}. {latex.sentence(entry.get('title') or '')}"}
    try:
        if not (folder / entry["file"]).is_relative_to(folder):
            raise ValueError("it lies outside of the notebook's folder")
        return title | show(section, entry, place)
    except (ValueError, OSError) as error:
        return {"file": entry["file"], "error": str(error)}


def _table(section: "Section", entry: dict[str, Any], place: str) -> dict[str, Any]:
    folder, path = section.folder, section.folder / entry["file"]
    header, rows = section.table(entry)
    read = readable(header, rows, entry.get("digits"))
    name = f"{folder.name}-{path.stem}"
    return {
        "caption": " ".join(filter(None, (str(entry.get("caption") or ""), latex.notes(read, entry, section.runs)))),
        "table": _grid(place, read.header, read.rows, read.numeric),
        "rows": len(rows),
        "saves": [
            ("CSV, full numbers", f"{name}.csv", _inside(path.read_bytes(), ".csv")),
            ("LaTeX", f"{name}.tex", _inside(latex.table(path, entry, folder.name).encode(), ".tex")),
        ],
    }


def _figure(section: "Section", entry: dict[str, Any], _: str) -> dict[str, Any]:
    """An image, as SVG if it is of lines, and its files."""
    png = section.folder / entry["file"]
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
        "links": [(path.suffix[1:].upper(), _link(section.base, path)) for path in there],
    }


def _seeds(section: "Section", place: str) -> list[dict[str, Any]]:
    """The figure of all seeds, drawn now; a published page finds it among the others."""
    from . import figures  # whose libraries take seconds to import

    if not (found := figures.over_seeds(section.numbers, section.name)):
        return []
    content = pictures.svg(found[0])
    shown: dict[str, Any] = {
        "caption": found[1],
        "src": _inside(content, ".svg"),
        "width": pictures.width(content),
        "links": [],
    }
    return [{"title": f"{place}. {figures.TITLE}.", "alt": figures.TITLE} | shown]


def _grid(
    label: str, header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], wrap: bool = False
) -> tuple:
    """A table of the page; numbers stand to the right. wrap: break all its texts into lines."""
    broad = [wrap or max((len(row[i]) for row in rows), default=0) > BROAD for i in range(len(header))]
    kinds = ["number" if n else "wrap" if b else None for n, b in zip(numeric, broad, strict=True)]
    return label, list(zip(header, kinds, strict=True)), [("", "", [(None, row) for row in rows])]


def _summary(sections: Sequence[Section]) -> tuple:
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


def _deviations() -> dict[str, Any] | None:
    """data/deviations.csv as an appendix; None where the project folder has none."""
    try:
        header, rows = read_csv(files.root() / "data" / "deviations.csv")
    except ValueError:
        return None
    names = [name.replace("_", " ") for name in header]
    return {"rows": len(rows), "table": _grid("Deviations", names, rows, [False] * len(names), True)} if rows else None


def _inside(content: bytes, suffix: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:{KINDS[suffix]};base64,{base64.b64encode(content).decode()}"


def _link(base: Path, path: Path) -> str:
    return quote(path.relative_to(base).as_posix())


def _verdict(profile: str, numbers: Values, reference: Values | None) -> str:
    """What `lficam verify` says of the results in a sentence; "" where there is nothing to set them against."""
    if reference is None or not numbers.runs:
        return ""
    try:
        return sentence(judge(numbers, reference), files.root() / "figures" / profile, profile)
    except InputError as error:
        return f"Not compared with the reference: {error}"


def _pairs(values: Any, between: str) -> str:
    """A mapping as text; of data splits the number of images and the hash of their list, shortened."""

    def text(value: Any) -> Any:
        match value:
            case [int(n), str(hashed)] if len(hashed) == 64:
                return f"N = {n} (list {hashed[:12]})"
        return value

    known = isinstance(values, dict) and values
    return ", ".join(f"{key}{between}{text(value)}" for key, value in values.items()) if known else DASH


def _title(notebook: Path) -> str:
    """The first heading of a notebook, "" without one."""
    try:
        cells = json.loads(notebook.read_bytes())["cells"]
        lines = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown").splitlines()
    except (OSError, ValueError, KeyError):
        return ""
    return next((line.removeprefix("# ").strip() for line in lines if line.startswith("# ")), "")


def _failure(notebook: Path) -> str:
    """Why a kept notebook failed, "" when there is none."""
    try:
        return str(json.loads(notebook.read_bytes())["metadata"]["lficam"]["failure"]) or "It left no reason."
    except OSError:
        return ""
    except (ValueError, KeyError, TypeError):
        return "It left no reason."


# --- The headline numbers


def _headlines(sections: Sequence[Section]) -> dict[str, Any] | None:
    """One table of all papers, a group of rows each, as values of the page; None when no notebook has any of them."""
    finished = {section.name: section for section in sections}
    found = [
        (paper, notebook, _headline(finished[notebook], table, measure, explainers))
        for paper, notebook, table, measure, explainers in HEADLINES
        if notebook in finished
    ]
    both = any(row["Δ"] != DASH for *_, rows in found for row in rows)
    against = any(row["reference"] != DASH for *_, rows in found for row in rows)
    left_out = ["Δ"] * (not both) + ["reference", "agrees"] * (not against)
    names = [name for name in (*WORDS, *COLUMNS) if name not in left_out]
    groups = [
        (paper, notebook, [(None if r["reproduced"] != DASH else "other", [r[name] for name in names]) for r in rows])
        for paper, notebook, rows in found
        if rows
    ]
    note = "Δ: reproduced − published." if both else "No row has both: this profile ran none of the papers’ settings."
    columns = [(name, "number" if name in COLUMNS else None) for name in names]
    shown = {"table": ("Headline numbers", columns, groups), "caption": CAPTION.format(note)}
    return {"title": "Headline numbers."} | shown if groups else None


def _headline(section: Section, file: str, measure: str, explainers: Sequence[str]) -> list[dict[str, str]]:
    """Texts by the names of `WORDS` and `COLUMNS`; none when the table is not as expected."""
    entry: dict[str, Any] = next((e for e in section.record.get("tables", []) if e["file"] == file), {})
    keep: dict[str, Sequence[str]] = {} if measure else {"explainer": explainers, "measure": AD_IC}
    try:
        header, rows = section.table(entry) if entry else ([], [])
        if not {"published", "reproduced", *keep} <= set(header):
            return []
        rows = [row for row in rows if all(row[header.index(name)] in values for name, values in keep.items())]
        read = readable(header, rows, AD_IC_DIGITS if keep else entry.get("digits"), fold=False)
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
