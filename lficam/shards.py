"""Shards of a table of scores, put together."""

from pathlib import Path

import pandas as pd

from . import workspace
from .configuration import differences
from .errors import InputError
from .streaming import file_hash, leave_record, read, record_of


def merge(paths, path):
    """The table of all shards, in the order of a table without shards; written to `path` with its record.

    paths: finished files of `scoring.score`, of all n shards once each, which agree in all else. A run without shards
    has the same rows, equal but for rounding (about 1e-6), as its batches are made of other images.
    Raises `InputError` for files that are missing, unfinished or do not fit together, and when something else than
    this very table is at `path`.
    """
    records = {}
    for name in paths:
        records[name] = record = record_of(name)
        if record is None:
            raise InputError(
                f"{name}: no finished table of scores with its record, {name}.json: score this shard first."
            )
        try:
            same = file_hash(name) == record["file"]
        except OSError as error:
            raise InputError(f"Cannot read {name} ({error.strerror}): score this shard again.") from error
        if not same:
            raise InputError(f"{name} was changed since its scores were written: score this shard again.")
    config = _common(records)
    with workspace.locked(path):
        if Path(path).exists() and (record_of(path) or {}).get("configuration") != config:
            raise InputError(f"{path} holds something else: give another file, or remove it.")
        parts, failed = [], []
        for name, record in records.items():
            start, step = record["configuration"]["shard"]
            lost = {start + step * at: (image, reason) for at, image, reason in record["failed"]}
            failed += [(at, *told) for at, told in lost.items()]
            parts.append(_placed(name, config, range(start, config["images"]["count"], step), lost))
        table = pd.concat(parts).sort_values(["order", "place"]).drop(columns=["order", "place"])
        with workspace.atomic(path, "w") as file:
            table.to_csv(file, index=False, lineterminator="\n")
        leave_record(path, config, sorted(failed), merged=[str(name) for name in paths])
        return read(path)


def _common(records):
    """The configuration that the shards have in common, as one without shards; `InputError` if they do not fit."""
    if not records:
        raise InputError("merge: expected the files of all shards, got none.")
    first, shards = None, []
    for name, record in records.items():
        config = dict(record["configuration"])
        shards.append(config["shard"])
        config["shard"] = [0, config["shard"][1]]
        if first is not None and config != first[1]:
            raise InputError(f"{first[0]} and {name} are not shards of one table: {differences(first[1], config)}.")
        first = first or (name, config)
    n = shards[0][1]
    found = [i for i, _ in shards]
    missing = [f"{i + 1}/{n}" for i in range(n) if i not in found]
    twice = sorted({f"{i + 1}/{n}" for i in found if found.count(i) > 1})
    if missing or twice:
        what = [f"missing {', '.join(missing)}"] * bool(missing) + [f"more than once {', '.join(twice)}"] * bool(twice)
        raise InputError(f"merge needs every one of the {n} shards once: {'; '.join(what)}.")
    return first[1] | {"shard": [0, 1]}


def _placed(path, config, positions, lost):
    """A shard's rows as text, with the columns `order` (of the explainer) and `place` (of the image) to sort by."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    places = [at for at in positions if at not in lost]
    order = {name: i for i, name in enumerate(config["order"])}
    return table.assign(order=table["explainer"].map(order), place=places * len(order))
