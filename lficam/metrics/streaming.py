"""Tables of scores as files: written as they come, continued after a kill.

PATH              the finished table: a row per explainer and image, by explainer, then in the data set's order
PATH.json         its record: configuration with SHA-256, images that could not be read, versions
PATH.part         until then: the configuration, then a line of JSON for each batch; a torn last line is cut off
PATH.failed.csv   image, reason; only if some could not be read
PATH.lock         while a run writes; what a killed one left behind locks nobody out
"""

import io
import itertools
import json
import os
from pathlib import Path

import pandas as pd

from .. import __version__, files
from ..errors import InputError
from ..models.checkpoints import file_hash
from ..record import provenance
from .configuration import differences, sha256

_WHOLE = {"class", "pointing"}


class Memory:
    """Rows kept in memory, for a table without a file. done: batches; failed: [(position, id, reason)].

    As text, so that the table is the same as if it came from a file.
    """

    def __init__(self, names):
        self.columns, self.done, self.failed, self.parts = None, 0, [], {name: [] for name in names}

    def add(self, number, frames, failed):  # noqa: ARG002 - a file wants the number
        """Take {explainer: its rows} of a batch, and what could not be read of it: [(position, id, reason)]."""
        self.failed += failed
        for name, frame in frames.items():
            self.columns = frame[:0]
            self.parts[name].append(_text(frame, header=False))

    def finish(self):
        """The table, its `attrs["failed"]` the (id, reason) of images left out; `InputError` if none could be read."""
        if self.columns is None:
            raise nothing(self.failed)
        table = _table(io.StringIO(_text(self.columns) + "".join(itertools.chain(*self.parts.values()))))
        table.attrs["failed"] = [tuple(entry[1:]) for entry in self.failed]
        return table


class Part:
    """PATH.part, open for more batches: `add` as of `Memory`, `finish` makes PATH of it. Use within `locked`.

    fresh: begin anew. Raises `InputError` when it belongs to another configuration, or is no such file.
    """

    def __init__(self, path, config, fresh=False):
        self.final, self.config = Path(path), config
        self.path, self.done, self.failed, self.rows = _beside(path, "part"), 0, [], 0
        try:
            self.path.touch()
            self.file = self.path.open("r+b", buffering=0)  # what the disk refuses is not tried again on closing
        except OSError as error:
            raise files.refused(self.path, error) from error
        try:
            self._resume(fresh)
        except BaseException:
            self.file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.file.close()
        if kind is KeyboardInterrupt:
            kept = f"{self.done} batches of {self.config['batch_size']} images are kept in {self.path}"
            how = "the same command continues after them (not with fresh, --fresh)"
            raise KeyboardInterrupt(f"scoring was interrupted: {kept}, and {how}.") from None

    def _resume(self, fresh):
        good = 0
        if not fresh:
            for number, line in enumerate(self.file):
                entry = _entry(line)
                if entry is None and number == 0 and line.endswith(b"\n"):
                    raise InputError(f"{self.path} is no part of a table of scores: remove it, or give another file.")
                if entry is None:
                    break
                good += len(line)
                self._take(entry, first=number == 0)
        self.file.truncate(good)
        self.file.seek(good)
        if not good:
            self._write({"configuration": self.config, "sha256": sha256(self.config)})

    def _take(self, entry, first):
        if not first:
            self.done, self.rows = entry["batch"] + 1, self.rows + bool(entry["rows"])
            self.failed += map(tuple, entry["failed"])
        elif entry["configuration"] != self.config:
            raise InputError(
                f"{self.path} was begun with other settings, {differences(entry['configuration'], self.config)}: "
                "give another file, or fresh (--fresh) to begin anew."
            )

    def add(self, number, frames, failed):
        self.done, self.rows = number + 1, self.rows + bool(frames)
        self.failed += failed
        columns = list(next(iter(frames.values()))) if frames else []
        rows = {name: _text(frame, header=False) for name, frame in frames.items()}
        self._write({"batch": number, "columns": columns, "rows": rows, "failed": failed})

    def _write(self, entry):
        data = memoryview(json.dumps(entry).encode() + b"\n")
        try:
            while data:
                data = data[self.file.write(data) :]
            os.fsync(self.file.fileno())
        except OSError as error:
            raise InputError(
                f"Cannot write {self.path}: {error.strerror or error}. What it holds stays, and the same run "
                f"continues it. {files.advice(error)}"
            ) from error

    def finish(self):
        if not self.rows:
            self.path.unlink()
            raise nothing(self.failed)
        rows = {name: [] for name in self.config["order"]}
        for entry in self._batches():
            for name, text in entry["rows"].items():
                rows[name].append(text)
        with files.atomic(self.final, "w") as file:
            file.write(_text(pd.DataFrame(columns=entry["columns"])))
            file.writelines(itertools.chain(*rows.values()))
        leave_record(self.final, self.config, self.failed)
        self.path.unlink()
        return read(self.final)

    def _batches(self):
        """The lines of batches of which anything could be read."""
        with self.path.open("rb") as file:
            next(file)
            yield from filter(lambda entry: entry["rows"], map(json.loads, file))


def _entry(line):
    """What a line of a part says; None for one that is torn or foreign."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    known = {"configuration", "sha256"}, {"batch", "columns", "rows", "failed"}
    return entry if isinstance(entry, dict) and set(entry) in known else None


def _text(frame, header=True):
    """CSV with nine digits, which tell any two float32 apart."""
    text = io.StringIO()
    frame.to_csv(text, index=False, header=header, float_format="%.9g", lineterminator="\n")
    return text.getvalue()


def finished(path, config):
    """The table of this configuration that is at the path; None if it is yet to be made or completed.

    Raises `InputError` when something else is there: a table of other settings, one that was changed, another file.
    """
    path, record = Path(path), record_of(path)
    if not path.exists():
        return None
    same = record is not None and record["configuration"] == config
    if same and record["file"] == file_hash(path):
        return read(path)
    if _beside(path, "part").exists():
        return None
    todo = "give another file, or fresh (--fresh) to write it anew"
    if record is None:
        raise InputError(f"{path} is no table of scores with its record, {path.name}.json: {todo}.")
    if same:
        raise InputError(f"{path} was changed since its scores were written: {todo}.")
    told = differences(record["configuration"], config)
    raise InputError(f"{path} holds the scores of other settings, {told}: {todo}.")


def read(path):
    """A finished table; its `attrs["failed"]` are (id, reason) of the images left out. Raises `InputError`."""
    record = record_of(path)
    if record is None or not Path(path).is_file():
        raise InputError(f"{path}: no finished table of scores with its record, {Path(path).name}.json.")
    with Path(path).open(encoding="utf-8", newline="") as file:
        table = _table(file)
    table.attrs["failed"] = [tuple(entry[1:]) for entry in record["failed"]]
    return table


def _table(file):
    """A table from an open file of CSV."""
    names = pd.read_csv(file, nrows=0).columns
    kinds = {name: int if name in _WHOLE or name[:5] in ("morf_", "lerf_") else float for name in names}
    file.seek(0)
    kinds |= {"explainer": str, "image": str}
    return pd.read_csv(file, dtype=kinds, keep_default_na=False)


def record_of(path):
    """The record of a finished table, or None."""
    try:
        record = json.loads(_beside(path, "json").read_bytes())
    except (OSError, ValueError):
        return None
    keys = {"configuration", "sha256", "file", "failed"}
    return record if isinstance(record, dict) and keys <= set(record) else None


def leave_record(path, config, failed, **more):
    """Write PATH.json and, if images could not be read, PATH.failed.csv, for the table at the path."""
    note = _beside(path, "failed.csv")
    if failed:
        with files.atomic(note, "w") as file:
            file.write(_text(pd.DataFrame([entry[1:] for entry in failed], columns=["image", "reason"])))
    else:
        note.unlink(missing_ok=True)
    record = {"configuration": config, "sha256": sha256(config), "file": file_hash(path), "failed": failed}
    with files.atomic(_beside(path, "json"), "w") as file:
        json.dump(record | more | {"lficam": __version__} | provenance(), file, indent=1, ensure_ascii=False)


def nothing(failed):
    """The error that says that no image could be read."""
    why = f"; the first: {failed[0][2]}" if failed else "."
    return InputError(f"None of the {len(failed)} images could be read, so there are no scores{why}")


def _beside(path, ending):
    return Path(f"{path}.{ending}")
