"""Does a device compute what it should? Each check gives differences, and how large each of them may be.

    python -m benchmarks.checks                  # on the GPU where there is one
    python -m benchmarks.checks --device cpu --only golden images

golden: outputs of the authors' own code (tests/golden) in float32, and in float64. images: resident,
augmented pixels against the CPU's, bit by bit. waits: training steps that would make a GPU wait for the host.
bfloat16, kernels, compiled: losses against float32, the unfused optimiser, the loss that is not compiled. resume: a
deterministic training, cut and resumed, against one that was not, bit by bit. Exit code 1 if anything fails.
"""

import argparse
import contextlib
import dataclasses
import io
import sys
import tempfile
from pathlib import Path

import torch

import lficam
from benchmarks import timing
from benchmarks.waits import Waits, refused
from lficam import checkpoints, data, loop, own, resident, speed
from lficam.losses import classification_loss
from lficam.numerics import exact
from lficam.recipes import Recipe
from tests.golden_fill import fill_
from tests.networks import TinyNet, golden_images, golden_outputs

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
RECIPE = Recipe(epochs=2, batch_size=16, lr=0.01, milestones=(), seed=3, precision="float32")
DEEP = ("lfi_cifar_resnet110_fill", "abn_cifar_resnet110_fill")


@dataclasses.dataclass(frozen=True)
class Found:
    """One comparison: what, how large the difference is, and how large it may be."""

    what: str
    difference: float
    allowed: float

    @property
    def passed(self):
        return self.difference <= self.allowed  # NaN is no pass


def apart(a, b):
    """The largest absolute difference."""
    return (a.detach().cpu().double() - b.detach().cpu().double()).abs().max().item()


def authors(name, device):
    """A model with the authors' weights in eval mode, and the golden file."""
    content = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    if "state_dict" not in content:
        state = {key: torch.zeros(shape) for key, shape in content["names_shapes"]}
        fill_(state)
        content["state_dict"] = state | content["buffers"]
    method = "abn" if name.startswith("abn") else "lfi-cam"
    model = lficam.create(method, "resnet-110" if "resnet110" in name else "resnet-20", 10, mean=0, std=1)
    return lficam.load_authors(model, content["state_dict"]).to(device).eval(), content


@torch.no_grad()
def outputs(model, images):
    output = model(images)
    return {"logits": output.logits, "att": output.maps}


def golden(device):
    """LFI-CAM and ABN. The weights of ResNet-110 are ill-conditioned: there the authors' own error is the measure."""
    with exact():
        for name in ("lfi_cifar_resnet20", "abn_cifar_resnet20", *DEEP):
            model, reference = authors(name, device)
            x = reference["x"].to(device)
            for key, value in outputs(model, x).items():
                exactly = reference["eval64"][key]
                allowed = 5 * apart(reference["eval"][key], exactly) if name in DEEP else 5e-4
                yield Found(f"{name} float32 {key}", apart(value, exactly), allowed)
            for key, value in outputs(model.double(), x.double()).items():
                yield Found(f"{name} float64 {key}", apart(value, reference["eval64"][key]), 1e-8)
        yield from training_steps(device)
        yield from golden_tame(device)


def training_steps(device):
    """Losses of the authors' first steps of SGD."""
    for name, steps in (("lfi_cifar_resnet20", 3), ("abn_cifar_resnet20", 3)):
        model, reference = authors(name, device)
        x, y = reference["x"].to(device), reference["y"].to(device)
        recipe = Recipe(lr=0.1, momentum=0.9, weight_decay=1e-4, precision="float32")
        optimizer = loop.sgd(model.train(), recipe)
        losses = []
        for _ in range(steps):
            losses.append(classification_loss(model(x), y)["total"])
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        yield Found(f"{name} losses", apart(torch.stack(losses), torch.tensor(reference["sgd_losses"][:steps])), 2e-3)


def golden_tame(device):
    """TAME on a small network: terms of the loss at the first step."""
    reference, network = golden_outputs("tame_tinynet"), TinyNet()
    network.load_state_dict(reference["backbone_state"], strict=False)
    explainer = lficam.attach(network, "tame", ["s1", "s2", "s3"], classifier_mode="eval")
    explainer = lficam.load_authors(explainer, reference["attn_state"]).to(device).train()
    terms, _ = explainer.loss(golden_images().to(device), reference["labels"].to(device))
    expected = torch.tensor(reference["eval_mode"]["steps"][0]["losses"])
    losses = torch.stack([term.detach().cpu() for term in terms.values()])
    yield Found("tame_tinynet losses, relative", apart(losses / expected, torch.ones_like(expected)), 2e-4)


def random_images(count, size=32, pad=4, mirror=True, classes=10):
    """Images in memory like CIFAR's, of noise."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    options = {"name": "noise", "mean": (0.5,) * 3, "std": (0.25,) * 3, "pad": pad, "mirror": mirror}
    return own.images(pixels, labels, tuple(map(str, range(classes))), **options)


def images(device):
    """Batches from the device against those of the CPU: with and without augmentation and mirroring, of a subset."""
    for mirror in (True, False):
        whole = random_images(500, mirror=mirror)
        part = whole.subset(torch.arange(499, -1, -3))
        there = resident.place(part, device)
        if not isinstance(there.source, resident.Resident):
            yield Found("images are not on the device", 1, 0)
        for augment in (True, False):
            options = {"shuffle": True, "augment": augment, "seed": 5}
            pairs = zip(data.batches(there, 64, **options), data.batches(part, 64, **options), strict=True)
            wrong = sum(not all(torch.equal(a.cpu(), b) for a, b in zip(*pair, strict=True)) for pair in pairs)
            yield Found(f"batches that differ, mirror {mirror}, augment {augment}", wrong, 0)


def trainable(device):
    """{name: model} of everything that is trained, small."""
    torch.manual_seed(0)
    models = {method: lficam.create(method, "resnet-8", 10) for method in ("plain", "abn", "lfi-cam")}
    for method, options in (("l-cam-fm", {}), ("l-cam-img", {}), ("tame", {}), ("t-tame", {"masks": "top"})):
        models[method] = lficam.attach(lficam.create("plain", "resnet-8", 10), method, **options)
    return {name: model.to(device, memory_format=loop.memory_format(device, 32)) for name, model in models.items()}


def waits(device):
    """Steps of every method on resident images; on CUDA also under torch's own check."""
    there = resident.place(random_images(64), device)
    for name, model in trainable(device).items():
        optimizer = loop.sgd(model.train(), RECIPE)
        steps(model, optimizer, there)  # first calls may wait
        with Waits() as seen:
            steps(model, optimizer, there)
        yield Found(f"{name}: {', '.join(seen.found) or 'no operation waits'}", len(seen.found), 0)
        if device.type == "cuda":
            said = refused(lambda m=model, o=optimizer: steps(m, o, there))
            yield Found(f"{name}: {said or 'nothing that torch finds'}", bool(said), 0)


def steps(model, optimizer, images, recipe=RECIPE, loss=None):
    """One epoch's losses, on the device."""
    found = []
    for pixels, labels, _ in loop.train_batches(model, images, recipe, 0):
        loop.set_rates(optimizer, recipe.lr, recipe.momentum)
        terms, _ = loop.train_step(model, optimizer, pixels, labels, recipe, loss)
        found.append(terms["total"].detach().clone())  # what is compiled is written over
    return torch.stack(found)


def run_with(device, method, recipe=RECIPE, fused=None, compiled=False):
    """Losses of four steps of a small model, always the same start."""
    torch.manual_seed(0)
    model = lficam.create(method, "resnet-8", 10).to(device, memory_format=loop.memory_format(device, 32)).train()
    optimizer = loop.sgd(model, recipe)
    for group in optimizer.param_groups if fused is not None else ():
        group["fused"] = fused
    there = resident.place(random_images(64), device)
    return steps(model, optimizer, there, recipe, speed.compiled(model, recipe) if compiled else None)


def bfloat16(device):
    """The first loss in bfloat16 against float32, relative."""
    for method in ("plain", "abn", "lfi-cam"):
        whole, half = (
            run_with(device, method, dataclasses.replace(RECIPE, precision=p)) for p in ("float32", "bfloat16")
        )
        yield Found(f"{method}: first loss in bfloat16, relative", apart(half[:1] / whole[:1], torch.ones(1)), 0.02)


def kernels(device):
    """The fused optimiser against the plain one."""
    with exact():
        for method in ("plain", "abn", "lfi-cam"):
            fused, plain = run_with(device, method, fused=True), run_with(device, method, fused=False)
            yield Found(f"{method}: losses with the fused optimiser", apart(fused, plain), 2e-3)


def compiled(device):
    """The first loss, which is the same computation; later ones drift apart, as any rounding does."""
    with exact():
        for method in ("plain", "abn", "lfi-cam"):
            eager, fast = run_with(device, method), run_with(device, method, compiled=True)
            yield Found(f"{method}: first loss, compiled", apart(eager[:1], fast[:1]), 1e-4)
            yield Found(f"{method}: losses of four steps, compiled", apart(eager, fast), 2e-2)


def resume(device):
    """Weights of two epochs in one go and in two, of a deterministic recipe."""
    train, validation = data.load("photo-digits", "train", count=64), data.load("photo-digits", "validation", count=40)
    for method in ("plain", "abn", "lfi-cam"):
        recipe = dataclasses.replace(RECIPE, precision="auto", deterministic=True)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            ends = {"whole": (2,), "cut": (1, 2)}
            for name, epochs in ends.items():
                for last in epochs:
                    with exact(recipe.seed):
                        model = lficam.create(method, "resnet-8", 10)
                    part = dataclasses.replace(recipe, epochs=last)
                    loop.fit(model, train, validation, part, Path(folder) / name, device=device, label=method)
            a, b = (checkpoints.read(Path(folder) / name / "last.pt")["model"] for name in ends)
        wrong = sum(not torch.equal(a[key], b[key]) for key in a)
        yield Found(f"{method}: tensors that differ after a resume", wrong, 0)


CHECKS = {c.__name__: c for c in (golden, images, waits, bfloat16, kernels, compiled, resume)}


def run(names, device):
    """[(check, `Found`)], a line printed for each; a check that raises has failed."""
    results = []
    for name in names:
        try:
            for found in CHECKS[name](device):
                results.append((name, found))
                print(line(name, found), flush=True)
        except Exception as error:
            first = (str(error).strip() or "no reason given").splitlines()[0]
            results.append((name, Found(f"{type(error).__name__}: {first}", float("nan"), 0)))
            print(line(*results[-1]), flush=True)
    return results


def line(name, found):
    state = "passed" if found.passed else "FAILED"
    return f"{state}  {name:9} {found.difference:9.2g} of {found.allowed:7.2g}  {found.what}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=str(loop.best_device()))
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="by default all")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    print(timing.describe(device))
    failed = [found for _, found in run(given.only, device) if not found.passed]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
