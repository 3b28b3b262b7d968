"""Jobs: trainings that are found again by their settings, and that continue where they were cut.

job = Job("lfi-cam", "resnet-110", dataset="cifar10", recipe=Recipe(epochs=300, milestones=(150, 225)))
run = train(job)                      # trains once; a second call finds the finished run by its settings
logits, maps = run.model(pixels)

job = Job("tame", Job("plain", "resnet-110", dataset="cifar10"), dataset="cifar10", recipe=explainer_recipe())
maps = train(job).model(pixels)       # an explainer; its classifier is trained first, or found
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import files, record
from ..data import datasets
from ..data.datasets import Images
from ..errors import InputError, check_fields, choose
from ..explainers import learned
from ..explainers.learned import Explainer
from ..explainers.load import load
from ..metrics import single_deletion
from ..metrics.evaluation import one_class, predict, predicted_labels
from ..models import checkpoints
from ..models.registry import create
from ..numerics import exact
from ..progress import say
from .distributed import ALONE, World, joined
from .loop import Model, Row, best_device, device_of, fit, precision_of
from .recipes import Recipe

GIVEN = ("the name of a backbone", "the job of a classifier: plain, abn or lfi-cam")  # for a classifier, an explainer


@dataclass(frozen=True)
class Job:
    """One training, complete: what is trained, on what, how. Two jobs with equal fields are the same run.

    backbone: a name; of an explainer the classifier that it explains: its `Job`, the path of its checkpoint, or the
    name of a network with weights (`frozen.find`).
    auxiliary: of an explainer that looks by another classifier (P-TAME) that one, likewise; "": what `attach` takes.
    layers: of an explainer, names or `["last 2"]` of the suggested ones; (): these.
    """

    method: str
    backbone: object
    dataset: str = "photo-digits"
    data_root: str = ""
    size: int = 0  # pixels; 0: the data set's own
    train_count: int = 0  # images; 0: all
    validation_count: int = 0
    options: dict = field(default_factory=dict)  # of `create` or `attach`
    recipe: Recipe = field(default_factory=Recipe)
    layers: tuple[str, ...] = ()
    weights: str = "papers"  # of a classifier by name
    auxiliary: object = ""
    deletions: bool = False  # of a classifier: images in training lose a cell (`single_deletion.in_domain`)
    added = ("auxiliary", "deletions")  # see `record.plain`

    def __post_init__(self) -> None:
        for name in ("backbone", "auxiliary"):
            if not isinstance(getattr(self, name), Job):
                object.__setattr__(self, name, str(getattr(self, name)))
        check_fields(self)
        choose("method", self.method, METHODS)
        if self.classifier and (self.classifier.explains or not self.explains):
            raise InputError(
                f"backbone: {self.method} cannot be built on {self.classifier.title}: give {GIVEN[self.explains]}."
            )
        if not self.explains and str(self.backbone).endswith((".pt", ".safetensors")):
            raise InputError(
                f"backbone: {self.method} is trained from a backbone's name, as resnet-20, got the file "
                f"{self.backbone}: to explain what is in it choose a method as tame."
            )
        if self.deletions and self.explains:
            raise InputError(f"deletions: classifiers are trained with them, and {self.method} is an explainer.")
        if "auxiliary" in self.options:
            raise InputError("auxiliary: it stands beside the options, not among them: auxiliary=, --auxiliary.")
        if self.auxiliary and not self.explains:
            raise InputError(f"auxiliary: {self.method} looks by no other classifier: leave it out, or train p-tame.")
        if (other := self.needs.get("auxiliary")) and other.explains:
            raise InputError(f"auxiliary: {self.method} cannot look by {other.title}: give {GIVEN[True]}.")
        for name in ("size", "train_count", "validation_count"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected a whole number above 0, or 0 for all, got {getattr(self, name)}.")

    @property
    def explains(self) -> bool:
        """Whether an explainer is trained."""
        return self.method in learned.METHODS

    @property
    def classifier(self) -> "Job | None":
        """The job of the classifier that is explained; None where that is a file or has a name."""
        return self.backbone if isinstance(self.backbone, Job) else None

    @property
    def needs(self) -> "dict[str, Job]":
        """The jobs of classifiers that are trained before it, by field."""
        return {name: job for name in ("backbone", "auxiliary") if isinstance(job := getattr(self, name), Job)}

    @property
    def short(self) -> str:
        """The backbone in a word: of a classifier's job or checkpoint, its own method and backbone."""
        if self.classifier:
            return f"{self.classifier.method}-{self.classifier.short}"
        path = Path(str(self.backbone))
        return (path.parent.name.rpartition("-")[0] or path.stem) if path.suffix else path.name

    @property
    def title(self) -> str:
        """A name for people; two jobs may share it."""
        how = " with deletions" * self.deletions
        return f"{self.method} {'of ' * self.explains}{self.short} on {self.dataset}{how}"

    def images(self, split: str, count: int = 0) -> Images:
        """The data set's split, `datasets.Images`."""
        images = datasets.load(
            self.dataset,
            split,
            root=self.data_root or None,
            size=self.size or None,
            count=count or None,
            recipe="explainer" if self.explains else "classifier",
        )
        return single_deletion.in_domain(images) if self.deletions and split == "train" else images

    def model(self, images: Images) -> Model:
        """What is to be trained, its weights random; of an explainer the classifier is trained first."""
        if self.explains:
            ready, layers = resolve(self), list(self.layers) or None
            found: dict[str, Any] = {"weights": self.weights, "size": images.size, "auxiliary": ready.auxiliary or None}
            return learned.attach(str(ready.backbone), self.method, layers, **found, **self.options)
        if len(images.classes) < 2:
            raise InputError(
                f"{images.name} has one class only, the folder {images.classes[0]!r}: a classifier needs at least two; "
                "give the folder that holds <class>/<image files> of each (--data-root, data_root)."
            )
        backbone, scale = str(self.backbone), {"mean": images.mean, "std": images.std}
        return create(self.method, backbone, len(images.classes), **scale, **self.options)


METHODS = ("plain", "abn", "lfi-cam", *learned.METHODS)


class Run(NamedTuple):
    """A finished training: the model, a row per epoch, folder, whether it was found.

    The model is the one of best validation accuracy; of an explainer, whose papers choose none, the last.
    """

    model: Model
    history: list[Row]
    folder: Path
    found: bool


def train(
    job: Job,
    *,
    device: torch.device | str | None = None,
    fresh: bool = False,
    compile: bool = False,
    workers: int = 0,
    tensorboard: bool = False,
) -> Run:
    """Train a job, or continue it, or find it finished; everything lies in runs/DATASET/METHOD-BACKBONE-HASH.

    fresh: forget an earlier run of the same job. compile: see `loop.compiled_loss`. workers: processes that read image
    files. tensorboard: write scalars there too. Started by torchrun or `accelerate launch`, the processes train one
    model (`distributed`).
    Returns a `Run`, of several processes in each of them. What is global in torch and numpy (seeds, deterministic
    kernels, TF32, cuDNN's benchmark) is as before afterwards.
    Raises `InputError` for unknown names, wrong settings, divergence (NaN loss), lost processes, disks that refuse, and
    a folder that another run is training into.
    """
    if not isinstance(compile, bool):
        raise InputError(f"compile: expected True or False, got {compile!r}.")
    device = device_of(device)
    job = resolve(job, device=device, workers=workers)
    with joined(device) as processes:
        images = job.images("train", job.train_count)
        with exact(job.recipe.seed, job.recipe.deterministic):
            options = {"device": device, "workers": workers, "compile": compile, "tensorboard": tensorboard}
            return _train(job, images, fresh, options | {"processes": processes})


def _train(job, images, fresh, options):
    device, workers, processes = (options[name] for name in ("device", "workers", "processes"))
    model = job.model(images)
    folder = run_folder(job, images, model, device)
    history = read_history(folder)
    if len(set(processes.everyone((folder.name, len(history))))) > 1:
        raise InputError(
            f"{job.title}: the processes see different images, classifiers or checkpoints; they have to share "
            f"{files.root() / 'runs'} and the data."
        )
    found = len(history) == job.recipe.epochs and not fresh
    if found:
        say(f"{job.title}: found finished in {folder.relative_to(files.root())}")
    else:
        validation = job.images("validation", job.validation_count)
        settings = {"job": record.plain(job), "data": images.digest, "classes": list(images.classes)}
        settings |= {"precision": precision_of(job.recipe, device), "compile": options["compile"]}
        # Of processes that train together the first keeps other runs out.
        todo = "wait for it, then the same command finds the model"
        alone = contextlib.nullcontext() if processes.rank else files.locked(folder / "last.pt", todo)
        with alone, _told(job, folder):
            if fresh and not processes.rank:
                for path in [folder / "last.pt", folder / "best.pt", *folder.glob("maps-*")]:
                    path.unlink(missing_ok=True)
            processes.everyone(None)
            model.to(device)
            images, seen = (relabelled(model, part, workers, processes) for part in (images, validation))
            history = fit(model, images, seen, job.recipe, folder, label=job.title, settings=settings, **options)
    # In one layout whether it was trained with or not: rounding, and so the maps, depend on it.
    classifier = model.classifier.to(memory_format=torch.contiguous_format) if job.explains else None
    run = Run(load(folder / "best.pt", device, classifier), history, folder, found)
    if not found and not processes.rank:
        _tell_one_class(run, validation, seen, workers)
    return run


def _tell_one_class(run, validation, seen, workers):
    """Say so when the trained classifier, or the one that is explained, predicts one class for all validation images.

    seen: `validation` with the labels that were trained on, `relabelled`.
    """
    predicted = seen.labels
    if seen is validation:
        hits = round(max(row["validation_accuracy"] for row in run.history) * len(validation))
        if isinstance(run.model, Explainer) or hits not in validation.labels.bincount():  # then it is not one class
            return
        predicted = predict(run.model, validation, workers=workers).logits.argmax(1)
    if told := one_class(predicted, validation.labels, validation.classes):
        say(told)


@contextlib.contextmanager
def _told(job: Job, folder: Path) -> Iterator[None]:
    """A `KeyboardInterrupt` says what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        done = len(read_history(folder))
        kept = f"its first {done} of {job.recipe.epochs} epochs are kept in {folder}" if done else "no epoch is kept"
        how = "continues after them (not with fresh, --fresh)" if done else "starts it again"
        raise KeyboardInterrupt(f"{job.title} was interrupted: {kept}, and the same command {how}.") from None


def resolve(job: Job, **options: Any) -> Job:
    """The job with checkpoints' paths in place of the jobs of its classifiers, trained first where they are missing.

    options: as of `train`.
    """
    device = options.get("device")
    needs = {name: finished_folder(one, device) or train(one, **options).folder for name, one in job.needs.items()}
    return _with(job, needs)


def _with(job: Job, folders: Mapping[str, Any]) -> Job:
    """The job with the checkpoints in these folders, by field."""
    return dataclasses.replace(job, **{name: folder / "best.pt" for name, folder in folders.items()})


def relabelled(model: Model, images: Images, workers: int = 0, processes: World = ALONE) -> Images:
    """The images with the labels that an explainer is trained on: what its classifier says, or the truth.

    Raises `InputError` for true labels that the classifier has no class for.
    """
    if not isinstance(model, Explainer) or model.settings.labels == "batch":
        return images
    if model.settings.labels == "truth":
        if len(images.classes) != model.classifier.num_classes:
            raise InputError(
                f"{images.name} has {len(images.classes)} classes, the classifier {model.classifier.num_classes}: "
                'take its own predictions (labels="model", --option labels=model).'
            )
        return images
    predict = functools.partial(predicted_labels, model.classifier, workers=workers)
    return dataclasses.replace(images, labels=processes.spread(predict, images, 64))


def run_folder(job: Job, images: Images, model: Model | None = None, device: torch.device | str | None = None) -> Path:
    """Where a job's run lies. The name holds a hash of every setting, of the training images and of the classifier.

    Images are known by what they are, wherever they lie; "auto" precision by what it means on the device.
    """
    settings = record.plain(job) | {"data_root": ""}
    if precision_of(job.recipe, torch.device(device or best_device())) == "bfloat16":
        settings["recipe"]["precision"] = "bfloat16"
    if job.explains:
        model = model or job.model(images)
    if isinstance(model, Explainer):
        # What was chosen, whether it was given or is the default.
        settings |= {"backbone": model.classifier.digest, "layers": [layer.name for layer in model.layers]}
        settings |= {"options": record.plain(model.settings)}
        settings |= {} if model.auxiliary is None else {"auxiliary": model.auxiliary.digest}
    text = json.dumps([settings, images.digest, len(images)], sort_keys=True)
    name = f"{job.method}-{job.short}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    return files.root() / "runs" / job.dataset / name


def finished_folder(job: Job, device: torch.device | str | None = None) -> Path | None:
    """Where `train` on the device (by default the best one) would find the job finished, None if it would not.

    Raises `InputError` where its data cannot be loaded.
    """
    needs = {name: finished_folder(one, device) for name, one in job.needs.items()}
    if None in needs.values():
        return None
    job = _with(job, needs)
    folder = run_folder(job, job.images("train", job.train_count), device=device)
    return folder if len(read_history(folder)) == job.recipe.epochs else None


def read_history(folder: Path | str) -> list[Row]:
    """A row for every epoch that the run in this folder has behind it."""
    last = Path(folder) / "last.pt"
    return checkpoints.read(last, lazily=True)["history"] if last.is_file() else []
