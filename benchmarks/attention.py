"""Training and inference of LFI-CAM and ABN against the authors' structure, in one process, in turn.

    python benchmarks/attention.py                       # the models of the table in benchmarks/README.md
    python benchmarks/attention.py lfi-cam resnet-20 --batch 64

The reference is written from the description of the released code: the weighted sum over feature maps is a Python loop
over the C channels, memory is laid out channels first. Ours is what the package runs: one contraction, and the faster
layout of the two. Both are checked to give the same maps before they are timed. A line per model: images per second
(medians) and ratio ours / reference, for inference and for a training step (forward, backward, SGD).
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

import lficam
from lficam.attention import LFIAttention
from lficam.loop import memory_format
from lficam.losses import classification_loss
from lficam.maps import minmax

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


def seconds(call, pixels, labels):
    """Wall time of one call, the device idle before and after."""
    wait = torch.cuda.synchronize if pixels.is_cuda else (lambda: None)
    wait()
    start = time.perf_counter()
    call(pixels, labels)
    wait()
    return time.perf_counter() - start


def compare(method, backbone, classes, size, batch, rounds, device):
    """Print one line: medians of `rounds` calls of each side, taken in turn after a warm-up."""
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
    cells = []
    for work in ("infer", "train"):
        times = {side: [] for side in (ours, reference)}
        for side in times:
            side.prepare(work)
        for i in range(rounds + 1):
            for side, taken in times.items():
                duration = seconds(getattr(side, work), pixels, labels)
                taken += [duration] if i else []
        a, b = (batch / statistics.median(times[side]) for side in (ours, reference))
        ratio = statistics.median(s / o for o, s in zip(times[ours], times[reference], strict=True))
        cells.append(f"{a:8.1f} {b:8.1f} {ratio:6.2f}x")
    print(f"{method:8} {backbone:13} {size:4} {batch:5}  {cells[0]}  {cells[1]}   {error:.0e}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="*", metavar="METHOD BACKBONE", help="one model instead of the table's")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if len(arguments.model) not in (0, 2):
        parser.error("give a method and a backbone, or neither")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = MODELS
    if arguments.model:
        models = [(*arguments.model, arguments.classes, arguments.size, arguments.batch)]
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.rounds} rounds")
    print(
        "method   backbone      size batch  inference: ours, reference, ratio  training: ours, reference, ratio  error"
    )
    for model in models:
        compare(*model, arguments.rounds, device)


if __name__ == "__main__":
    main()
