"""Stability of maps: overlap of the maps that two models give to the same images (Lee et al., ICCV 2021).

Maps above a threshold on the scale 0..255 are compared, each image by itself, under one of two protocols.

authors     as the released LFI-CAM code: maps become 8-bit pictures (see `as_dumped`), IoU and Dice are taken of every
            row of pixels, with 1e-6 against 0/0, and averaged. A row empty in both has IoU 1, and Dice 2.
standard    maps min-max normalised and upsampled, IoU and Dice of the whole map; two empty maps have 1.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..errors import InputError, choose
from ..maps import normalise_and_upsample
from .dumps import Dump, open_dump
from .localisation import agreement
from .statistics import bootstrap

Source = Dump | Path | str
Size = int | Sequence[int]
Scores = dict[str, np.ndarray]  # "iou" and "dice"
PIXELS = 2**19  # of one chunk: small enough for the cache, large enough to hide the loop


def compare(
    base: Source,
    target: Source,
    protocol: str = "authors",
    threshold: float = 100,
    size: Size | None = None,
    align: bool = False,
) -> Scores:
    """Overlap of two dumps, image by image in the order of `base`: {"iou": (N,), "dice": (N,)}, float64.

    base, target: `dumps.Dump`, or what they are opened from. size: of the images, H or (H, W), by default what the
    dumps know of it. align: whether the same images in another order are matched by id.
    Raises `InputError` for an unknown protocol, a threshold outside 0..255, dumps of other images, another order
    without align, sizes that disagree, maps that are not finite, and with "authors" raw maps outside [0, 1].
    """
    scores = pairs({"base": base, "target": target}, protocol, threshold, size, align)
    return scores["base", "target"]


def pairs(
    dumps: Mapping[str, Source],
    protocol: str = "authors",
    threshold: float = 100,
    size: Size | None = None,
    align: bool = False,
) -> dict[tuple[str, str], Scores]:
    """`compare` for all n(n-1)/2 pairs of named dumps, each read once: {(name, name): {"iou": (N,), "dice": (N,)}}."""
    if len(dumps) < 2:
        raise InputError(f"Pairs of dumps: give at least two, not {len(dumps)}.")
    limit = _limit(threshold)
    parts: dict[tuple[str, str], list[np.ndarray]] = {pair: [] for pair in itertools.combinations(dumps, 2)}
    for maps in _finished(list(dumps.values()), protocol, size, align):
        marked = dict(zip(dumps, (_above(m, limit) for m in maps), strict=True))
        for pair, part in parts.items():
            part.append(_overlap(marked[pair[0]], marked[pair[1]], protocol))
    return {pair: _scores(np.concatenate(part, 1)) for pair, part in parts.items()}


def threshold_curve(base: Source, target: Source, thresholds: Sequence[float], protocol: str = "authors") -> Scores:
    """`compare` at T thresholds in one reading: {"iou": (T, N), "dice": (T, N)}."""
    limits = [_limit(threshold) for threshold in thresholds]
    if not limits:
        raise InputError("Threshold curve: give at least one threshold in 0..255.")
    parts = [
        np.stack([_overlap(_above(ours, limit), _above(theirs, limit), protocol) for limit in limits], 1)
        for ours, theirs in _finished([base, target], protocol)
    ]
    return _scores(np.concatenate(parts, 2))


def against_masks(dump: Source, masks: np.ndarray, threshold: float = 100) -> np.ndarray:
    """Whole-map IoU (N,) of a dump's maps (standard protocol) with masks (N, H, W) bool, in the order of its ids."""
    dump = _opened(dump)
    masks = np.asarray(masks)
    if masks.dtype != bool or masks.ndim != 3 or len(masks) != len(dump):
        raise InputError(f"Masks: expected bool ({len(dump)}, H, W) for {dump.path}, got {masks.dtype} {masks.shape}.")
    limit, start, scores = _limit(threshold), 0, []
    for (maps,) in _finished([dump], "standard", masks.shape[1:]):
        part = masks[start : start + len(maps)]
        scores.append(_overlap(_above(maps, limit), (part, _rows(part)), "standard")[0])
        start += len(maps)
    return np.concatenate(scores)


def shuffled(base: Source, target: Source, threshold: float = 100) -> np.ndarray:
    """Standard IoU (N,) of base's map of each image with target's map of the next: a control without a common image."""
    base, target = _opened(base), _opened(target)
    if len(base) != len(target):
        raise InputError(f"{base.path} holds {len(base)} maps and {target.path} {len(target)}: dump the same images.")
    limit, size = _limit(threshold), _common_size([target], None)
    ours, theirs = ((_above(maps, limit) for (maps,) in _finished([dump], "standard", size)) for dump in (base, target))
    return np.concatenate([_overlap(*pair, "standard")[0] for pair in zip(ours, _shifted(theirs), strict=True)])


def _shifted(chunks: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[list[np.ndarray]]:
    """What `_above` gives of the next image in place of each one's, and of the first in place of the last's."""
    first = held = next(chunks)
    for chunk in itertools.chain(chunks, [first]):
        yield [np.concatenate([here[1:], there[:1]]) for here, there in zip(held, chunk, strict=True)]
        held = chunk


def consensus(scores: Mapping[tuple[str, str], Scores]) -> pd.DataFrame:
    """Table of `pairs`: base, target, iou with its 95 % interval low to high, dice, N; last the mean of all pairs.

    Intervals are over images; all pairs share the images, so that the last row resamples each image's mean over pairs.
    """
    mean = {kind: np.mean([part[kind] for part in scores.values()], 0) for kind in ("iou", "dice")}
    rows = []
    for (base, target), part in [*scores.items(), (("all pairs", ""), mean)]:
        low, high = bootstrap(part["iou"])
        row = {"base": base, "target": target, "iou": part["iou"].mean(), "low": low, "high": high}
        rows.append(row | {"dice": part["dice"].mean(), "N": len(part["iou"])})
    return pd.DataFrame(rows)


def band(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and 95 % interval over images of scores (T, N): three arrays (T,), for `figures.iou_curve`."""
    low, high = zip(*map(bootstrap, scores), strict=True)
    return np.mean(scores, 1), np.array(low), np.array(high)


def as_dumped(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps (n, h, w) float32 in [0, 1] as the authors' evaluation stores them: uint8 (n, H, W).

    Resized as OpenCV does, rounded to 8 bits, stretched to the full range, times 256. The peak becomes 256, which
    wraps to 0; a constant map becomes 0.
    """
    picture = np.rint(_resize(maps, size) * np.float32(255)).reshape(len(maps), -1)
    picture -= picture.min(1, keepdims=True)
    picture /= np.maximum(picture.max(1, keepdims=True), 1)
    picture *= 256  # never rounded across a whole number, from which quotients of bytes stay 1/255 away
    # 256 -> 0 by definition; from float to uint8 it would be undefined
    return picture.astype(np.uint16).astype(np.uint8).reshape(len(maps), *size)


def _resize(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, corners not aligned, with OpenCV's order of operations: columns, then rows with a fused product.

    A value within 1e-7 of half a grey level depends on that order.
    """
    if maps.shape[1:] == tuple(size):
        return maps
    left, right, part = _neighbours(maps.shape[2], size[1])
    wide = maps.take(left, 2) * (1 - part) + maps.take(right, 2) * part  # indexing would leave the images innermost
    upper, lower, part = _neighbours(maps.shape[1], size[0])
    part = part[:, None]
    tall = wide.astype(np.float64).take(upper, 1)  # float64 holds the product of two float32 exactly
    tall *= 1 - part
    tall += wide.take(lower, 1) * part
    return tall.astype(np.float32)


@functools.lru_cache
def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `new` places: both neighbours among `old` ones, and the share of the second, float32."""
    place = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    first = np.floor(place).astype(int)
    part = np.where((first < 0) | (first >= old - 1), 0, place - first).astype(np.float32)
    first = first.clip(0, old - 1)
    return first, np.minimum(first + 1, old - 1), part


def _opened(source: Source) -> Dump:
    return source if isinstance(source, Dump) else open_dump(source)


def _finished(
    sources: Sequence[Source], protocol: str, size: Size | None = None, align: bool = False
) -> Iterator[list[np.ndarray]]:
    """Maps of all dumps at one size, chunk by chunk: lists of (n, H, W), uint8 or float32, in the first one's order."""
    scale = choose("protocol", protocol, {"authors": _authors, "standard": _standard})
    dumps = [_opened(source) for source in sources]
    orders = [_order(dumps[0], dump, align) for dump in dumps]
    size = _common_size(dumps, size)
    step = max(1, PIXELS // (size[0] * size[1]))
    for start in range(0, len(dumps[0]), step):
        stop = min(start + step, len(dumps[0]))
        rows = [range(start, stop) if order is None else order[start:stop] for order in orders]
        raw = [dump.read(r) for dump, r in zip(dumps, rows, strict=True)]
        yield [m if dump.finished else scale(m, size, dump, r) for m, dump, r in zip(raw, dumps, rows, strict=True)]


def _authors(maps: np.ndarray, size: tuple[int, int], dump: Dump, rows: Sequence[int]) -> np.ndarray:
    inside = ((maps >= 0) & (maps <= 1)).reshape(len(maps), -1).all(1)
    if not inside.all():
        bad = dump.ids[rows[int(np.argmin(inside))]]
        raise InputError(
            f"{dump.path}: the map of image {bad!r} leaves [0, 1], which the authors' 8 bits cannot hold. "
            "Use the standard protocol, or dump min-max normalised maps."
        )
    return as_dumped(maps, size)


def _standard(maps: np.ndarray, size: tuple[int, int], *_: object) -> np.ndarray:
    return normalise_and_upsample(torch.from_numpy(maps), size).numpy()


def _order(first: Dump, dump: Dump, align: bool) -> np.ndarray | None:
    """Positions in `dump` of the images of `first`, None where they are the same."""
    if dump.ids == first.ids:
        return None
    ours, theirs = set(first.ids), set(dump.ids)
    only = [[i for i in first.ids if i not in theirs], [i for i in dump.ids if i not in ours]]
    if only[0] or only[1]:
        counts = ", ".join(
            f"{len(ids)} only in {d.path}" + (f" (first {ids[0]!r})" if ids else "")
            for ids, d in zip(only, (first, dump), strict=True)
        )
        raise InputError(f"The dumps hold different images: {counts}. Dump both models on the same ones.")
    if not align:
        at = next(i for i, pair in enumerate(zip(first.ids, dump.ids, strict=True)) if pair[0] != pair[1])
        raise InputError(
            f"The dumps hold the same images in another order: number {at} is {first.ids[at]!r} in {first.path} and "
            f"{dump.ids[at]!r} in {dump.path}. Match them by id with align (--align)."
        )
    place = {name: row for row, name in enumerate(dump.ids)}
    return np.array([place[name] for name in first.ids])


def _common_size(dumps: Sequence[Dump], size: Size | None) -> tuple[int, int]:
    """(H, W) to which all maps are brought. 8-bit maps cannot be resized any more, so theirs counts."""
    asked = {} if size is None else {_pair(size): "the size asked for"}
    known = {dump.size: str(dump.path) for dump in dumps if dump.finished} | asked
    if not known:
        known = {_pair(s): str(d.path) for d in dumps if (s := d.facts.get("image_size")) is not None}
    if len(known) > 1:
        found = ", ".join(f"{h} x {w} ({where})" for (h, w), where in known.items())
        raise InputError(f"The maps are of different sizes: {found}. Finished maps must agree; for raw ones give size.")
    if not known:
        raise InputError(f"{dumps[0].path} does not say how large the images are: give size (--size).")
    return next(iter(known))


def _pair(size: Size) -> tuple[int, int]:
    with suppress(TypeError, ValueError):
        height, width = (size, size) if isinstance(size, int) else size
        if height > 0 and width > 0 and (int(height), int(width)) == (height, width):
            return int(height), int(width)
    raise InputError(f"size: expected a whole number of pixels, or (height, width), not {size!r}.")


def _limit(threshold: float) -> float:
    number = isinstance(threshold, (int, float, np.integer, np.floating)) and not isinstance(threshold, bool)
    if not number or not 0 <= threshold <= 255:
        raise InputError(f"threshold: expected a number in 0..255, the scale of 8-bit maps, got {threshold!r}.")
    return float(threshold)


def _above(maps: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels above the limit (n, H, W) bool, and how many there are in each row (n, H)."""
    marked = maps > (np.uint8(math.floor(limit)) if maps.dtype == np.uint8 else np.float32(limit / 255))
    return marked, _rows(marked)


def _rows(marked: np.ndarray) -> np.ndarray:
    n, height, width = marked.shape
    return np.einsum("ij->i", marked.view(np.uint8).reshape(-1, width), dtype=np.uint32).reshape(n, height)


def _overlap(base: Sequence[np.ndarray], target: Sequence[np.ndarray], protocol: str) -> np.ndarray:
    """What `_above` gives for two maps -> IoU and Dice (2, n)."""
    both, total = _rows(base[0] & target[0]), base[1] + target[1]
    if protocol == "authors":
        both, total = 3.0 * both, 3.0 * total  # three equal channels, which matter beside 1e-6 only
        return np.stack([(both + 1e-6) / (total - both + 1e-6), 2 * (both + 1e-6) / (total + 1e-6)]).mean(2)
    both, total = both.sum(1, dtype=np.float64), total.sum(1, dtype=np.float64)
    return np.stack([agreement(both, total - both), agreement(2 * both, total)])


def _scores(stacked: np.ndarray) -> Scores:
    return {"iou": stacked[0], "dice": stacked[1]}
