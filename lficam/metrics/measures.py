"""What is measured on a batch: one clean pass for all explainers, then all altered images of all of them together.

Maps are those that mask: min-max normalised, upsampled bilinearly, in [0, 1]. A constant map, which ranks nothing, is
0 everywhere; negative values are as good as any.
"""

import contextlib
import dataclasses
import hashlib
import math

import torch

from ..errors import InputError, choose
from ..explainers.features import tap
from ..maps import ROUNDING, finish
from . import faithfulness, localisation

MEASURES = ("masking", "overlap", "sparsity", "insertion", "deletion", "road")
PRECISIONS = ("float32", "bfloat16")
ROAD = (10, 30, 50, 70, 90)  # % of the pixels removed


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure: see `scoring.score`. Raises `InputError` for what makes no sense."""

    fractions: tuple[float, ...] = (1.0, 0.5, 0.15)
    measures: tuple[str, ...] = ("masking", "overlap")
    steps: int = 20
    precision: str = "float32"

    def __post_init__(self):
        for name in ("fractions", "measures"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, (list, tuple)) else (value,))
        for measure in self.measures:
            choose("measure", measure, MEASURES)
        choose("precision", self.precision, PRECISIONS)
        if not all(isinstance(f, (int, float)) and 0 < f <= 1 for f in self.fractions):
            raise InputError(f"fractions: expected shares of the pixels, above 0 and at most 1, got {self.fractions}.")
        if len({masked(f) for f in self.fractions}) < len(self.fractions) or not (self.fractions and self.measures):
            raise InputError("fractions and measures: expected at least one each, and none twice.")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 2:
            raise InputError(f"steps: expected a whole number of at least 2, got {self.steps!r}.")

    def autocast(self, device):
        """The context of the classifier's and the explainers' passes."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16)


def masked(fraction):
    """The column of an image masked by the top of its map.

    >>> masked(0.15)
    'masked_15'
    """
    return f"masked_{100 * fraction:g}"


def measure(plan, explainers, classifier, pixels, ids, masks=None):
    """{explainer: {column: values (B,), on the CPU}} for images (B, 3, H, W) in [0, 1] and, perhaps, masks (B, H, W).

    Columns: class (predicted), probability (of it); masked_100 ...; iou, energy, pointing (only with masks);
    sparsity; insertion and deletion (areas), insertion_0 ... (after each step); morf_10 ..., lerf_10 ... (whether the
    prediction is still the same without the most or least relevant 10 % ...).
    Raises `InputError` for pixels outside [0, 1], and maps and answers that are not finite, naming explainer and image.
    """
    at_once, parts = _at_once(pixels), []
    for start in range(0, len(pixels), at_once):
        own = slice(start, start + at_once)
        known = None if masks is None else masks[own]
        parts.append(_measure(plan, explainers, classifier, pixels[own], ids[own], known))
    return {
        name: {column: torch.cat([part[name][column] for part in parts]) for column in columns}
        for name, columns in parts[0].items()
    }


def _at_once(pixels):
    """How many images of this size a pass takes: any on a GPU; on a CPU 10 of 224 x 224, which stay in its cache."""
    return max(1, 2**19 // math.prod(pixels.shape[2:])) if pixels.device.type == "cpu" else len(pixels)


def _measure(plan, explainers, classifier, pixels, ids, masks):
    """`measure` of images that go through the classifier at once.

    A GPU waits a single time, for all values together: what a wrong one leads to is computed before it is refused.
    """
    with plan.autocast(pixels.device):
        raw = list(shared_maps(explainers, classifier, pixels))
    logits = raw[0][2].float()
    classes = logits.argmax(1)
    clean = faithfulness.class_scores(logits, classes, check=False)
    raw = {name: _shaped(found, name, ids).to(pixels.device) for name, found, _ in raw}
    maps = {name: finish(found, pixels.shape[2:]) for name, found in raw.items()}
    answers = ask(classifier, _questions(plan, maps, pixels, ids), classes, plan)
    columns = {}
    for name, own in maps.items():
        said = answers.get(None, {}) | answers.get(name, {})
        columns[name] = {"class": classes, "probability": clean} | _of_answers(plan, clean, said)
        columns[name] |= _of_maps(plan, own, masks)
    low, high = (-ROUNDING, 1 + ROUNDING) if classifier.normalise.bounded else (-math.inf, math.inf)
    inside = torch.isfinite(pixels) & (pixels >= low) & (pixels <= high)
    seen = {("images", "pixels"): _nan_unless(inside), ("the classifier", "answer"): clean}
    seen |= {(name, "map"): _nan_unless(torch.isfinite(raw[name])) for name in maps}
    seen |= {(name, "finished map"): _nan_unless(torch.isfinite(maps[name])) for name in maps}
    seen |= {(name, column): values for name, own in columns.items() for column, values in own.items()}
    seen = dict(zip(seen, fetch(seen.values()), strict=True))
    for (name, what), values in seen.items():
        _check(values, name, what, ids)
    return {name: {column: seen[name, column] for column in own} for name, own in columns.items()}


def fetch(tensors):
    """Tensors (B,) of any numbers of at most 53 bits on the CPU, all by one copy: a GPU waits once."""
    tensors = list(tensors)
    rows = torch.stack([tensor.double() for tensor in tensors]).cpu()
    return [row.to(tensor.dtype) for row, tensor in zip(rows, tensors, strict=True)]


def shared_maps(explainers, classifier, pixels):
    """(name, raw maps (B, h, w) of the predicted class, logits (B, K)) of every explainer, from one clean pass.

    Explainers of feature maps share that pass; others are called.
    """
    trained = {name: e for name, e in explainers.items() if hasattr(e, "mechanism")}
    wanted = {layer.name for explainer in trained.values() for layer in explainer.layers}
    layers, maps = [layer for layer in classifier.layers if layer.name in wanted], {}
    with torch.inference_mode():
        raw, logits = tap(classifier.network, classifier.normalise(pixels), layers, raw=True)
        outputs = dict(zip((layer.name for layer in layers), raw, strict=True))
        for name, explainer in trained.items():
            multiply = explainer.settings.class_token == "multiply"
            features = [layer.maps(outputs[layer.name], multiply) for layer in explainer.layers]
            maps[name] = explainer.eval().mechanism(features, logits.argmax(1)[:, None])[:, 0]
    logits = logits.clone()  # methods by gradients cannot use what was made in inference mode
    for name, explainer in explainers.items():
        with torch.no_grad():
            found = maps[name].clone() if name in maps else explainer(pixels, logits.argmax(1))
        yield name, found, logits


@torch.inference_mode()
def ask(classifier, questions, classes, plan):
    """What the classifier says of (explainer, column, images (B, 3, H, W)), classes (B,).

    Each question is a pass of its own, of as many images in the same order as the clean pass: on any processor the
    same arithmetic, so that an image which the map leaves as it was keeps its probability to the last bit.
    Returns {explainer: {column: (probability of the class (B,), whether it is predicted (B,))}}.
    """
    answers = {}
    for name, column, images in questions:
        with plan.autocast(images.device):
            logits = classifier.answer(images.contiguous(memory_format=torch.channels_last)).float()
        found = faithfulness.class_scores(logits, classes, check=False), logits.argmax(1) == classes
        answers.setdefault(name, {})[column] = found
    return answers


def _questions(plan, maps, pixels, ids):
    """(explainer, column, images) of all that the classifier is asked; None: the same for every explainer."""
    last, start = plan.steps, None
    if "insertion" in plan.measures:
        start = faithfulness.blurred(pixels)
        yield None, "insertion_0", start
    if "deletion" in plan.measures:
        yield None, f"deletion_{last}", torch.zeros_like(pixels)
    for name, own in maps.items():
        if "masking" in plan.measures:
            for fraction in plan.fractions:
                kept = faithfulness.keep_top(own, fraction, check=False)
                yield name, masked(fraction), faithfulness.masked_images(pixels, kept, check=False)
        if {"insertion", "deletion"} & set(plan.measures):
            turns = faithfulness.perturbation_steps(own, last, check=False)
            for step in range(1, last):
                if "insertion" in plan.measures:
                    yield name, f"insertion_{step}", faithfulness.insertion(pixels, turns, step, start)
                if "deletion" in plan.measures:
                    yield name, f"deletion_{step}", faithfulness.deletion(pixels, turns, step)
    if "road" in plan.measures:
        yield from _road(maps, pixels, ids)


def _road(maps, pixels, ids):
    """ROAD's questions; on a GPU one solve fills as many as fit into its memory, on a CPU one, for its cache."""
    removed = {}
    for name, own in maps.items():
        turns = faithfulness.perturbation_steps(own, 10, check=False)
        for share in ROAD:
            removed[name, f"morf_{share}"] = turns <= share // 10
            removed[name, f"lerf_{share}"] = turns > 10 - share // 10
    grain, keys = _grain(pixels, ids), list(removed)
    at_once = 1 if pixels.device.type == "cpu" else max(1, 2**24 // pixels[:, 0].numel())
    for start in range(0, len(keys), at_once):
        own = keys[start : start + at_once]
        gone = torch.cat([removed[key] for key in own])
        images, noise = (x.repeat(len(own), 1, 1, 1) for x in (pixels, grain))
        filled = faithfulness.road_impute(images, gone, noise, check=False)
        for key, part in zip(own, filled.split(len(pixels)), strict=True):
            yield *key, part


def _grain(pixels, ids, deviation=0.01):
    """ROAD's noise (B, 3, H, W): an image's own, whatever else is in the batch, for all explainers and levels."""
    noise = []
    for name in ids:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        random = torch.Generator().manual_seed(seed)
        noise.append(torch.randn(pixels.shape[1:], generator=random))
    return deviation * torch.stack(noise).to(pixels.device, pixels.dtype, non_blocking=True)


def _of_answers(plan, clean, said):
    """Columns by what the classifier said of altered images, in the order of the measures."""
    columns = {name: said[name][0] for name in map(masked, plan.fractions) if name in said}
    for kind, known in (("insertion", plan.steps), ("deletion", 0)):
        if kind in plan.measures:
            curve = [clean if k == known else said[f"{kind}_{k}"][0] for k in range(plan.steps + 1)]
            columns[kind] = faithfulness.curve_area(torch.stack(curve, 1), check=False)
            columns |= {f"{kind}_{k}": values for k, values in enumerate(curve)}
    return columns | {name: values[1].long() for name, values in said.items() if name[:5] in ("morf_", "lerf_")}


def _of_maps(plan, maps, masks):
    """Columns by the maps (B, H, W) alone, and the exact masks."""
    columns = {}
    if "overlap" in plan.measures and masks is not None:
        columns["iou"] = localisation.intersection_over_union(maps, masks, check=False)
        columns["energy"] = localisation.energy_in_mask(maps, masks, check=False)
        columns["pointing"] = localisation.pointing_game(maps, masks, check=False).long()
    if "sparsity" in plan.measures:
        columns["sparsity"] = localisation.sparsity(maps, check=False)
    return columns


def _shaped(maps, name, ids):
    """Raw maps, if there is one for each image; else `InputError`."""
    if not torch.is_tensor(maps) or maps.ndim != 3 or len(maps) != len(ids) or not maps.numel():
        found = tuple(maps.shape) if torch.is_tensor(maps) else type(maps).__name__
        raise InputError(f"{name}: expected maps ({len(ids)}, h, w), one an image, got {found}.")
    return maps


def _nan_unless(good):
    """0 for images of which all is good, else NaN: (B, ...) -> (B,)."""
    return torch.where(good.flatten(1).all(1), 0.0, torch.nan)


def _check(values, name, what, ids):
    bad = (~torch.isfinite(values)).nonzero()[:, 0].tolist()
    if bad:
        where = f"{what} of image {ids[bad[0]]!r}"
        where += f", as of {len(bad)} of these {len(ids)} images," * (len(bad) > 1)
        if what == "pixels":
            raise InputError(f"{name}: the {where} hold values outside [0, 1] or NaN: divide 8-bit pixels by 255.")
        raise InputError(
            f"{name}: the {where} holds NaN or infinity: an explainer or a classifier is damaged, or the precision "
            "too coarse."
        )
