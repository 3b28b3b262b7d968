"""The one training loop: SGD with a step schedule, checkpoints that survive a kill, and the same bits after a resume.

job = Job("lfi-cam", "resnet-110", dataset="cifar10", recipe=Recipe(epochs=300, milestones=(150, 225)))
run = train(job)                      # trains once; a second call finds the finished run by its settings
logits, maps = run.model(pixels)
"""

import bisect
import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from . import checkpoints, data, losses, metrics, workspace
from .attention import create
from .errors import InputError, check_fields
from .evaluation import predict
from .progress import Progress, say


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained. The defaults are the LFI-CAM authors' for CIFAR.

    epochs: passes over the training set; milestones: 0-based epochs at whose start lr is multiplied by gamma.
    precision: "float32", "bfloat16" (autocast) or "auto": bfloat16 on a GPU that has it, float32 on a CPU.
    deterministic: use deterministic kernels only, so that the same machine gives the same bits (a CPU does anyway).
    """

    epochs: int = 300
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4  # on every parameter, batch norm and biases too, as the authors do
    milestones: tuple[int, ...] = (150, 225)
    gamma: float = 0.1
    augment: bool = True
    seed: int = 1
    precision: str = "auto"
    deterministic: bool = False

    def __post_init__(self):
        check_fields(self)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"lr: expected a number above 0, got {self.lr}.")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise InputError(f"milestones: expected epochs in rising order, got {self.milestones}.")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise InputError(f"precision: expected 'auto', 'float32' or 'bfloat16', got {self.precision!r}.")

    def lr_at(self, epoch):
        """Learning rate of a 0-based epoch; a function of the epoch alone, so a resume cannot shift it."""
        return self.lr * self.gamma ** bisect.bisect_right(self.milestones, epoch)


@dataclass(frozen=True)
class Job:
    """One training, complete: what is trained, on what, how. Two jobs with equal fields are the same run."""

    method: str
    backbone: str
    dataset: str = "photo-digits"
    data_root: str = ""
    size: int = 0  # pixels; 0: the data set's own
    train_count: int = 0  # images; 0: all
    validation_count: int = 0
    options: dict = field(default_factory=dict)  # of `create`
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self):
        check_fields(self)

    @property
    def title(self):
        """A name for people; two jobs may share it."""
        return f"{self.method} {self.backbone} on {self.dataset}"

    def images(self, split, count=0):
        """The data set's split, `data.Images`."""
        return data.load(self.dataset, split, root=self.data_root or None, size=self.size or None, count=count or None)


class Run(NamedTuple):
    """A finished training: the model of best validation accuracy, a row per epoch, folder, whether it was found."""

    model: torch.nn.Module
    history: list
    folder: Path
    found: bool


def best_device():
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(job, *, device=None, workers=0, tensorboard=False, fresh=False):
    """Train a job, or continue it, or find it finished; everything lies in runs/DATASET/METHOD-BACKBONE-HASH.

    fresh: forget an earlier run of the same job. Returns a `Run`.
    Raises `InputError` for unknown names, wrong settings, divergence (NaN loss) and disks that refuse.
    """
    device = torch.device(device or best_device())
    images = job.images("train", job.train_count)
    validation = job.images("validation", job.validation_count)
    folder = run_folder(job, images)
    if fresh:
        for path in [folder / "last.pt", folder / "best.pt", *folder.glob("maps-*.npz")]:
            path.unlink(missing_ok=True)
    seed_everything(job.recipe.seed, job.recipe.deterministic)
    model = create(job.method, job.backbone, len(images.classes), mean=images.mean, std=images.std, **job.options)
    done = finished_epochs(folder)
    if done == job.recipe.epochs:
        say(f"{job.title}: found finished in {folder.relative_to(workspace.root())}")
    else:
        settings = {"job": dataclasses.asdict(job), "data": images.digest}
        fit(
            model,
            images,
            validation,
            job.recipe,
            folder,
            device=device,
            workers=workers,
            tensorboard=tensorboard,
            label=job.title,
            settings=settings,
        )
    history = checkpoints.read(folder / "last.pt")["history"]
    return Run(checkpoints.load(folder / "best.pt", device), history, folder, done == job.recipe.epochs)


def run_folder(job, images):
    """Where a job's run lies. The name holds a hash of every setting and of the training images."""
    text = json.dumps([dataclasses.asdict(job), images.digest, len(images)], sort_keys=True)
    return (
        workspace.root()
        / "runs"
        / job.dataset
        / f"{job.method}-{job.backbone}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    )


def is_finished(job):
    """Whether `train` would find the job finished. Raises `InputError` where its data cannot be loaded."""
    folder = run_folder(job, job.images("train", job.train_count))
    return finished_epochs(folder) == job.recipe.epochs


def finished_epochs(folder):
    """How many epochs the run in this folder has behind it."""
    last = Path(folder) / "last.pt"
    return len(checkpoints.read(last)["history"]) if last.is_file() else 0


def seed_everything(seed, deterministic=False):
    """Seed torch (all devices) and numpy; with `deterministic`, refuse kernels whose bits vary from run to run."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - for libraries that still draw from the global stream
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    torch.backends.cudnn.benchmark = not deterministic


def memory_format(device, size):
    """The layout in which training is fastest: channels last on GPUs and for small images (benchmarks/attention.py)."""
    return torch.channels_last if device.type != "cpu" or size <= 64 else torch.contiguous_format


def derive(seed, *parts):
    """A seed that depends on all parts, for example (seed, epoch): epochs can then be repeated after a kill."""
    return int(np.random.SeedSequence((seed, *parts)).generate_state(1)[0])


def fit(
    model,
    images,
    validation,
    recipe,
    folder,
    *,
    device="cpu",
    workers=0,
    tensorboard=False,
    label="training",
    settings=None,
):
    """Train a classifier, continuing from `folder`/last.pt when there is one; a row per epoch goes to `folder`/log.csv.

    After every epoch last.pt (all that a resume needs) and, when validation accuracy rose, best.pt are replaced
    atomically. The same seed gives the same bits whether or not the training was cut. Returns the history.
    """
    folder, device = Path(folder), torch.device(device)
    model.to(device, memory_format=memory_format(device, images.size))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    history = checkpoints.resume(model, optimizer, folder / "last.pt", device)
    board = open_board(folder, len(history)) if tensorboard else None
    with Progress(recipe.epochs * len(images), label, initial=len(history) * len(images)) as progress:
        for epoch in range(len(history), recipe.epochs):
            start = time.perf_counter()
            row = {"epoch": epoch + 1, "lr": recipe.lr_at(epoch)}
            row |= train_epoch(model, optimizer, images, recipe, epoch, device, workers, progress)
            if not np.isfinite(row["train_loss"]):
                kept = f"the checkpoint of epoch {epoch} is kept" if epoch else "there is no earlier checkpoint"
                raise InputError(
                    f"{label} diverged in epoch {epoch + 1} (loss {row['train_loss']}): lower lr, "
                    f"which was {row['lr']:g}; {kept}."
                )
            row |= validate(model, validation, workers)
            row["seconds"] = round(time.perf_counter() - start, 2)
            history.append(row)
            checkpoints.keep(model, optimizer, history, folder, settings)
            if board:
                for name in row.keys() - {"epoch"}:
                    board.add_scalar(name, row[name], epoch + 1)
            say(epoch_line(label, row, recipe.epochs))
    if board:
        board.close()
    return history


def train_epoch(model, optimizer, images, recipe, epoch, device, workers, progress):
    """One pass over the images; sums stay on the device, so the loop never waits for it."""
    torch.manual_seed(derive(recipe.seed, epoch, 0))  # dropout
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr_at(epoch)
    model.train()
    bfloat16 = recipe.precision == "bfloat16" or (recipe.precision == "auto" and device.type == "cuda")
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, correct, images
    for pixels, labels, _ in data.batches(
        images,
        recipe.batch_size,
        shuffle=True,
        augment=recipe.augment,
        seed=derive(recipe.seed, epoch, 1),
        device=device,
        workers=workers,
    ):
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            output = model(pixels.contiguous(memory_format=memory_format(device, images.size)))
            loss = losses.classification_loss(output, labels)["total"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        hits = metrics.correct(output.logits.detach(), labels).sum()
        sums += torch.stack(
            [loss.detach().double() * len(labels), hits.double(), hits.new_tensor(len(labels)).double()]
        )
        progress.update(len(labels))
    loss, hits, seen = sums.tolist()
    return {"train_loss": loss / seen, "train_accuracy": hits / seen}


def validate(model, images, workers=0):
    """Cross-entropy and top-1 accuracy on a data set."""
    predictions = predict(model, images, workers=workers)
    loss = torch.nn.functional.cross_entropy(predictions.logits, predictions.labels)
    hits = metrics.correct(predictions.logits, predictions.labels)
    return {"validation_loss": loss.item(), "validation_accuracy": hits.double().mean().item()}


def open_board(folder, done):
    """A TensorBoard writer that continues after `done` epochs."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard was asked for but is not installed: pip install 'lficam[tensorboard]'."
        ) from error
    return SummaryWriter(folder / "tensorboard", purge_step=done + 1)


def epoch_line(label, row, epochs):
    """One line a person can follow the training by."""
    return (
        f"{label}: epoch {row['epoch']}/{epochs}  lr {row['lr']:g}  loss {row['train_loss']:.3f}  "
        f"train {row['train_accuracy']:.1%}  "
        f"validation {row['validation_accuracy']:.1%}  {row['seconds']:.1f} s"
    )
