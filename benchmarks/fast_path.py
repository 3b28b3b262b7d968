"""What each step of the fast path of training brings: images per second and memory, one step added at a time.

    python -m benchmarks.fast_path                                   # ResNet-110, batch 128: for a GPU
    python -m benchmarks.fast_path --device cpu --backbone resnet-8 --batch 16 --steps 2 --until bfloat16

host-fed float32 -> pixels on the device -> channels last -> fused SGD -> bfloat16 -> compiled. The images are noise in
CIFAR's shape, cropped and mirrored. A row per step against the first one, and, with all steps, LFI-CAM and ABN against
the plain backbone; beside that ratio stands what the arithmetic alone (FLOP of forward and backward pass, as torch
counts them) would give. Memory is what a step needs above what lies on the GPU before it.
"""

import itertools
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

import lficam
from benchmarks import timing
from lficam.data import arrays, datasets
from lficam.errors import InputError
from lficam.numerics import exact
from lficam.training import loop
from lficam.training.recipes import Recipe

LADDER = ("host-fed float32", "resident", "channels last", "fused SGD", "bfloat16", "compiled")
METHODS = ("plain", "abn", "lfi-cam")


def random_images(count, size=32, pad=4, mirror=True):
    """Images in memory like CIFAR's, of noise."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    options = {"name": "noise", "mean": (0.5,) * 3, "std": (0.25,) * 3, "pad": pad, "mirror": mirror}
    return arrays.images(pixels, labels, tuple("0123456789"), **options)


class Rung:
    """One contestant: a model, trained with the steps of the ladder up to one."""

    def __init__(self, method, top, given):
        self.device, self.steps, self.name = torch.device(given.device), given.steps, f"{method}, {LADDER[top]}"
        self.recipe = Recipe(batch_size=given.batch, precision="bfloat16" if top >= 4 else "float32")
        self.layout = torch.channels_last if top >= 2 else torch.contiguous_format
        torch.manual_seed(0)
        self.model = lficam.create(method, given.backbone, 10).to(self.device, memory_format=self.layout).train()
        self.optimizer = loop.optimiser(self.model, self.recipe)
        for group in self.optimizer.param_groups:
            group["fused"] = True if top >= 3 else None  # None is torch's own choice
        images = random_images(given.images)
        images = datasets.place(images, self.device) if top >= 1 else images
        self.batches = self._endless(images)
        self.loss = loop.compiled_loss(self.model, self.recipe) if top >= 5 else None
        self.memory = 0

    def _endless(self, images):
        for epoch in itertools.count():
            for batch in loop.train_batches(self.model, images, self.recipe, epoch):
                if len(batch.labels) == self.recipe.batch_size:
                    yield batch

    @exact()
    def __call__(self):
        """The steps that are timed."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        with mock.patch.object(loop, "memory_format", return_value=self.layout):
            for pixels, labels, _ in itertools.islice(self.batches, self.steps):
                loop.set_rates(self.optimizer, self.recipe.lr, self.recipe.momentum)
                loop.train_step(self.model, self.optimizer, pixels, labels, self.recipe, self.loss)
        if self.device.type == "cuda":
            self.memory = max(self.memory, torch.cuda.max_memory_allocated(self.device) - before)

    def warm(self):
        """Steps that are not timed: kernels are chosen, and compiled. Whether they can be."""
        try:
            for _ in range(3):
                self()
        except InputError as error:
            print(f"{self.name}: {error}")
            return False
        return True


def flop(method, backbone, size=32):
    """Floating-point operations of a training step per image, forward and backward."""
    model = lficam.create(method, backbone, 10).train()
    with FlopCounterMode(display=False) as counter:
        model.loss(torch.rand(2, 3, size, size), torch.tensor([0, 1]))[0]["total"].backward()
    return counter.get_total_flops() / 2


def compare(method, given):
    """Rows of one method: every step against the first, and all steps against the plain backbone with as many."""
    top = LADDER.index(given.until)
    rungs = [Rung(method, i, given) for i in range(top + 1)]
    if method != "plain":
        rungs.append(Rung("plain", top, given))
    rungs = [rung for rung in rungs if rung.warm()]  # what cannot be compiled here has no row
    times = timing.in_turn({rung.name: rung for rung in rungs}, given.rounds, given.device)
    first, plain = f"{method}, {LADDER[0]}", f"plain, {LADDER[top]}"
    count, place = given.batch * given.steps, f"{given.backbone}, batch {given.batch}"
    for rung in rungs:
        if rung.name.startswith(method):
            facts = {"memory, GiB": rung.memory / 2**30} if rung.memory else {}
            what = f"{method} {place}: {rung.name.partition(', ')[2]}"
            yield timing.row(what, LADDER[0], times, count, rung.name, first, **facts)
    whole = f"{method}, {LADDER[top]}"
    if method != "plain" and {whole, plain} <= times.keys():
        share = flop("plain", given.backbone) / flop(method, given.backbone)
        what = f"{method} {place}: {LADDER[top]}"
        yield timing.row(what, "plain backbone", times, count, whole, plain, **{"by arithmetic": share})


PARSER = timing.parser("fast_path", __doc__, rounds=5, batch=128, steps=20, images=12_800)
PARSER.add_argument("--backbone", default="resnet-110")
PARSER.add_argument("--method", nargs="+", choices=METHODS, default=METHODS)
PARSER.add_argument("--until", choices=LADDER, default=LADDER[-1], help="last step of the ladder (default: all)")
QUICK = ["--backbone", "resnet-8", "--batch", "8", "--steps", "2", "--images", "32"]
QUICK += ["--rounds", "1", "--until", "bfloat16", "--method", "lfi-cam"]


def rows(given):
    """Rows of every method."""
    if given.images < given.batch:
        raise SystemExit(f"--images {given.images}: expected at least a batch, {given.batch}.")
    for method in given.method:
        yield from compare(method, given)


if __name__ == "__main__":
    timing.main(rows, PARSER)
