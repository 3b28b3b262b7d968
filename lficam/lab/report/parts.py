"""Tables, figures and lists of files as HTML that needs no other file."""

import base64
import html
from pathlib import Path
from urllib.parse import quote

from ...plots import pictures
from . import latex
from .reading import read_csv, reading

FOLD = 20  # rows: longer tables are folded
BROAD = 45  # characters: longer texts in a table are broken into lines
KINDS = {".png": "image/png", ".svg": "image/svg+xml", ".csv": "text/csv", ".tex": "text/x-tex"}


def text(value):
    """Any value as text of an HTML page or attribute, also one that UTF-8 cannot hold."""
    return html.escape(str(value).encode("utf-8", "replace").decode())


def data_uri(content, suffix):
    """Bytes as an address that holds them."""
    return f"data:{KINDS[suffix]};base64,{base64.b64encode(content).decode()}"


def heading(word, place, entry, more=""):
    """Number, title and caption."""
    title, caption = (entry.get(key, "") or "" for key in ("title", "caption"))
    return f"<b>{word} {place}. {text(latex.sentence(title))}</b> {text(' '.join(filter(None, (str(caption), more))))}"


def show_table(folder, entry, place):
    """A CSV file as a table for reading, with the file itself and its LaTeX to be saved. Raises `ValueError`."""
    path = folder / entry["file"]
    header, rows = read_csv(path)
    read = reading(header, rows, entry.get("digits"))
    name, notebook = Path(entry["file"]).stem, folder.name
    body = grid(read.header, read.rows, read.numeric, f"Table {place}")
    if len(rows) > FOLD:
        body = f"<details><summary>All {len(rows)} rows</summary>{body}</details>"
    contents = {".csv": path.read_bytes(), ".tex": latex.table(path, entry, notebook).encode()}
    saves = [
        f'<a download="{text(f"{notebook}-{name}{end}")}" href="{data_uri(content, end)}">{word}</a>'
        for (end, content), word in zip(contents.items(), ("CSV, full numbers", "LaTeX"), strict=True)
    ]
    caption = heading("Table", place, entry, latex.notes(read, entry))
    return (
        f'<figure class="table"><figcaption>{caption}</figcaption>{body}'
        f'<p class="file">Save: {" · ".join(saves)}</p></figure>'
    )


def grid(header, rows, numeric, label, wrap=False):
    """A table with scopes, that scrolls sideways where it is too wide. wrap: break all its texts into lines."""
    broad = [wrap or max((len(row[i]) for row in rows), default=0) > BROAD for i in range(len(header))]
    kinds = [' class="number"' if n else ' class="wrap"' if b else "" for n, b in zip(numeric, broad, strict=True)]
    head = "".join(f'<th scope="col"{k}>{text(name)}</th>' for k, name in zip(kinds, header, strict=True))
    lines = (
        "".join(
            f'<th scope="row"{k}>{text(c)}</th>' if i == 0 else f"<td{k}>{text(c)}</td>"
            for i, (k, c) in enumerate(zip(kinds, row, strict=True))
        )
        for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="scroll" role="region" aria-label="{text(label)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def show_figure(folder, entry, place):
    """An image inside the page, as SVG if it is of lines, and links to its files. Raises `ValueError` or `OSError`."""
    png = folder / entry["file"]
    if png.suffix != ".png":
        raise ValueError("a figure has to be a PNG")
    shown = pictures.sharper(png)
    content = shown.read_bytes()
    width = pictures.width(content)
    alt, size = text(entry.get("title") or entry["file"]), f' width="{width}"' if width else ""
    image = f'<img src="{data_uri(content, shown.suffix)}" alt="{alt}"{size}>'
    there = [path for path in (png, png.with_suffix(".svg"), png.with_suffix(".pdf")) if path.is_file()]
    links = " ".join(f'<a href="{_link(folder, path)}">{path.suffix[1:].upper()}</a>' for path in there)
    return (
        f"<figure>{image}<figcaption>{heading('Figure', place, entry)} "
        f'<span class="file">{links}</span></figcaption></figure>'
    )


def file_list(folder, record):
    """Links to the executed notebook, the record and every table's and figure's files that lie beside the page."""
    name = folder.name
    words = {f"{name}.html": "executed notebook", f"{name}.ipynb": "executed notebook, .ipynb"}
    main = [folder / file for file in (*words, "record.json") if (folder / file).is_file()]
    links = [f'<a href="{_link(folder, path)}">{words.get(path.name, "record")}</a>' for path in main]
    if f"{name}.html" not in {path.name for path in main}:
        links.append("the executed notebook is not kept here")
    stems = [
        (folder / entry["file"]).with_suffix(end) for entry in record.get("tables", []) for end in (".csv", ".tex")
    ]
    tables = [f'<a href="{_link(folder, path)}">{text(path.name)}</a>' for path in stems if path.is_file()]
    more = f"<p>Tables: {', '.join(tables)}</p>" if tables else ""
    return f'<div class="file"><p>Beside this page: {" · ".join(links)}</p>{more}</div>'


def _link(folder, path):
    return quote(f"{folder.name}/{path.relative_to(folder).as_posix()}")
