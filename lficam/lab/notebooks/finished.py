"""The folder that a finished notebook leaves: whether its record holds, how it gets into place, how it is published."""

import csv
import json
import os
import platform
import re
import secrets
import shutil
from pathlib import Path

from ... import files
from ...errors import InputError
from ...plots.pictures import sharper
from ..report.reading import cell

OURS = secrets.token_hex(4)  # an earlier process may have had this one's number


def read_record(folder, name=None):
    """The record of a finished notebook, whose tables and figures are all there.

    Raises `ValueError` with the reason when it is missing, unreadable, another notebook's, or lists what is not there.
    """
    folder = Path(folder)
    name = name or folder.name
    try:
        record = json.loads((folder / "record.json").read_bytes())
    except FileNotFoundError:
        raise ValueError("it wrote no record.json") from None
    except ValueError as error:
        raise ValueError(f"its record.json is not JSON ({error})") from None
    if not isinstance(record, dict) or record.get("notebook") != name:
        found = record.get("notebook") if isinstance(record, dict) else record
        raise ValueError(f"its record.json names notebook {found!r} instead of {name!r}")
    for kind in ("tables", "figures"):
        for file in listed(record, kind):
            if ".." in Path(file).parts or not (folder / file).is_file():
                raise ValueError(f"its record.json lists {file}, which is not there")
    return record


def listed(record, kind):
    """The file names that a record lists as tables or figures. Raises `ValueError` when the list is none."""
    try:
        return [str(entry["file"]) for entry in record.get(kind, [])]
    except (TypeError, KeyError):
        raise ValueError(f"its record.json has no list of {kind}, each with a file") from None


def staging(folder, name):
    """A folder beside `name` that belongs to this process on this machine."""
    return Path(folder) / f".{name}.{_host()}.{os.getpid()}-{OURS}"


def swap(new, folder):
    """Put the folder `new` in the place of `folder`; whatever happens, one of the two stands there."""
    old = Path(f"{staging(folder.parent, folder.name)}.old")
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sweep(folder):
    """Remove what dead processes of this machine left, and finish a swap that was cut."""
    for path in Path(folder).glob(".*"):
        match = re.fullmatch(rf"\.(.+)\.{_host()}\.(\d+)(?:-(\w+))?(\.old)?", path.name)
        if not match or (match[3] == OURS if int(match[2]) == os.getpid() else _alive(int(match[2]))):
            continue
        if match[4] and not (path.parent / match[1]).exists():
            path.rename(path.parent / match[1])
        else:
            shutil.rmtree(path, ignore_errors=True)


def _host():
    return re.sub(r"[^\w-]", "_", platform.node()) or "host"


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def publish(profile="desk"):
    """Copy what git is to keep of every finished notebook to figures/PROFILE/NAME. Returns these folders.

    That is the record, every table as CSV and LaTeX, every figure as PNG, those of lines as SVG too. PDFs,
    the executed notebooks and the page stay in reports/; `lficam report --published` makes a page of what was copied.
    Raises `InputError` when no notebook of the profile is finished.
    """
    source, target = files.root() / "reports" / profile, files.root() / "figures" / profile
    published = []
    for folder in sorted(path.parent for path in source.glob("[!.]*/record.json")):
        try:
            record = read_record(folder)
        except ValueError as error:
            raise InputError(f"Cannot publish {folder.name}: {error}. Run it again.") from None
        sweep(target)
        copy = staging(target, folder.name)
        tables, figures = listed(record, "tables"), listed(record, "figures")
        latex = [
            file for file in (str(Path(table).with_suffix(".tex")) for table in tables) if (folder / file).is_file()
        ]
        vectors = {str(sharper(folder / figure).relative_to(folder)) for figure in figures} - set(figures)
        for file in ["record.json", *tables, *latex, *figures, *sorted(vectors)]:
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, copy / file)
        swap(copy, target / folder.name)
        published.append(target / folder.name)
    if not published:
        raise InputError(f"Nothing to publish in {source}: run `lficam run --profile {profile}` first.")
    for page in pages():
        text = page_tables(page.read_text(encoding="utf-8"), files.root() / "figures")
        with files.atomic(page, "w") as file:
            file.write(text)
    return published


def pages():
    """The pages that may show published tables: README.md and docs/*.md of the project."""
    home = files.root()
    return [path for path in (home / "README.md", *sorted((home / "docs").glob("*.md"))) if path.is_file()]


def page_tables(text, figures):
    """A page's text with every block `<!-- PROFILE:NOTEBOOK/TABLE.csv -->` ... `<!-- end -->` made anew from `figures`.

    Of a table with a column "reproduced", only the rows that were are shown.

    Raises `InputError` for a block whose table was not published.
    """

    def block(match):
        table = Path(figures) / match[1] / match[2]
        try:
            record = json.loads((table.parent / "record.json").read_bytes())
            with table.open(encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file)
        except OSError:
            raise InputError(
                f"A page shows {match[1]}/{match[2]}, which is not published: run that notebook."
            ) from None
        if "reproduced" in header:
            rows = [row for row in rows if row[header.index("reproduced")]]
        digits = next(entry.get("digits", {}) for entry in record["tables"] if entry["file"] == table.name)
        lines = [
            header,
            ["---"] * len(header),
            *([cell(c, digits.get(h)) for h, c in zip(header, row, strict=True)] for row in rows),
        ]
        lines = [[text.replace("|", "\\|") for text in line] for line in lines]
        return "\n".join([match[0].split("\n")[0], *(f"| {' | '.join(line)} |" for line in lines), "<!-- end -->"])

    return re.sub(r"<!-- ([\w-]+):(\S+\.csv) -->\n.*?<!-- end -->", block, text, flags=re.S)
