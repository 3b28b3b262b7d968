"""The page of reports/PROFILE: one file that opens anywhere, from what the notebooks left."""

import json
from pathlib import Path
from urllib.parse import quote

from ... import files
from ...progress import duration
from ..notebooks.finished import read_record
from .parts import file_list, grid, show_figure, show_table, text
from .reading import DASH, number, read_csv
from .style import STYLE
from .summary import headlines


def write_index(folder):
    """Write index.html of reports/PROFILE or figures/PROFILE: summary, tables, figures, run records, deviations.

    It holds its images and tables itself; what failed, is damaged or was not run is named. Returns its path.
    Raises `InputError` when the disk refuses.
    """
    folder = Path(folder)
    settings = files.root() / "notebooks" / "profiles" / folder.name
    names = {path.stem for path in settings.glob("*.yaml")} | {
        path.parent.name for path in folder.glob("[!.]*/record.json")
    }
    names |= {path.name.removesuffix(".failed.ipynb") for path in folder.glob("*.failed.ipynb")}
    sections = [Section(folder, name) for name in sorted(names)]
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f"<title>lficam – {text(folder.name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{_head(folder, sections)}\n<main>\n{_summary(sections)}\n"
        + "\n".join(section.html(i) for i, section in enumerate(sections, 1))
        + f"\n{_deviations()}\n</main>\n</body>\n</html>\n"
    )
    with files.atomic(folder / "index.html", "w") as file:
        file.write(page)
    return folder / "index.html"


def _head(folder, sections):
    done = [section for section in sections if section.record]
    took = duration(sum(section.seconds for section in done))
    missing = ""
    for state in ("failed", "not run yet"):
        names = ", ".join(section.name for section in sections if section.state == state)
        missing += f' <strong class="bad">{state.capitalize()}: {text(names)}.</strong>' if names else ""
    return (
        f'<header><p class="kicker">lficam</p><h1>Results of the profile “{text(folder.name)}”</h1>'
        f"<p>{len(done)} of {len(sections)} notebooks finished, {took} in all.{missing}</p>"
        f'<p class="note">This page is one file: tables and figures are in it. Links to other files work only while '
        f"it lies in its folder, <code>{text(folder.parent.name)}/{text(folder.name)}/</code>.</p></header>"
    )


def _summary(sections):
    rows = "".join(
        f'<tr><th scope="row"><a href="#{s.id}">{text(s.name)}</a></th><td class="wrap">{s.title}</td>'
        f"<td{'' if s.state == 'finished' else ' class=bad'}>{s.state}</td>"
        f'<td class="number">{duration(s.seconds) if s.record else DASH}</td>'
        f"<td>{text(s.commit(short=True)) if s.record else DASH}</td></tr>"
        for s in sections
    )
    head = "".join(f'<th scope="col">{word}</th>' for word in ("notebook", "title", "state", "took", "commit"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return (
        f'<section id="summary"><h2>Summary</h2>'
        f'<div class="scroll" role="region" aria-label="Notebooks" tabindex="0">{table}</div>'
        f"{headlines(sections)}"
        f'<p class="note">Where papers, the authors’ code and this package differ: <a href="#deviations">appendix</a>.'
        f"</p></section>"
    )


def _deviations():
    """data/deviations.csv as an appendix; nothing where the project folder has none."""
    try:
        header, rows = read_csv(files.root() / "data" / "deviations.csv")
    except ValueError:
        header, rows = [], []
    if not rows:
        return '<section id="deviations"><h2>Deviations</h2><p>data/deviations.csv is not there.</p></section>'
    names = [name.replace("_", " ") for name in header]
    table = grid(names, rows, [False] * len(names), "Deviations", wrap=True)
    return (
        f'<section id="deviations"><p class="kicker">data/deviations.csv</p><h2>Deviations</h2>'
        f"<p>Where the paper (or common sense), the authors’ code and this package differ, what is done here, and the "
        f"option that does otherwise.</p><details><summary>All {len(rows)} rows</summary>{table}</details></section>"
    )


class Section:
    """One notebook on the page: what it left, or that it left nothing."""

    def __init__(self, folder, name):
        self.folder, self.name, self.record, self.damage = folder, name, None, ""
        try:
            self.record = read_record(folder / name)
        except (ValueError, OSError) as error:
            self.damage = str(error) if (folder / name).exists() else ""
        self.failure = _failure(folder / f"{name}.failed.ipynb")
        self.id, self.title = quote(name), text(_title(files.root() / "notebooks" / f"{name}.ipynb") or name)
        self.state = "failed" if self.failure or self.damage else "finished" if self.record else "not run yet"
        self.seconds = max(0.0, number((self.record or {}).get("seconds")) or 0.0)
        self.seconds = self.seconds if self.seconds < 1e9 else 0.0  # also of a record that says Infinity or NaN

    def html(self, place):
        """The section, numbered."""
        parts = [f'<section id="{self.id}"><p class="kicker">{text(self.name)}</p><h2>{self.title}</h2>']
        if self.failure:
            link = f'<a href="{self.id}.failed.ipynb">notebook up to the failure</a>'
            earlier = " What follows is of the earlier, finished run." if self.record else ""
            parts.append(f'<p class="failed"><b>The last run failed.</b> {text(self.failure)} ({link}){earlier}</p>')
        elif self.damage:
            parts.append(f'<p class="failed"><b>Not usable:</b> {text(self.damage)}.</p>')
        elif not self.record:
            parts.append('<p class="failed"><b>Not run yet.</b></p>')
        if self.record:
            for kind, show in (("tables", show_table), ("figures", show_figure)):
                for i, entry in enumerate(self.record.get(kind, []), 1):
                    parts.append(self._entry(show, entry, f"{place}.{i}"))
            parts.append(self.run())
        return "\n".join([*parts, "</section>"])

    def _entry(self, show, entry, place):
        try:
            return show(self.folder / self.name, entry, place)
        except (ValueError, OSError) as error:
            return f'<p class="failed"><b>{text(entry["file"])} is not shown:</b> {text(error)}.</p>'

    def commit(self, short=False):
        """Commit of the run, and whether files differed from it."""
        commit = str(self.record.get("commit", "unknown"))
        changed = "+ changes" if short else ", with uncommitted changes"
        return (commit[:7] + " " * short if short else commit) + changed * bool(self.record.get("dirty"))

    def run(self):
        """What a reader needs to repeat the run, and the files beside the page."""
        record = self.record
        versions, data = record.get("versions"), record.get("results")
        data = data.get("data") if isinstance(data, dict) else None
        rows = {
            "Command": f"<code>{text(record.get('command', 'unknown'))}</code>",
            "Commit": f"<code>{text(self.commit())}</code>",
            "Parameters": text(_pairs(record.get("parameters"), " = ")),
            "Device": text(record.get("device", "unknown")),
            "Seed": text(record.get("seed", "unknown")),
            "Images": text(_pairs(data, " ")),
            "Started": text(record.get("started", "unknown")),
            "Seconds": text(record.get("seconds", "unknown")),
            "Versions": text(_pairs(versions, " ")),
        }
        listing = "".join(f"<dt>{term}</dt><dd>{value}</dd>" for term, value in rows.items() if value != DASH)
        return f'<div class="run"><h3>Run</h3><dl>{listing}</dl>{file_list(self.folder / self.name, record)}</div>'


def _pairs(values, between):
    """A mapping as text; of data splits the number of images and the hash of their list, shortened."""
    if not isinstance(values, dict) or not values:
        return DASH
    split = {k: f"N = {v[0]} (list {str(v[1])[:12]})" for k, v in values.items() if isinstance(v, list) and _split(v)}
    return ", ".join(f"{key}{between}{split.get(key, value)}" for key, value in values.items())


def _split(value):
    return len(value) == 2 and isinstance(value[0], int) and isinstance(value[1], str) and len(value[1]) == 64


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
