"""Tables of scores as files: a file for every batch, then the table; continued after a kill, made by many at once.

PATH                      the finished table: a row per explainer and image, by explainer, then in the data set's order
PATH.json                 its record: configuration with SHA-256, images that could not be read, versions
PATH.failed.csv           image, reason; only if some could not be read
PATH.parts/HASH/          until then: configuration.json, and
PATH.parts/HASH/000012    a batch: a line of JSON (columns, length of each explainer's rows, images that could not be
                          read), then the rows as CSV, explainer by explainer

A file is there whole or not at all and says the same whoever wrote it, so that nothing is locked: who continues makes
the batches that are missing, a shard those that are its own, and whoever finds all of them makes the table.
"""

import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pandas as pd

from .. import __version__, files
from ..errors import InputError, reason
from ..models.checkpoints import file_hash
from ..record import provenance
from .configuration import differences, sha256

Failed = Sequence[Sequence]  # (position, id, reason) of images that could not be read
_WHOLE = {"class", "pointing"}


class Batches:
    """The batches of a table, in memory. order: names of the explainers; count: of batches."""

    table: pd.DataFrame | None = None  # where it was there already

    def __init__(self, order: Sequence[str], count: int) -> None:
        self.order, self.count = list(order), count
        self.texts: dict[int, str] = {}

    def numbers(self) -> set[int]:
        """Of the batches that are there."""
        return set(self.texts)

    def add(self, number: int, frames: Mapping[str, pd.DataFrame], failed: Failed) -> None:
        """Keep a batch: {explainer: its rows}, none where no image could be read, and what could not be read."""
        rows = {name: _text(frame, header=False) for name, frame in frames.items()}
        columns = list(next(iter(frames.values()))) if frames else []
        lengths = {name: len(text) for name, text in rows.items()}
        head = json.dumps({"columns": columns, "lengths": lengths, "failed": failed})
        self._keep(number, "\n".join([head, "".join(rows.values())]))

    def finish(self) -> pd.DataFrame | None:
        """The table, its `attrs["failed"]` the (id, reason) of images left out; None while batches are missing.

        Raises `InputError` if no image could be read.
        """
        columns, failed = self._heads()
        table = _table(io.StringIO("".join(self._lines(columns))))
        table.attrs["failed"] = [tuple(entry[1:]) for entry in failed]
        return table

    def interrupted(self) -> str:
        """What is kept, for whoever pressed Ctrl-C."""
        return "scoring was interrupted, and nothing is kept: give a path (--out) to continue."

    def _heads(self) -> tuple[list[str], list]:
        """The table's columns, and what could not be read."""
        columns: list[str] = []
        failed: list = []
        for number in range(self.count):
            head, _ = self._batch(number)
            columns = columns or head["columns"]
            failed += head["failed"]
        if not columns:
            self._clear()
            why = f"; the first: {failed[0][2]}" if failed else "."
            raise InputError(f"None of the {len(failed)} images could be read, so there are no scores{why}")
        return columns, failed

    def _lines(self, columns: list[str]) -> Iterator[str]:
        """The text of the table, explainer by explainer, with one batch in memory at a time."""
        yield _text(pd.DataFrame(columns=columns))
        for place, name in enumerate(self.order):
            for number in range(self.count):
                head, rows = self._batch(number)
                if rows:
                    start = sum(head["lengths"][other] for other in self.order[:place])
                    yield rows[start : start + head["lengths"][name]]

    def _batch(self, number: int) -> tuple[dict, str]:
        """What `add` kept: the line of JSON, and the rows."""
        head, _, rows = self._kept(number).partition("\n")
        return json.loads(head), rows

    def _keep(self, number: int, text: str) -> None:
        self.texts[number] = text

    def _kept(self, number: int) -> str:
        return self.texts[number]

    def _clear(self) -> None:
        self.texts.clear()


class Folder(Batches):
    """The batches of the table PATH as files. config: what the table is of; fresh: forget what is there.

    Raises `InputError` for a path at which something else is, or is being made.
    """

    def __init__(self, order: Sequence[str], count: int, path: Path, config: dict, fresh: bool = False) -> None:
        super().__init__(order, count)
        self.path, self.config, self.parts = path, config, _beside(path, "parts")
        self.folder = self.parts / sha256(config)[:16]
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the file to write, as scores.csv.")
        if fresh:
            shutil.rmtree(self.parts, ignore_errors=True)
        self.table = None if fresh else self._finished()
        if self.table is None:
            self._begin()
        else:
            self._clear()  # killed between the record and this

    def _finished(self) -> pd.DataFrame | None:
        """The table, if it is at the path; None if it is yet to be made; `InputError` if something else is there."""
        path, record = self.path, record_of(self.path)
        if not path.exists():
            return None
        if record is not None and record["configuration"] == self.config and record["file"] == file_hash(path):
            return read(path)
        if self.folder.is_dir():
            return None
        todo = "give another file, or fresh (--fresh) to write it anew"
        if record is None:
            raise InputError(f"{path} is no table of scores with its record, {path.name}.json: {todo}.")
        if told := differences(record["configuration"], self.config):
            raise InputError(f"{path} holds the scores of other settings, {told}: {todo}.")
        raise InputError(f"{path} was changed since its scores were written: {todo}.")

    def _begin(self) -> None:
        for other in self.parts.glob("*/configuration.json"):
            if other.parent != self.folder:
                told = differences(_json(other) or {}, self.config)
                todo = "give another file, or fresh (--fresh) to begin anew"
                raise InputError(f"{self.path} was begun with other settings, {told}: {todo}.")
        with files.atomic(self.folder / "configuration.json", "w") as file:
            json.dump(self.config, file, indent=1)

    def numbers(self) -> set[int]:
        return {int(file.name) for file in self.folder.glob("[0-9]*")}

    def finish(self) -> pd.DataFrame | None:
        with suppress(FileNotFoundError):  # another run has just made the table, and removed the batches
            if len(self.numbers()) == self.count:
                columns, failed = self._heads()
                with files.atomic(self.path, "w") as file:
                    file.writelines(self._lines(columns))
                leave_record(self.path, self.config, failed)
        table = self._finished()
        if table is not None:
            self._clear()
        return table

    def interrupted(self) -> str:
        kept = f"{len(self.numbers())} of {self.count} batches are kept in {self.parts}"
        how = "the same command continues after them (not with fresh, --fresh)"
        return f"scoring was interrupted: {kept}, and {how}."

    def _batch(self, number: int) -> tuple[dict, str]:
        try:
            head, rows = super()._batch(number)
            if sum(head["lengths"].values()) == len(rows):
                return head, rows
            why = "rows are missing"
        except (ValueError, KeyError, TypeError) as error:
            why = reason(error)
        raise InputError(f"{self._file(number)} is damaged ({why}): remove it, and the same command makes it anew.")

    def _keep(self, number: int, text: str) -> None:
        try:
            with files.atomic(self._file(number), "w") as file:
                file.write(text)
        except InputError as error:
            if self._finished() is None:  # else another run has made the table, and removed the batches
                raise InputError(f"{error} What is written stays, and the same run continues after it.") from error

    def _kept(self, number: int) -> str:
        return self._file(number).read_bytes().decode()

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # not empty: there are other settings
            self.parts.rmdir()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06}"


def _text(frame: pd.DataFrame, header: bool = True) -> str:
    """CSV with nine digits, which tell any two float32 apart."""
    return frame.to_csv(index=False, header=header, float_format="%.9g", lineterminator="\n")


def read(path: Path | str) -> pd.DataFrame:
    """A finished table; its `attrs["failed"]` are (id, reason) of the images left out. Raises `InputError`."""
    path, record = Path(path), record_of(Path(path))
    if record is None or not path.is_file():
        raise InputError(f"{path}: no finished table of scores with its record, {path.name}.json.")
    with path.open(encoding="utf-8", newline="") as file:
        table = _table(file)
    table.attrs["failed"] = [tuple(entry[1:]) for entry in record["failed"]]
    return table


def _table(file: TextIO) -> pd.DataFrame:
    """A table from an open file of CSV."""
    names = pd.read_csv(file, nrows=0).columns
    kinds = {name: int if name in _WHOLE or name[:5] in ("morf_", "lerf_") else float for name in names}
    file.seek(0)
    return pd.read_csv(file, dtype=kinds | {"explainer": str, "image": str}, keep_default_na=False)


def record_of(path: Path) -> dict | None:
    """The record of a finished table, or None."""
    record = _json(_beside(path, "json"))
    return record if record is not None and {"configuration", "sha256", "file", "failed"} <= set(record) else None


def leave_record(path: Path, config: dict, failed: Failed) -> None:
    """Write PATH.json and, if images could not be read, PATH.failed.csv, for the table at the path."""
    note = _beside(path, "failed.csv")
    if failed:
        with files.atomic(note, "w") as file:
            file.write(_text(pd.DataFrame([entry[1:] for entry in failed], columns=["image", "reason"])))
    else:
        note.unlink(missing_ok=True)
    record = {"configuration": config, "sha256": sha256(config), "file": file_hash(path), "failed": failed}
    with files.atomic(_beside(path, "json"), "w") as file:
        json.dump(record | {"lficam": __version__} | provenance(), file, indent=1, ensure_ascii=False)


def _json(path: Path) -> dict | None:
    """The object in a file of JSON, if it is one."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _beside(path: Path, ending: str) -> Path:
    return Path(f"{path}.{ending}")
