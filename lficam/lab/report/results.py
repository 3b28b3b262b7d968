"""Results that can be trusted: intervals, tables with the published number beside ours, and the record of the run."""

import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from ... import files
from ...errors import InputError
from ...plots import pictures
from . import latex
from .reading import cell


def wilson(hits, n, confidence=0.95):
    """Wilson's score interval of a proportion: (low, high) in [0, 1] for `hits` of `n` (Wilson, 1927).

    Raises `InputError` unless 0 <= hits <= n and n > 0.
    """
    if not 0 <= hits <= n or n < 1:
        raise InputError(f"Wilson interval: expected 0 <= hits <= n and n > 0, got {hits} of {n}.")
    z = _normal_quantile((1 + confidence) / 2)
    share, shrink = hits / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _normal_quantile(p):
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


def bootstrap(values, weights=None, confidence=0.95, resamples=2000, seed=0):
    """Percentile bootstrap interval of the mean of per-image values: (low, high). Seeded, so it repeats.

    values (N,): low and high are numbers; (N, S): arrays (S,), all from the same resamples of the images.
    weights (N,): of a weighted mean; they are drawn together with the values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or not values.size or not np.isfinite(values).all():
        raise InputError(f"Bootstrap: expected a non-empty list of finite numbers, got shape {values.shape}.")
    n, rng = len(values), np.random.default_rng(seed)
    weights = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    sums = np.column_stack([values.reshape(n, -1) * weights[:, None], weights])
    drawn = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) @ sums for _ in range(resamples)])
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(drawn[:, :-1] / drawn[:, -1:], [tail, 100 - tail], axis=0)
    return (float(low[0]), float(high[0])) if values.ndim == 1 else (low, high)


def percentage(hits):
    """Share of true values among per-image outcomes (N,), in percent, with Wilson's 95 % interval."""
    n, count = len(hits), int(sum(hits))
    low, high = wilson(count, n)
    return {"reproduced": 100 * count / n, "low": 100 * low, "high": 100 * high, "N": n}


def average(values, weights=None):
    """Mean of per-image values (N,), weighted by `weights` (N,) if given, with its bootstrap 95 % interval."""
    low, high = bootstrap(values, weights)
    mean = np.average(np.asarray(values, dtype=np.float64), weights=weights)
    return {"reproduced": float(mean), "low": low, "high": high, "N": len(values)}


def _paper(name):
    return pd.read_csv(files.table(f"papers/{name}.csv"))


def published_accuracy():
    """The papers' top-1 accuracies in percent: columns dataset, backbone, method, published (NaN: unread), source."""
    error, lfi, rows = _paper("abn_top1_error"), _paper("lfi_top1_accuracy"), []
    for column, method in (("baseline_error_pct", "plain"), ("abn_error_pct", "abn")):
        part = error[["dataset", "backbone"]].assign(
            method=method, published=(100 - error[column]).round(2), source="ABN, CVPR 2019"
        )
        rows.append(part)
    for column, method in (("plain_pct", "plain"), ("abn_pct", "abn"), ("lfi_cam_pct", "lfi-cam")):
        rows.append(
            lfi[["dataset", "backbone"]].assign(
                method=method, published=lfi[column].astype(float), source="LFI-CAM, ICCV 2021"
            )
        )
    return pd.concat(rows, ignore_index=True)


def published_iou():
    """The IoU between models that LFI-CAM's stability figure shows, as two tables: per model pair, and average.

    Columns method, dataset, pair ("first" to "fifth"; not in the average), published, source.
    """
    source = "LFI-CAM, ICCV 2021, stability figure"
    per_model = _paper("lfi_iou_per_model").melt(["method", "dataset"], var_name="pair", value_name="published")
    mean = _paper("lfi_iou_mean").rename(columns={"iou": "published"})
    return tuple(table.assign(method=table.method.str.lower(), source=source) for table in (per_model, mean))


def published_faithfulness():
    """AD, IC and #FW of L-CAM, TAME and T-TAME on ImageNet, as far as they are known: tables/papers/ad_ic.csv.

    Columns dataset, classifier, explainer, measure ("AD 100" ... "IC 15"), published, source.
    """
    table = _paper("ad_ic").melt(
        ["source", "dataset", "classifier", "explainer"], var_name="measure", value_name="published"
    )
    return table.assign(published=table.published.astype(float))


def beside_published(reproduced, published, keys):
    """Reproduced rows with the published value of the same keys beside them, then the published rows that were not run.

    Missing values are "—" in the table, never a guess.
    """
    known = published.dropna(subset=["published"])
    table = reproduced.merge(known, on=keys, how="left")
    others = known.merge(reproduced[keys], on=keys, how="left", indicator=True)
    others = others[others.pop("_merge") == "left_only"]
    whole = dict.fromkeys(reproduced.select_dtypes("integer"), "Int64")  # which knows a missing value
    rows = [row for part in (table, others) for row in part.to_dict("records")]
    return pd.DataFrame(rows, columns=table.columns).astype(whole)


def show(table, digits=None):
    """A table for reading, its numbers written as on the page: digits per column, missing values as "—"."""
    digits = digits or {}
    texts = {name: ["" if pd.isna(value) else str(value) for value in table[name]] for name in table}
    return Shown({name: [cell(text, digits.get(name)) for text in column] for name, column in texts.items()})


class Shown(pd.DataFrame):
    """Text for reading: a notebook shows it without row numbers, words to the left, nothing broken over lines."""

    def _repr_html_(self):
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

    def __init__(self, name, output="", profile="lab", parameters=None):
        self.folder = Path(output) if output else files.root() / "reports" / "lab" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "record.json").unlink(missing_ok=True)
        self.record = {
            "notebook": name,
            "profile": profile,
            "parameters": parameters or {},
            "tables": [],
            "figures": [],
        }
        self.started, self.clock = datetime.datetime.now(datetime.UTC), time.perf_counter()

    def table(self, table, name, title, caption, digits=None):
        """Write a table as NAME.csv (full numbers) and NAME.tex (for reading), and return it for display.

        The caption states convention and N. digits: {column: decimals} for reading.
        """
        entry = {"file": f"{name}.csv", "title": title, "caption": caption, "digits": digits or {}}
        with files.atomic(self.folder / entry["file"], "w") as file:
            table.to_csv(file, index=False)
        with files.atomic(self.folder / f"{name}.tex", "w") as file:
            file.write(latex.table(self.folder / entry["file"], entry, self.record["notebook"]))
        self.record["tables"].append(entry)
        return show(table, digits)

    def figure(self, figure, name, title, caption):
        """Write a matplotlib figure as NAME.png, NAME.svg and NAME.pdf."""
        pictures.save(figure, self.folder, name)
        self.record["figures"].append({"file": f"{name}.png", "title": title, "caption": caption})

    def finish(self, device, seed, **results):
        """Write record.json: from here on the run counts as done. Returns the record."""
        self.record |= provenance() | {
            "device": describe(device),
            "seed": seed,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self.clock, 1),
            "results": results,
        }
        with files.atomic(self.folder / "record.json", "w") as file:
            json.dump(self.record, file, indent=1, ensure_ascii=False, default=_plain)
        return self.record


def _plain(value):
    """Numbers of numpy and torch as JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def provenance():
    """Command, commit, whether files differ from it, and versions: what a reader needs to repeat a run."""
    from ... import __version__

    script = Path(sys.argv[0])
    started = f"python -m {script.parent.name}" if script.name == "__main__.py" else script.name
    return {
        "command": os.environ.get("LFICAM_COMMAND") or " ".join([started, *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version(), "lficam": __version__}
        | {name: _version(name) for name in ("torch", "torchvision", "numpy", "pillow", "scikit-image", "mlxtend")},
    }


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _git(*command):
    """What git says of the checkout that this code is; "" where it is none, even if some other one is around it."""
    home = files.PACKAGE.parent
    options = {"cwd": home, "capture_output": True, "text": True, "timeout": 20, "check": True}
    try:
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], **options).stdout.removesuffix("\n")
        return subprocess.run(["git", *command], **options).stdout.strip() if Path(top).samefile(home) else ""
    except (OSError, subprocess.SubprocessError):
        return ""


def describe(device):
    """The processor by name, with the number of threads for a CPU."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def dataset_title(name):
    """The papers' name of a data set, for tables."""
    titles = {
        "cifar10": "CIFAR-10",
        "cifar100": "CIFAR-100",
        "stl10": "STL-10",
        "catdog": "Cat&Dog",
        "imagenet": "ImageNet",
    }
    return titles.get(name, name)


def backbone_title(name):
    """The papers' name of a backbone: "resnet-110", "resnet110" and "lfi-resnet110" are "ResNet-110".

    Which DenseNet, Wide ResNet and ResNeXt the published numbers belong to is not stated: the recipes' are taken.
    """
    named = {"densenet-bc-100-12": "DenseNet", "wrn-28-10": "Wide ResNet", "resnext-29-8x64": "ResNeXt"}
    match = re.fullmatch(r"(?:lfi-)?resnet-?(\d+)", name)
    return f"ResNet-{match[1]}" if match else named.get(name, name)
