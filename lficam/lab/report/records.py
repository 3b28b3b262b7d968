"""The record that a finished notebook leaves, and whether it holds."""

import json
from pathlib import Path
from typing import Any


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
