"""The index page of reports/PROFILE: every table, figure and run record, from what the notebooks left."""

import csv
import html
import json
from pathlib import Path
from urllib.parse import quote

from . import workspace
from .finished import cell, read_record
from .progress import duration

ROWS = 60  # of a table on the page; the file has all


def write_index(folder):
    """Write index.html: every table, figure and run record of the profile's notebooks, and what failed or is missing.

    Returns its path. Raises `InputError` when the disk refuses.
    """
    folder = Path(folder)
    settings = workspace.root() / "notebooks" / "profiles" / folder.name
    names = {path.stem for path in settings.glob("*.yaml")} | {
        path.parent.name for path in folder.glob("[!.]*/record.json")
    }
    names |= {path.name.removesuffix(".failed.ipynb") for path in folder.glob("*.failed.ipynb")}
    sections = [Section(folder, name) for name in sorted(names)]
    done = [section for section in sections if section.record]
    took = duration(sum(_number(str(section.record.get("seconds"))) or 0 for section in done))
    contents = "".join(f'<li><a href="#{s.id}">{s.title}</a> <span>{s.state}</span></li>' for s in sections)
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>lficam – {_text(folder.name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header><p class="kicker">lficam</p><h1>Results of the profile “{_text(folder.name)}”</h1>'
        f"<p>{len(done)} of {len(sections)} notebooks finished, {took} in all.</p>"
        f"<nav><ol>{contents}</ol></nav></header>\n"
        + "\n".join(s.html(i) for i, s in enumerate(sections, 1))
        + "\n</body>\n</html>\n"
    )
    with workspace.atomic(folder / "index.html", "w") as file:
        file.write(page)
    return folder / "index.html"


class Section:
    """One notebook on the page: what it left, or that it left nothing."""

    def __init__(self, folder, name):
        self.folder, self.name, self.record, self.damage = folder, name, None, ""
        try:
            self.record = read_record(folder / name)
        except ValueError as error:
            self.damage = str(error) if (folder / name).exists() else ""
        self.failure = _failure(folder / f"{name}.failed.ipynb")
        self.id, self.title = quote(name), _text(_title(workspace.root() / "notebooks" / f"{name}.ipynb") or name)
        self.state = "failed" if self.failure or self.damage else "finished" if self.record else "not run yet"

    def html(self, number):
        """The section, numbered."""
        parts = [f'<section id="{self.id}"><p class="kicker">{_text(self.name)}</p><h2>{self.title}</h2>']
        if self.failure:
            link = f'<a href="{quote(self.name)}.failed.ipynb">notebook up to the failure</a>'
            earlier = " What follows is of the earlier, finished run." if self.record else ""
            parts.append(f'<p class="failed"><b>The last run failed.</b> {_text(self.failure)} ({link}){earlier}</p>')
        elif self.damage:
            parts.append(f'<p class="failed"><b>Not usable:</b> {_text(self.damage)}.</p>')
        elif not self.record:
            parts.append("<p><b>Not run yet.</b></p>")
        if self.record:
            kinds = (("tables", "Table", self.table), ("figures", "Figure", self.figure))
            for kind, word, show in kinds:
                for i, entry in enumerate(self.record.get(kind, []), 1):
                    heading = (
                        f"<b>{word} {number}.{i}. {_text(entry.get('title', ''))}</b> {_text(entry.get('caption', ''))}"
                    )
                    parts.append(show(entry, heading))
            parts.append(self.run())
        return "\n".join([*parts, "</section>"])

    def table(self, entry, heading):
        """A CSV file as a table."""
        file = self.folder / self.name / entry["file"]
        with open(file, encoding="utf-8", errors="replace", newline="") as stream:
            header, *rows = list(csv.reader(stream)) or [[]]
        digits = entry.get("digits") or {}
        numeric = [
            all(_number(row[i]) is not None for row in rows if i < len(row) and row[i]) for i in range(len(header))
        ]
        kinds = [' class="number"' if n else "" for n in numeric]
        head = "".join(f"<th{kind}>{_text(cell)}</th>" for kind, cell in zip(kinds, header, strict=True))
        body = "".join(
            "<tr>"
            + "".join(
                f"<td{k}>{_text(cell(c, digits.get(h)))}</td>" for k, h, c in zip(kinds, header, row, strict=False)
            )
            + "</tr>"
            for row in rows[:ROWS]
        )
        link = f'<a href="{self._link(entry["file"])}">{_text(entry["file"])}</a>'
        rest = f", {len(rows) - ROWS} more rows there" if len(rows) > ROWS else ""
        return (
            f'<figure class="table"><figcaption>{heading}</figcaption><div><table><thead><tr>{head}</tr></thead>'
            f'<tbody>{body}</tbody></table></div><p class="file">{link}{rest}</p></figure>'
        )

    def figure(self, entry, heading):
        """An image with its caption, and the same figure as PDF where there is one."""
        alt = _text(entry.get("title") or entry["file"])
        vector = str(Path(entry["file"]).with_suffix(".pdf"))
        link = f' <a href="{self._link(vector)}">PDF</a>' if (self.folder / self.name / vector).is_file() else ""
        image = f'<img src="{self._link(entry["file"])}" alt="{alt}">'
        return f"<figure>{image}<figcaption>{heading}{link}</figcaption></figure>"

    def run(self):
        """Links to the executed notebook, and what a reader needs to repeat the run."""
        record, files = self.record, {"html": "executed notebook", "ipynb": "as .ipynb"}
        there = {f"{self.name}.{end}": word for end, word in files.items()} | {"record.json": "record"}
        links = [
            f'<a href="{self._link(f)}">{w}</a>' for f, w in there.items() if (self.folder / self.name / f).is_file()
        ]
        commit = str(record.get("commit", "unknown")) + (", with uncommitted changes" if record.get("dirty") else "")
        versions = record.get("versions")
        rows = {
            "Command": f"<code>{_text(record.get('command', 'unknown'))}</code>",
            "Commit": f"<code>{_text(commit)}</code>",
            "Device": _text(record.get("device", "unknown")),
            "Seed": _text(record.get("seed", "unknown")),
            "Started": _text(record.get("started", "unknown")),
            "Seconds": _text(record.get("seconds", "unknown")),
            "Versions": _text(
                ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else "unknown"
            ),
        }
        listing = "".join(f"<dt>{term}</dt><dd>{value}</dd>" for term, value in rows.items())
        return f'<div class="run"><p>{" · ".join(links)}</p><dl>{listing}</dl></div>'

    def _link(self, file):
        return quote(f"{self.name}/{file}")


def _text(value):
    return html.escape(str(value))


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


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
        return json.loads(notebook.read_bytes())["metadata"]["lficam"]["failure"]
    except OSError:
        return ""
    except (ValueError, KeyError):
        return "It left no reason."


STYLE = """
:root { --ink: #1b1b1b; --soft: #666; --line: #d9d5cc; --bad: #a3271b; --link: #1d4f91; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 54rem; background: #fffefb; color: var(--ink);
  font: 1.0625rem/1.55 Charter, "Bitstream Charter", "Iowan Old Style", "Source Serif 4", Georgia, serif; }
h1, h2 { line-height: 1.2; font-weight: 600; text-wrap: balance; margin: 0 0 .6rem; }
h1 { font-size: 2rem; } h2 { font-size: 1.5rem; }
a { color: var(--link); text-decoration-thickness: .06em; text-underline-offset: .15em; }
.kicker, nav span, figcaption, table, .run, .file { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
.kicker { margin: 0 0 .3rem; font-size: .8rem; letter-spacing: .06em; color: var(--soft); }
nav ol { padding-left: 1.4rem; } nav span { font-size: .8rem; color: var(--soft); margin-left: .5em; }
section { margin-top: 3rem; padding-top: 2rem; border-top: 1px solid var(--line); }
figure { margin: 2rem 0; }
figcaption { font-size: .875rem; line-height: 1.45; max-width: 44rem; }
figure:not(.table) figcaption { margin-top: .6rem; } .table figcaption { margin-bottom: .6rem; }
img { display: block; max-width: 100%; height: auto; }
.table div { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.35;
  font-variant-numeric: tabular-nums lining-nums;
  border-top: 1.5px solid var(--ink); border-bottom: 1.5px solid var(--ink); }
th, td { padding: .35rem .6rem .35rem 0; text-align: left; vertical-align: top; white-space: nowrap; }
th { font-weight: 600; }
th + th, td + td { padding-left: .6rem; }
thead th { border-bottom: .75px solid var(--ink); vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; }
.file { margin: .4rem 0 0; font-size: .8rem; color: var(--soft); }
.failed { border-left: 3px solid var(--bad); padding: .1rem 0 .1rem 1rem; } .failed b { color: var(--bad); }
.run { margin-top: 2rem; font-size: .8rem; color: var(--soft); }
.run dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 0; }
.run dt { font-weight: 600; } .run dd { margin: 0; overflow-wrap: anywhere; }
code { font: .95em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media print {
  @page { margin: 18mm; }
  body { max-width: none; padding: 0; font-size: 10.5pt; background: none; }
  a { color: inherit; text-decoration: none; } .table div { overflow: visible; }
  h2, .kicker, .table figcaption, thead { break-after: avoid; } figure:not(.table), tr, .run { break-inside: avoid; }
}
"""
