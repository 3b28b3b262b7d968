"""What is measured on a batch: one clean pass for all explainers, then all altered images of all of them together.

Maps are those that mask: min-max normalised, upsampled bilinearly, in [0, 1]. A constant map, which ranks nothing, is
0 everywhere; negative values are as good as any.
"""

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError, choose
from ..explainers.baseline import scores
from ..explainers.features import tap
from ..explainers.frozen import Frozen
from ..explainers.learned import Explainer
from ..maps import ROUNDING, normalise_and_upsample, upsample
from . import faithfulness, localisation, single_deletion
from .checks import check_finite

MEASURES: tuple[str, ...] = ("masking", "overlap", "precision", "sparsity", "insertion", "deletion", "road")
MEASURES += ("adcc", "adcc-normalised", "arcc", "single-deletion")
PRECISIONS = ("float32", "bfloat16")
Columns = dict[str, Tensor]
ROAD = (10, 30, 50, 70, 90)  # % of the pixels removed
ARCC = (20, 40, 60, 80)  # the same, of ARCC's ROAD


class Explains(Protocol):
    """An explainer of any kind: raw maps (B, h, w) of images (B, 3, H, W) for the classes (B,)."""

    @property
    def classifier(self) -> Frozen | None: ...

    def __call__(self, pixels: Tensor, target: Tensor | None = None, /) -> Tensor: ...


Explainers = Mapping[str, Explains]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure: see `scoring.score`. Raises `InputError` for what makes no sense."""

    fractions: Sequence[float] = (1.0, 0.5, 0.15)
    measures: Sequence[str] = ("masking", "overlap")
    steps: int = 20
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("fractions", "measures"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, (list, tuple)) else (value,))
        for measure in self.measures:
            choose("measure", measure, MEASURES)
        choose("precision", self.precision, PRECISIONS)
        if not all(isinstance(f, (int, float)) and 0 < f <= 1 for f in self.fractions):
            raise InputError(f"fractions: expected shares of the pixels, above 0 and at most 1, got {self.fractions}.")
        columns = {masked_column(f) for f in self.fractions}
        if len(columns) < len(self.fractions) or not (columns and self.measures):
            raise InputError("fractions and measures: expected at least one each, and none twice.")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 2:
            raise InputError(f"steps: expected a whole number of at least 2, got {self.steps!r}.")

    @property
    def asked(self) -> Sequence[float]:
        """The fractions that mask images: the maps as they are too, where ADCC is measured."""
        own = tuple(self.fractions) if "masking" in self.measures else ()
        return own if "adcc" not in self.measures or 1.0 in own else (*own, 1.0)

    @property
    def spaces(self) -> Sequence[str]:
        """What the map multiplies where coherency is measured, as its columns end: "" for pixels, "_normalised"."""
        pixels = {"adcc", "arcc"} & set(self.measures)
        return ("",) * bool(pixels) + ("_normalised",) * ("adcc-normalised" in self.measures)

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager:
        """The context of the classifier's and the explainers' passes."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16)


def masked_column(fraction: float) -> str:
    """The column of an image masked by the top of its map.

    >>> masked_column(0.15)
    'masked_15'
    """
    return f"masked_{100 * fraction:g}"


def measure(
    plan: Plan,
    explainers: Explainers,
    classifier: Frozen,
    pixels: Tensor,
    ids: Sequence[str],
    masks: Tensor | None = None,
) -> dict[str, Columns]:
    """{explainer: {column: values (B,), on the CPU}} for images (B, 3, H, W) in [0, 1] and, perhaps, masks (B, H, W).

    Columns: class (predicted), probability (of it); masked_100 ...; iou, energy, correlation, pointing,
    precision (with masks); coherency, undefined (whether it is, then coherency is 0), coherency_normalised ...,
    complexity, road; single_deletion, single_deletion_undefined; sparsity; insertion and deletion (areas), insertion_0
    ... (after each step); morf_10 ..., lerf_10 ... (whether the prediction is still the same without the most or least
    relevant 10 %).
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


def _at_once(pixels: Tensor) -> int:
    """How many images of this size a pass takes: any on a GPU; on a CPU 10 of 224 x 224, which stay in its cache."""
    return max(1, 2**19 // math.prod(pixels.shape[2:])) if pixels.device.type == "cpu" else len(pixels)


def _measure(
    plan: Plan,
    explainers: Explainers,
    classifier: Frozen,
    pixels: Tensor,
    ids: Sequence[str],
    masks: Tensor | None,
) -> dict[str, Columns]:
    """`measure` of images that go through the classifier at once.

    A GPU waits a single time, for all values together: what a wrong one leads to is computed before it is refused.
    """
    with plan.autocast(pixels.device):
        found, logits = explained(explainers, classifier, pixels)
    raw, logits = {name: maps for name, (maps,) in found.items()}, logits.float()
    classes = logits.argmax(1)
    clean = scores(logits, classes, "probability", classifier)
    maps = {name: normalise_and_upsample(found, pixels.shape[2:]) for name, found in raw.items()}
    mean = classifier.normalise.mean.flatten()
    answers = _ask(classifier, _questions(plan, maps, pixels, mean, ids), classes, plan)
    columns = {}
    for name, own in maps.items():
        said = answers.get(None, {}) | answers.get(name, {})
        columns[name] = {"class": classes, "probability": clean} | _of_answers(plan, clean, said)
        columns[name] |= _of_maps(plan, own, masks)
        for space in plan.spaces:
            masked = faithfulness.masked_images_unchecked(pixels, own, mean if space else None)
            with torch.no_grad(), plan.autocast(pixels.device):
                again = _called(explainers[name], name, masked, classes[:, None])[0]
            alike = localisation.coherency_unchecked(own, normalise_and_upsample(again, pixels.shape[2:]))
            columns[name] |= _or_undefined(f"coherency{space}", f"undefined{space}", alike)
        if "single-deletion" in plan.measures:
            after = torch.stack([said[f"cell_{k}"][2] for k in range(single_deletion.CELLS**2)], 1)
            drops = scores(logits, classes, "logit")[:, None] - after
            agree = single_deletion.agreement_unchecked(upsample(raw[name], pixels.shape[2:]), drops)
            columns[name] |= _or_undefined("single_deletion", "single_deletion_undefined", agree)
    seen = {("the classifier", "answer"): clean}
    seen |= {(name, "map"): _nan_unless(torch.isfinite(found)) for name, found in raw.items()}
    seen |= {(name, "finished map"): _nan_unless(torch.isfinite(own)) for name, own in maps.items()}
    seen |= {(name, column): values for name, own in columns.items() for column, values in own.items()}
    seen = fetch(seen, classifier, pixels, ids)
    return {name: {column: seen[name, column] for column in own} for name, own in columns.items()}


def fetch(
    columns: Mapping[tuple[str, str], Tensor], classifier: Frozen, pixels: Tensor, ids: Sequence[str]
) -> dict[tuple[str, str], Tensor]:
    """{(of whom, what): values (B,) of at most 53 bits} on the CPU, all by one copy: a GPU waits once.

    Raises `InputError` for pixels that the classifier does not take, and for the first values that are not finite.
    """
    low, high = (-ROUNDING, 1 + ROUNDING) if classifier.normalise.bounded else (-math.inf, math.inf)
    inside = _nan_unless(torch.isfinite(pixels) & (pixels >= low) & (pixels <= high))
    ours, *rows = torch.stack([values.double() for values in (inside, *columns.values())]).cpu()
    if bad := ours.isnan().nonzero()[:, 0].tolist():
        raise InputError(
            f"images: the pixels of image {ids[bad[0]]!r}, as of {len(bad)} of these {len(ids)}, hold values outside "
            "[0, 1] or NaN: divide 8-bit pixels by 255."
        )
    found = {}
    for (whose, what), row in zip(columns, rows, strict=True):
        check_finite(row, f"{whose}, {what}", ids)
        found[whose, what] = row.to(columns[whose, what].dtype)
    return found


def explained(
    explainers: Explainers, classifier: Frozen, pixels: Tensor, labels: Tensor | None = None
) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Raw maps {explainer: [(B, h, w)]} and logits (B, K), from one clean pass of images (B, 3, H, W).

    A map is of the predicted class and, with labels (B,), a second one of the label. Explainers of feature maps share
    the pass; others are called, and again for the images whose label is another class.
    Raises `InputError` for what is no map of each image.
    """
    trained = {name: e for name, e in explainers.items() if isinstance(e, Explainer) and e.auxiliary is None}
    wanted = {layer.name for own in trained.values() for layer in own.layers}
    layers = [layer for layer in classifier.layers if layer.name in wanted]
    with torch.inference_mode():
        raw, logits = tap(classifier.network, classifier.normalise(pixels), layers, raw=True)
        outputs = dict(zip((layer.name for layer in layers), raw, strict=True))
        classes = torch.stack([logits.argmax(1)] + [labels] * (labels is not None), 1)
        made = {}
        for name, own in trained.items():
            multiply, aspect = own.settings.class_token == "multiply", pixels.shape[2] / pixels.shape[3]
            features = [layer.maps(outputs[layer.name], multiply, aspect) for layer in own.layers]
            made[name] = own.eval().mechanism(features, classes)
    # Clones: methods by gradients cannot use what was made in inference mode.
    logits, classes = logits.clone(), classes.clone()
    maps = {name: list(own.clone().unbind(1)) for name, own in made.items()}
    with torch.no_grad():
        for name, explainer in explainers.items():
            if name not in trained:
                maps[name] = _called(explainer, name, pixels, classes)
    return {name: maps[name] for name in explainers}, logits


def _called(explainer: Explains, name: str, pixels: Tensor, classes: Tensor) -> list[Tensor]:
    """Raw maps [(B, h, w)] of an explainer of any kind for classes (B, L)."""
    first = explainer(pixels, classes[:, 0])
    if not torch.is_tensor(first) or first.ndim != 3 or len(first) != len(pixels) or not first.numel():
        found = tuple(first.shape) if torch.is_tensor(first) else type(first).__name__
        raise InputError(f"{name}: expected maps ({len(pixels)}, h, w), one an image, got {found}.")
    maps = [first]
    for other in classes.unbind(1)[1:]:
        differs = other != classes[:, 0]
        maps.append(first.clone())
        if differs.any():
            maps[-1][differs] = explainer(pixels[differs], other[differs])
    return [own.to(pixels.device) for own in maps]


@torch.inference_mode()
def _ask(
    classifier: Frozen, questions: Iterable[tuple[str | None, str, Tensor]], classes: Tensor, plan: Plan
) -> dict[str | None, dict[str, tuple[Tensor, ...]]]:
    """What the classifier says of (explainer, column, images (B, 3, H, W)), classes (B,).

    Each question is a pass of its own, of as many images in the same order as the clean pass: on any processor the
    same arithmetic, so that an image which the map leaves as it was keeps its probability to the last bit.
    Returns {explainer: {column: (probability of the class (B,), whether it is predicted (B,), its logit (B,))}}.
    """
    answers: dict[str | None, dict[str, tuple[Tensor, ...]]] = {}
    for name, column, images in questions:
        with plan.autocast(images.device):
            logits = classifier.answer(images.contiguous(memory_format=torch.channels_last)).float()
        found = (
            scores(logits, classes, "probability", classifier),
            logits.argmax(1) == classes,
            scores(logits, classes, "logit"),
        )
        answers.setdefault(name, {})[column] = found
    return answers


def _questions(
    plan: Plan, maps: dict[str, Tensor], pixels: Tensor, mean: Tensor, ids: Sequence[str]
) -> Iterator[tuple[str | None, str, Tensor]]:
    """(explainer, column, images) of all that the classifier is asked; None: the same for every explainer."""
    last = plan.steps
    if "insertion" in plan.measures:
        start = faithfulness.blurred(pixels)
        yield None, "insertion_0", start
    if "deletion" in plan.measures:
        yield None, f"deletion_{last}", torch.zeros_like(pixels)
    for cell in range(single_deletion.CELLS**2 * ("single-deletion" in plan.measures)):
        yield None, f"cell_{cell}", single_deletion.without_cell(pixels, cell, mean)
    for name, own in maps.items():
        for fraction in plan.asked:
            kept = faithfulness.keep_top_unchecked(own, fraction)
            yield name, masked_column(fraction), faithfulness.masked_images_unchecked(pixels, kept)
        if "adcc-normalised" in plan.measures:
            yield name, "masked_normalised", faithfulness.masked_images_unchecked(pixels, own, mean)
        if {"insertion", "deletion"} & set(plan.measures):
            turns = faithfulness.perturbation_steps_unchecked(own, last)
            for step in range(1, last):
                if "insertion" in plan.measures:
                    yield name, f"insertion_{step}", faithfulness.insertion(pixels, turns, step, start)
                if "deletion" in plan.measures:
                    yield name, f"deletion_{step}", faithfulness.deletion(pixels, turns, step)
    yield from _road(plan, maps, pixels, ids)


def _road(plan: Plan, maps: dict[str, Tensor], pixels: Tensor, ids: Sequence[str]) -> Iterator[tuple[str, str, Tensor]]:
    """Questions of ROAD and ARCC; on a GPU one solve fills as many as fit into its memory, on a CPU one."""
    removed = {}
    for name, own in maps.items():
        turns = faithfulness.perturbation_steps_unchecked(own, 10)
        for measure, end, shares in (("road", "", ROAD), ("arcc", "arcc_", ARCC)):
            for share in shares if measure in plan.measures else ():
                removed[name, f"{end}morf_{share}"] = turns <= share // 10
                removed[name, f"{end}lerf_{share}"] = turns > 10 - share // 10
    if not removed:
        return
    grain, keys = _grain(pixels, ids), list(removed)
    at_once = 1 if pixels.device.type == "cpu" else max(1, 2**24 // pixels[:, 0].numel())
    for start in range(0, len(keys), at_once):
        some = keys[start : start + at_once]
        gone = torch.cat([removed[key] for key in some])
        images, noise = (x.repeat(len(some), 1, 1, 1) for x in (pixels, grain))
        filled = faithfulness.road_impute_unchecked(images, gone, noise)
        for key, part in zip(some, filled.split(len(pixels)), strict=True):
            yield *key, part


def _grain(pixels: Tensor, ids: Sequence[str], deviation: float = 0.01) -> Tensor:
    """ROAD's noise (B, 3, H, W): an image's own, whatever else is in the batch, for all explainers and levels."""
    noise = []
    for name in ids:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        random = torch.Generator().manual_seed(seed)
        noise.append(torch.randn(pixels.shape[1:], generator=random))
    return deviation * torch.stack(noise).to(pixels.device, pixels.dtype, non_blocking=True)


def _of_answers(plan: Plan, clean: Tensor, said: dict[str, tuple[Tensor, ...]]) -> Columns:
    """Columns by what the classifier said of altered images, in the order of the measures."""
    columns = {name: said[name][0] for name in (*map(masked_column, plan.asked), "masked_normalised") if name in said}
    if "arcc" in plan.measures:
        gaps = [said[f"arcc_lerf_{share}"][0] - said[f"arcc_morf_{share}"][0] for share in ARCC]
        columns["road"] = torch.stack(gaps).mean(0) / 2
    for kind, known in (("insertion", plan.steps), ("deletion", 0)):
        if kind in plan.measures:
            curve = [clean if k == known else said[f"{kind}_{k}"][0] for k in range(plan.steps + 1)]
            columns[kind] = faithfulness.curve_area_unchecked(torch.stack(curve, 1))
            columns |= {f"{kind}_{k}": values for k, values in enumerate(curve)}
    return columns | {name: values[1].long() for name, values in said.items() if name[:5] in ("morf_", "lerf_")}


def _of_maps(plan: Plan, maps: Tensor, masks: Tensor | None) -> Columns:
    """Columns by the maps (B, H, W) alone, and the exact masks."""
    columns = {}
    if "overlap" in plan.measures and masks is not None:
        columns["iou"] = localisation.intersection_over_union_unchecked(maps, masks)
        columns["energy"] = localisation.energy_in_mask_unchecked(maps, masks)
        columns["correlation"] = localisation.mask_correlation_unchecked(maps, masks)
        columns["pointing"] = localisation.pointing_game_unchecked(maps, masks).long()
    if "precision" in plan.measures and masks is not None:
        columns["precision"] = localisation.average_precision_unchecked(maps, masks)
    if "sparsity" in plan.measures:
        columns["sparsity"] = localisation.sparsity_unchecked(maps)
    if plan.spaces:
        columns["complexity"] = localisation.complexity_unchecked(maps)
    return columns


def _or_undefined(column: str, undefined: str, values: Tensor) -> Columns:
    """A column with 0 where its values (B,) are NaN, and one that says where: a table holds numbers alone."""
    return {column: values.nan_to_num(0), undefined: values.isnan().long()}


def _nan_unless(good: Tensor) -> Tensor:
    """0 for images of which all is good, else NaN: (B, ...) -> (B,)."""
    return torch.where(good.flatten(1).all(1), 0.0, torch.nan)
