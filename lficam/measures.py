"""What is measured on a batch: one clean pass for all explainers, then all altered images of all of them together.

Maps are those that mask: min-max normalised, upsampled bilinearly, in [0, 1]. A constant map, which ranks nothing, is
0 everywhere; negative values are as good as any.
"""

import contextlib
import dataclasses
import hashlib
import math

import torch

from . import faithfulness, metrics
from .errors import InputError, choose
from .features import tap
from .maps import finish

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
            choose("measure", measure, dict.fromkeys(MEASURES))
        choose("precision", self.precision, dict.fromkeys(PRECISIONS))
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
    Raises `InputError` for maps and answers that are not finite, naming explainer and image.
    """
    with plan.autocast(pixels.device):
        raw = list(shared_maps(explainers, classifier, pixels))
    logits = raw[0][2].float()
    classes = logits.argmax(1)
    clean = faithfulness.class_scores(logits, classes)
    _check(clean, "the classifier", "its probability", ids)
    maps = {name: finish(_checked(found, name, ids), pixels.shape[2:]) for name, found, _ in raw}
    answers = ask(classifier, _questions(plan, maps, pixels, ids), classes, plan)
    columns = {}
    for name, own in maps.items():
        said = answers.get(None, {}) | answers.get(name, {})
        found = {"class": classes, "probability": clean} | _of_answers(plan, clean, said)
        found |= _of_maps(plan, own, masks)
        for column, values in found.items():
            _check(values, name, column, ids)
        columns[name] = {column: values.cpu() for column, values in found.items()}
    return columns


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
    """What the classifier says of (explainer, column, images (B, 3, H, W)), as many at once as suit the processor.

    classes (B,). Returns {explainer: {column: (probability of the class (B,), whether it is predicted (B,))}}.
    """
    answers, waiting, count = {}, [], 0

    def answer():
        images = torch.cat([part for _, _, part, _ in waiting]).contiguous(memory_format=torch.channels_last)
        wanted = torch.cat([classes for *_, classes in waiting])
        with plan.autocast(images.device):
            logits = classifier.answer(images).float()
        found = faithfulness.class_scores(logits, wanted), logits.argmax(1) == wanted
        sizes = [len(part) for _, _, part, _ in waiting]
        for (name, column, *_), *values in zip(waiting, *(x.split(sizes) for x in found), strict=True):
            answers.setdefault(name, {}).setdefault(column, []).append(values)
        waiting.clear()

    for name, column, images in questions:
        limit, start = at_once(images), 0
        while start < len(images):
            part = images[start : start + limit - count]
            waiting.append((name, column, part, classes[start : start + len(part)]))
            start, count = start + len(part), count + len(part)
            if count == limit:
                answer()
                count = 0
    if waiting:
        answer()
    joined = {}
    for name, own in answers.items():
        joined[name] = {column: [torch.cat(part) for part in zip(*parts, strict=True)] for column, parts in own.items()}
    return joined


def at_once(pixels):
    """How many images of this size a pass takes: 256 of 224 x 224; on a CPU 10, which stay in its cache."""
    most = 2**19 if pixels.device.type == "cpu" else 256 * 224**2
    return max(1, most // math.prod(pixels.shape[2:]))


def _questions(plan, maps, pixels, ids):
    """(explainer, column, images) of all that the classifier is asked; None: the same for every explainer."""
    last, start = plan.steps, None
    if "insertion" in plan.measures:
        start = faithfulness.blurred(pixels)
        yield None, "insertion_0", start
    if "deletion" in plan.measures:
        yield None, f"deletion_{last}", torch.zeros_like(pixels)
    grain = _grain(pixels, ids) if "road" in plan.measures else None
    for name, own in maps.items():
        if "masking" in plan.measures:
            for fraction in plan.fractions:
                kept = faithfulness.keep_top(own, fraction)
                yield name, masked(fraction), faithfulness.masked_images(pixels, kept)
        if {"insertion", "deletion"} & set(plan.measures):
            turns = faithfulness.perturbation_steps(own, last)
            for step in range(1, last):
                if "insertion" in plan.measures:
                    yield name, f"insertion_{step}", faithfulness.insertion(pixels, turns, step, start)
                if "deletion" in plan.measures:
                    yield name, f"deletion_{step}", faithfulness.deletion(pixels, turns, step)
        if "road" in plan.measures:
            turns = faithfulness.perturbation_steps(own, 10)
            for share in ROAD:
                yield name, f"morf_{share}", faithfulness.road_impute(pixels, turns <= share // 10, grain)
                yield name, f"lerf_{share}", faithfulness.road_impute(pixels, turns > 10 - share // 10, grain)


def _grain(pixels, ids, deviation=0.01):
    """ROAD's noise (B, 3, H, W): an image's own, whatever else is in the batch, for all explainers and levels."""
    noise = []
    for name in ids:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        random = torch.Generator().manual_seed(seed)
        noise.append(torch.randn(pixels.shape[1:], generator=random))
    return deviation * torch.stack(noise).to(pixels)


def _of_answers(plan, clean, said):
    """Columns by what the classifier said of altered images, in the order of the measures."""
    columns = {name: said[name][0] for name in map(masked, plan.fractions) if name in said}
    for kind, known in (("insertion", plan.steps), ("deletion", 0)):
        if kind in plan.measures:
            curve = [clean if k == known else said[f"{kind}_{k}"][0] for k in range(plan.steps + 1)]
            columns[kind] = faithfulness.curve_area(torch.stack(curve, 1))
            columns |= {f"{kind}_{k}": values for k, values in enumerate(curve)}
    return columns | {name: values[1].long() for name, values in said.items() if name[:5] in ("morf_", "lerf_")}


def _of_maps(plan, maps, masks):
    """Columns by the maps (B, H, W) alone, and the exact masks."""
    columns = {}
    if "overlap" in plan.measures and masks is not None:
        columns["iou"] = metrics.intersection_over_union(maps, masks)
        columns["energy"] = metrics.energy_in_mask(maps, masks)
        columns["pointing"] = metrics.pointing_game(maps, masks).long()
    if "sparsity" in plan.measures:
        columns["sparsity"] = metrics.sparsity(maps)
    return columns


def _checked(maps, name, ids):
    """Raw maps, if there is one of finite values for each image; else `InputError`."""
    if not torch.is_tensor(maps) or maps.ndim != 3 or len(maps) != len(ids):
        found = tuple(maps.shape) if torch.is_tensor(maps) else type(maps).__name__
        raise InputError(f"{name}: expected maps ({len(ids)}, h, w), one an image, got {found}.")
    _check(torch.where(torch.isfinite(maps).flatten(1).all(1), 0.0, torch.nan), name, "the map", ids)
    return maps


def _check(values, name, what, ids):
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        raise InputError(
            f"{name}: {what} of image {ids[bad[0].item()]!r} holds NaN or infinity, as for {len(bad)} of these "
            f"{len(ids)} images: an explainer or a classifier that is damaged, or too coarse a precision."
        )
