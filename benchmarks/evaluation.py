"""AD and IC at 100, 50 and 15 % of the pixels: ours against the authors' structure and the limit of four passes.

    python -m benchmarks.evaluation                       # the rows of the table in benchmarks/README.md
    python -m benchmarks.evaluation tame resnet50 --images 64 --batch 16

The reference is written from the description of the released code: one run a level, one image at a time; the explainer
is called on the image and again on the masked image, each time with the maps of all 1,000 classes, L-CAM-Img with two
passes of the backbone a call. That is 6 passes an image, or 12, where 4 suffice. Ours is `scoring.score`. Both read the
same images, and are checked to give the same AD, IC and mean score that a whole map leaves before they are timed;
random weights. The limit is four bare forward passes an image at our batch size. Two rows per model, against the
reference and against the limit; in one process, in turn.
"""

import copy
import dataclasses
import math

import torch
import torch.nn.functional as F

import lficam
from benchmarks import timing
from benchmarks.mechanism import Reference
from lficam.data import datasets
from lficam.metrics import faithfulness, scoring

MODELS = [("tame", "resnet50"), ("tame", "vgg16"), ("l-cam-img", "resnet50"), ("l-cam-img", "vgg16")]
LEVELS = (1.0, 0.5, 0.15)


class Authors(Reference):
    """An explainer of ours, evaluated in the authors' structure, with the same weights."""

    def forward(self, pixels):
        """All K maps and the logits: L-CAM-Img runs the backbone a second time for the latter."""
        twice = not hasattr(self.mechanism, "convs")
        features, logits = self.tap(pixels, stop=twice)
        maps = self.class_maps(features)
        return maps, self.network(self.normalise(pixels)) if twice else logits

    def level(self, images, fraction):
        """AD, IC and, at 100 %, mean O / Y in percent of one run."""
        drop, rise, left = 0.0, 0, 0.0
        for pixels, _, _ in datasets.batches(images, 1, device=self.normalise.mean.device):
            maps, logits = self.forward(pixels)
            clean, k = torch.softmax(logits, 1).max(1)
            values = maps[:, k[0]]
            values = (values - values.min()) / (values.max() - values.min())
            values = F.interpolate(values[None], pixels.shape[2:], mode="bilinear", align_corners=False)[0, 0]
            masked = torch.softmax(self.forward(keep(values, 1 - fraction) * pixels)[1], 1)[0, k]
            drop += (clean - masked).clamp(min=0).item() / clean.item()
            rise += (masked > clean).item()
            left += masked.item() / clean.item()
        return [100 * value / len(images) for value in (drop, rise, *([left] if fraction == 1 else []))]

    @torch.inference_mode()
    def evaluate(self, images):
        return [value for fraction in LEVELS for value in self.level(images, fraction)]


def keep(values, dropped):
    """A map (H, W) without that share of its least relevant pixels."""
    if dropped == 0:
        return values
    flat = values.flatten()
    threshold = flat.kthvalue(int(len(flat) * dropped)).values
    flat = torch.where(flat < threshold, 0, flat)
    excess = int((flat > 0).sum()) - math.ceil((1 - dropped) * len(flat))
    if excess >= 1:
        flat[(flat == threshold).nonzero()[:excess, 0]] = 0
    return flat.reshape(values.shape)


def ours(explainer, images, batch):
    """AD and IC in percent at each level, and mean O / Y at 100 %: below, a rounding may settle a tie of pixels."""
    table = scoring.score({"ours": explainer}, images, fractions=LEVELS, measures=["masking"], batch_size=batch)
    clean, found = torch.tensor(table.probability.to_numpy()), []
    for level in LEVELS:
        masked = torch.tensor(table[f"masked_{100 * level:g}"].to_numpy())
        found.append(faithfulness.average_drop(clean, masked).mean().item())
        found.append(100 * faithfulness.increase_in_confidence(clean, masked).double().mean().item())
        found += [100 * (masked / clean).mean().item()] if level == 1 else []
    return found


@torch.inference_mode()
def four_passes(classifier, images, batch):
    for pixels, _, _ in datasets.batches(images, batch, device=classifier.normalise.mean.device):
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        for _ in range(4):
            classifier(pixels)


def passes(network, call):
    """How many images a call sends through a network, and what it returns."""
    seen = []
    handle = network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    try:
        found = call()
        return sum(seen), found
    finally:
        handle.remove()


def compare(method, network, images, batch, rounds, device):
    """Rows of both comparisons, each side in turn."""
    torch.manual_seed(0)
    explainer = lficam.attach(network, method, weights="random").to(device)
    reference = Authors(copy.deepcopy(explainer))  # each side in its own layout
    bare = copy.deepcopy(explainer.classifier).eval().to(memory_format=torch.channels_last)
    calls = {
        "ours": lambda: ours(explainer, images, batch),
        "reference": lambda: reference.evaluate(images),
        "limit": lambda: four_passes(bare, images, batch),
    }
    sides = {"ours": explainer.classifier.network, "reference": reference.network}
    found = {name: passes(inside, calls[name]) for name, inside in sides.items()}
    counts = [found[name][0] / len(images) for name in sides]
    pairs = zip(found["ours"][1], found["reference"][1], strict=True)
    difference = max(abs(a - b) / max(1, abs(b) / 100) for a, b in pairs)  # O / Y may be far above 100 %
    if difference > 1e-3:
        raise SystemExit(
            f"{method} {network}: AD, IC or scores differ by {difference:.1e}: nothing was timed.\n{found}"
        )
    times = timing.in_turn(calls, rounds, device)
    what = f"{method} {network}, {images.size} pixels, batch {batch}"
    passes_each = f"{counts[0]:.0f}, {counts[1]:.0f}"
    facts = {"passes an image": passes_each, "AD, IC differ by": difference}
    yield timing.row(what, "authors' structure", times, len(images), **facts)
    yield timing.row(what, "four bare passes", times, len(images), other="limit")


PARSER = timing.parser("evaluation", __doc__, "METHOD CLASSIFIER", images=16, size=224, batch=8)
QUICK = ["l-cam-img", "resnet18", "--images", "2", "--size", "64", "--rounds", "1"]


def rows(given):
    """Rows of every model."""
    images = datasets.load("photo-digits", "test", size=given.size, count=given.images)
    images = dataclasses.replace(images, masks=None)  # no overlap with the object is measured
    for model in timing.chosen(given, MODELS):
        yield from compare(*model, images, given.batch, given.rounds, torch.device(given.device))


if __name__ == "__main__":
    timing.main(rows, PARSER)
