"""Training and inference of LFI-CAM and ABN against the authors' structure, in one process, in turn.

    python -m benchmarks.attention                       # the models of the table in benchmarks/README.md
    python -m benchmarks.attention lfi-cam resnet-20 --batch 64

The reference is written from the description of the released code: the weighted sum over feature maps is a Python loop
over the C channels, memory is laid out channels first. Ours is what the package runs: one contraction, and the faster
layout of the two. Both are checked to give the same maps before they are timed. Two rows per model: inference, and a
training step (forward, backward, SGD).
"""

import torch
import torch.nn.functional as F

import lficam
from benchmarks import timing
from lficam.losses import classification_loss
from lficam.maps import minmax
from lficam.models.attention import LFIAttention
from lficam.training.loop import memory_format

MODELS = [
    ("lfi-cam", "resnet-20", 10, 32, 64),
    ("abn", "resnet-20", 10, 32, 64),
    ("lfi-cam", "resnet-110", 10, 32, 16),
    ("abn", "resnet-110", 10, 32, 16),
    ("lfi-cam", "lfi-resnet18", 2, 224, 8),
    ("abn", "resnet18", 2, 224, 8),
    ("lfi-cam", "lfi-resnet50", 1000, 224, 4),
    ("abn", "resnet50", 1000, 224, 8),
]


def channel_loop(self, features, images):
    """The attention map of LFI-CAM with the sum over feature maps as a loop, for `LFIAttention.forward`."""
    weights = self.importances(features, images)
    total = torch.zeros_like(features[:, 0])
    for k in range(features.shape[1]):
        total = total + weights[:, k, None, None] * features[:, k]
    maps = F.relu(total)[:, None]
    return minmax(maps, constant=maps)


class Side:
    """One of the two contestants: a model, its memory layout for each kind of work, and its attention."""

    def __init__(self, model, device, layouts, forward=None):
        self.model, self.layouts = model.to(device), layouts
        if forward is not None and isinstance(model.attention, LFIAttention):
            model.attention.forward = forward.__get__(model.attention)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def prepare(self, work):
        """Bring the weights into the layout of the work."""
        self.model.to(memory_format=self.layouts[work])

    def infer(self, pixels, _):
        with torch.inference_mode():
            return self.model.eval()(pixels.contiguous(memory_format=self.layouts["infer"]))

    def train(self, pixels, labels):
        loss = classification_loss(self.model.train()(pixels.contiguous(memory_format=self.layouts["train"])), labels)[
            "total"
        ]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def compare(method, backbone, classes, size, batch, rounds, device):
    """Rows of inference and training: each side in turn, after a warm-up."""
    torch.manual_seed(0)
    models = [lficam.create(method, backbone, classes) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    layouts = {"infer": torch.channels_last, "train": memory_format(device, size)}  # as evaluation and training do
    ours = Side(models[0], device, layouts)
    reference = Side(models[1], device, dict.fromkeys(layouts, torch.contiguous_format), channel_loop)
    pixels, labels = torch.rand(batch, 3, size, size, device=device), torch.randint(classes, (batch,), device=device)
    error = (ours.infer(pixels, labels).maps - reference.infer(pixels, labels).maps).abs().max().item()
    if error > 1e-3:
        raise SystemExit(f"{method} {backbone}: the two sides differ by {error:.1e}, nothing was timed.")
    for work, name in (("infer", "inference"), ("train", "training")):
        sides = {"ours": ours, "reference": reference}
        for side in sides.values():
            side.prepare(work)
        calls = {key: lambda side=side, work=work: getattr(side, work)(pixels, labels) for key, side in sides.items()}
        times = timing.in_turn(calls, rounds, device)
        what = f"{method} {backbone}, {size} pixels, batch {batch}: {name}"
        yield timing.row(what, "authors' structure", times, batch, **{"maps differ by": error})


PARSER = timing.parser("attention", __doc__, "METHOD BACKBONE", rounds=5, classes=10, size=32, batch=16)
QUICK = ["lfi-cam", "resnet-8", "--batch", "4", "--rounds", "1"]


def rows(given):
    """Rows of every model."""
    device = torch.device(given.device)
    for model in timing.chosen(given, MODELS, given.classes, given.size, given.batch):
        yield from compare(*model, given.rounds, device)


if __name__ == "__main__":
    timing.main(rows, PARSER)
