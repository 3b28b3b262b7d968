"""What a profile costs before it is run: operations, time, memory, disk; and which data and weights are missing.

Operations are counted on tensors without content (device "meta"), by torch's flop counter: a multiplication with its
addition is two. Time follows from operations and what the processor is said to do; else it is unknown.
"""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from ... import files
from ...data import datasets, photo_digits
from ...errors import InputError, choose
from ...explainers import frozen, learned
from ...models import attention
from ...models.imagenet import load
from ...models.registry import create
from ...progress import duration
from ...training.jobs import Job
from ..notebooks import run
from ..report.records import read_record
from . import plan

ONCE = f'.venv/bin/python -c "{datasets.ONCE}"'
IMAGES = {  # in (train, validation), classes, pixels; of other data sets nobody knows before they are there
    "cifar10": (45_000, 5_000, 10, 32),
    "cifar100": (45_000, 5_000, 100, 32),
    "stl10": (4_500, 500, 10, 224),
    "imagenet": (1_281_167, 50_000, 1000, 224),
}
GET = {  # how to get a data set
    "cifar10": f"{ONCE} (170 MB)",
    "cifar100": f"{ONCE} (170 MB)",
    "stl10": f"{ONCE} (2.6 GB)",
    "imagenet": "the ILSVRC 2012 images (on request from their makers, 145 GB) as {root}/train/CLASS/*.JPEG and "
    "{root}/val/CLASS/*.JPEG, or data_root = where they lie",
    "catdog": "photographs of cats and dogs as {root}/train/{{cat,dog}}/*.jpg and {root}/test/{{cat,dog}}/*.jpg",
    "folder": "your images as {root}/{{train,val,test}}/CLASS/*.jpg",
}
ASSUMPTIONS = (
    "operations: of forward and backward passes of all epochs and the validation after each, counted layer by layer "
    "(multiplication and addition are two); reading images, the pass for explainers' labels and scoring are left out",
    "memory: weights, gradients and momentum in float32, and what the backward pass keeps of one batch in float32; "
    "bfloat16 on a GPU takes less, the libraries take about a gigabyte more",
    "disk: best.pt and last.pt of each training",
)


class Cost(NamedTuple):
    """Operations of an image in training and validation; bytes of the model, kept of an image, and on disk."""

    train: int
    validation: int
    fixed: int
    kept: int
    disk: int


def overview(profile: str, tflops: float | None = None, efficiency: float = 0.3) -> dict[str, Any]:
    """A profile's steps with their costs, and what is missing, as plain values. Raises `InputError`."""
    if tflops is not None and not (tflops > 0 and 0 < efficiency <= 1):
        raise InputError(f"Expected --tflops above 0 and --efficiency in (0, 1], got {tflops} and {efficiency}.")
    steps, rows = plan.collect(profile), []
    todo = {step.id for step in plan.unfinished(profile, steps)}
    for step in steps:
        row: dict[str, Any] = {"step": step.id, "kind": step.kind, "title": step.title, "finished": step.id not in todo}
        if step.kind == "train":
            row |= _of_training(plan.job_of(step.values["job"]), tflops and tflops * 1e12 * efficiency)
        elif step.kind == "notebook":
            row |= _of_notebook(profile, step.values["notebook"])
        rows.append(row)
    how = [*ASSUMPTIONS]
    if tflops:
        how.append(f"estimated time: operations / ({tflops:g} TFLOP/s as given x {efficiency:g}, an assumption)")
    return {"profile": profile, "steps": rows, "missing": missing(profile), "assumptions": how}


def _of_training(job: Job, speed: float | None) -> dict[str, Any]:
    """The cost of a training; speed: operations a second."""
    unknown = {"operations": None, "seconds": None, "basis": "unknown"}
    if not (images := _images(job)):
        return unknown  # its data would have to be there
    train, validation, classes, size = images
    if not (cost := _cost(job, classes, size)):
        return unknown
    recipe = job.recipe
    operations = recipe.epochs * (train * cost.train + validation * cost.validation)
    row = {"operations": operations, "images": recipe.epochs * train, "disk": cost.disk}
    row |= {"memory": cost.fixed + min(recipe.batch_size, train) * cost.kept}
    return row | {"seconds": operations / speed if speed else None, "basis": "estimate" if speed else "unknown"}


def _of_notebook(profile: str, name: str) -> dict[str, Any]:
    """What the published run took, with its trainings where they were not finished before."""
    try:
        record = read_record(files.root() / "figures" / profile / name)
    except ValueError:
        return {"seconds": None, "basis": "unknown"}
    return {"seconds": float(record["seconds"]), "basis": f"measured on {record['device']}"}


def _images(job: Job) -> tuple[int, int, int, int] | None:
    """(images for training, for validation, classes, size) of a job; None where only its data could tell."""
    if job.dataset in photo_digits.GROUPS:
        train, validation = (photo_digits.counts(job.dataset, split)[0] for split in ("train", "validation"))
        classes, size = len(photo_digits.GROUPS[job.dataset]), 32
    elif job.dataset in IMAGES:
        train, validation, classes, size = IMAGES[job.dataset]
    else:
        try:
            parts = [job.images(split) for split in ("train", "validation")]
        except InputError:
            return None
        (train, validation), classes, size = map(len, parts), len(parts[0].classes), parts[0].size
    return job.train_count or train, job.validation_count or validation, classes, job.size or size


def _cost(job: Job, classes: int, size: int) -> Cost | None:
    seen: list[Any] = []
    for what in (job.backbone, job.auxiliary or learned.AUXILIARY.get(job.method, "")):
        seen.append([what.method, what.backbone, what.options] if isinstance(what, Job) else ["", what, {}])
    return _count(json.dumps([job.method, *seen, job.options, job.layers]), classes, size)


@functools.lru_cache(maxsize=64)
def _count(settings: str, classes: int, size: int) -> Cost | None:
    """The `Cost` of a model on two images without content; None for what cannot be built or run so.

    settings: JSON of method; classifier and auxiliary one, each [method ("": of torchvision), backbone, its options];
    options; layers. Of what is no explainer the classifier is the backbone.
    """
    method, own, auxiliary, options, layers = json.loads(settings)
    model: attention.Classifier | learned.Explainer
    try:
        if method in learned.METHODS:
            beside = None if auxiliary == ["", "", {}] else _classifier(auxiliary, classes, size)
            model = learned.attach(_classifier(own, classes, size), method, layers or None, auxiliary=beside, **options)
        else:
            model = create(method, own[1], classes, **options)
    except InputError:
        return None
    model.to("meta").train()
    pixels = torch.empty(2, 3, size, size, device="meta")
    labels = torch.zeros(2, dtype=torch.long, device="meta")
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[id(tensor.untyped_storage())] = tensor
        return tensor

    with FlopCounterMode(display=False) as training:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            terms, _ = model.loss(pixels, labels)
        terms["total"].backward()
    model.eval()
    with FlopCounterMode(display=False) as checking, torch.no_grad():
        model.loss(pixels, labels)
    weights = {id(p.untyped_storage()) for p in [*model.parameters(), *model.buffers()]}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in model.parameters())
    activations = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
    train, validation = (counter.get_total_flops() // 2 for counter in (training, checking))
    return Cost(train, validation, fixed=4 * (every + 2 * trained), kept=activations // 2, disk=12 * trained)


def _classifier(what: tuple[str, str, dict], classes: int, size: int) -> frozen.Frozen:
    method, backbone, given = what
    return frozen.freeze(create(method, backbone, classes, **given) if method else load(backbone, 1000), size=size)


# --- What is missing


def missing(profile: str) -> list[dict[str, str]]:
    """[{what, how}] of data sets and weights that the profile's notebooks name and that are not there."""
    found: dict[tuple[str, str], dict[str, str] | None] = {}
    for name in run.profiles()[profile]:
        prepared = run.prepare(name, profile)
        space = prepared.settings
        for data_set in filter(None, space.get("datasets") or [space.get("dataset")]):
            found[data_set, space.get("data_root", "")] = _data_missing(data_set, space.get("data_root", ""))
        if space.get("pretrained"):
            networks = space.get("classifiers") or [space.get("classifier", "")]
            for network in [*networks, *filter(None, [space.get("auxiliary")])]:
                found[network, "weights"] = _weights_missing(network)
    return [entry for entry in found.values() if entry]


def _data_missing(name: str, root: str) -> dict[str, str] | None:
    """How to get a data set; None when it can be loaded."""
    if name in photo_digits.GROUPS:
        return None
    choose("data set", name, GET)
    try:
        datasets.load(name, "validation", root=root or None)
    except InputError:
        own = name if name in ("imagenet", "catdog", "folder") else ""
        home = Path(root).expanduser().absolute() if root else files.root() / "data" / "cache" / own
        return {"what": f"{name}, in {home}", "how": GET[name].format(root=home, name=name)}
    return None


def _weights_missing(name: str) -> dict[str, str] | None:
    """How to get a network's weights; None when torch has them already."""
    if name.startswith("timm/"):
        return None
    choose("classifier", name, models.list_models(module=models))
    known = models.get_model_weights(name)
    members = known.__members__
    which = "IMAGENET1K_V1" if "IMAGENET1K_V1" in members else "DEFAULT"
    weights = known[which]
    if (Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]).is_file():
        return None
    command = f'.venv/bin/python -c "import torchvision; torchvision.models.{name}(weights={which!r})"'
    return {"what": f"weights of {name}", "how": f"{command} ({weights.meta['_file_size']:.0f} MB)"}


# --- For reading


def text(found: dict[str, Any]) -> str:
    """The overview as lines."""
    lines = [f"Profile {found['profile']}: {len(found['steps'])} steps"]
    for row in found["steps"]:
        lines.append(f"{'done ' if row['finished'] else '     '} {row['title']}{_details(row)}")
    lines += _totals(found["steps"])
    lines += ["missing:"] * bool(found["missing"])
    lines += [f"  {entry['what']}: {entry['how']}" for entry in found["missing"]]
    return "\n".join([*lines, "how this was estimated:", *(f"  {line}" for line in found["assumptions"])])


def _details(row: dict[str, Any]) -> str:
    parts = []
    if row.get("operations"):
        parts += [_flop(row["operations"]), f"{row['memory'] / 2**30:.2g} GiB of memory"]
    if row.get("seconds"):
        parts.append(f"{duration(row['seconds'])} ({row['basis']})")
    return f": {', '.join(parts)}" if parts else ""


def _flop(operations: float) -> str:
    size, unit = (1e15, "PFLOP") if operations >= 1e15 else (1e12, "TFLOP")
    return f"{operations / size:.3g} {unit}" if operations < 1e18 else f"{operations / size:,.0f} {unit}"


def _totals(rows: Iterable[dict[str, Any]]) -> list[str]:
    train = [row for row in rows if row["kind"] == "train" and not row["finished"]]
    if not train:
        return ["No training is left to do."]
    known = [row for row in train if row["operations"]]
    total = sum(row["operations"] for row in known)
    disk = sum(row["disk"] for row in known)
    left_out = f" ({len(train) - len(known)} of unknown data not counted)" * (len(known) < len(train))
    line = f"{len(train)} trainings to do: {_flop(total)}, {disk / 2**30:.2g} GiB of checkpoints{left_out}"
    if not any(row["seconds"] for row in known):
        return [line, "Time is unknown without what your processor does: --tflops X."]
    return [f"{line}, {duration(sum(row['seconds'] or 0 for row in known))} one after the other (estimate)"]
