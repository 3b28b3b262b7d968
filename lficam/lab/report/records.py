"""The record that a finished notebook leaves: whether it holds, and the copies that git is to keep."""

import json
import shutil
from pathlib import Path
from typing import Any

from ... import files
from ...errors import InputError
from ...plots.pictures import sharper


def read_record(folder: Path, name: str | None = None) -> dict[str, Any]:
    """The record of a finished notebook, whose tables and figures are all there.

    Raises `ValueError` with the reason when it is missing, unreadable, another notebook's, or lists what is not there.
    """
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


def listed(record: dict[str, Any], kind: str) -> list[str]:
    """The file names that a record lists as tables or figures. Raises `ValueError` when the list is none."""
    try:
        return [str(entry["file"]) for entry in record.get(kind, [])]
    except (TypeError, KeyError):
        raise ValueError(f"its record.json has no list of {kind}, each with a file") from None


def publish(profile: str = "desk") -> list[Path]:
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
        files.sweep(target)
        copy = files.staging(target / folder.name)
        latex = [str(Path(table).with_suffix(".tex")) for table in listed(record, "tables")]
        figures = listed(record, "figures")
        vectors = [str(sharper(folder / figure).relative_to(folder)) for figure in figures]
        kept = ["record.json", *listed(record, "tables"), *filter(lambda name: (folder / name).is_file(), latex)]
        for file in {*kept, *figures, *vectors}:
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, copy / file)
        files.swap(copy, target / folder.name)
        published.append(target / folder.name)
    if not published:
        raise InputError(f"Nothing to publish in {source}: run `lficam run --profile {profile}` first.")
    return published
