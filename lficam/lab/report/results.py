"""What a notebook leaves: tables and figures, and the record that says how they were made."""

import datetime
import json
import os
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from ... import files, record
from ...plots import pictures
from . import latex
from .tables import column


def show(table: pd.DataFrame, digits: Mapping[str, int] | None = None) -> "Shown":
    """A table for reading, its numbers written as on the page: digits per column, missing values as "—"."""
    digits = digits or {}
    texts = {name: ["" if pd.isna(value) else str(value) for value in table[name]] for name in table}
    return Shown({name: column(cells, digits.get(name)) for name, cells in texts.items()})


class Shown(pd.DataFrame):
    """Text for reading: a notebook shows it without row numbers, words to the left, nothing broken over lines."""

    def _repr_html_(self) -> str:
        words = [column for column in self if self[column].astype(str).str.contains("^[^\\W\\d_]").any()]
        left, whole = [{"selector": "", "props": "text-align: left"}], "white-space: nowrap"
        name = f"{zlib.crc32(self.to_csv().encode()):08x}"  # two tables of a page have two, one of two runs the same
        shown = self.style.hide(axis="index").format(escape="html").set_uuid(name)
        shown = shown.set_table_styles(dict.fromkeys(words, left))
        return shown.set_table_styles([{"selector": "th, td", "props": whole}], overwrite=False).to_html()


class Report:
    """What a notebook leaves: tables, figures and, last of all, the record that says it succeeded.

    name: the notebook's; output: folder, "" for reports/lab/NAME; profile, parameters: as run.
    """

    def __init__(
        self, name: str, output: Path | str = "", profile: str = "lab", parameters: dict[str, Any] | None = None
    ) -> None:
        self.folder = Path(output) if output else files.root() / "reports" / "lab" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "record.json").unlink(missing_ok=True)
        self.record: dict[str, Any] = {
            "notebook": name,
            "profile": profile,
            "parameters": parameters or {},
            "settings": json.loads(os.environ.get("LFICAM_SETTINGS", "{}")),  # all of them, where the runner knows
            "tables": [],
            "figures": [],
        }
        self.started, self.clock = datetime.datetime.now(datetime.UTC), time.perf_counter()

    def table(
        self,
        table: pd.DataFrame,
        name: str,
        title: str,
        caption: str,
        digits: Mapping[str, int] | None = None,
        of: str = "",
    ) -> Shown:
        """Write a table as NAME.csv (full numbers) and NAME.tex (for reading), and return it for display.

        The caption states convention and N. digits: {column: decimals} for reading. of: the table whose numbers this
        one shows once more, so that they do not count twice.
        """
        entry: dict[str, Any] = {"file": f"{name}.csv", "title": title, "caption": caption, "digits": digits or {}}
        entry |= {"of": of} if of else {}
        with files.atomic(self.folder / entry["file"], "w") as file:
            table.to_csv(file, index=False)
        with files.atomic(self.folder / f"{name}.tex", "w") as file:
            file.write(latex.table(self.folder / entry["file"], entry, self.record["notebook"]))
        self.record["tables"].append(entry)
        return show(table, digits)

    def figure(self, figure: Figure, name: str, title: str, caption: str) -> None:
        """Write a matplotlib figure as NAME.png, NAME.svg and NAME.pdf."""
        pictures.save(figure, self.folder, name)
        self.record["figures"].append({"file": f"{name}.png", "title": title, "caption": caption})

    def finish(self, device: torch.device | str, seed: int, **results: Any) -> dict[str, Any]:
        """Write record.json: from here on the run counts as done. Returns the record."""
        self.record |= record.provenance() | {
            "device": record.describe(device),
            "seed": seed,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self.clock, 1),
            "results": results,
        }
        with files.atomic(self.folder / "record.json", "w") as file:
            json.dump(self.record, file, indent=1, ensure_ascii=False, default=_plain)
        return self.record


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
