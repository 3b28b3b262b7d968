"""Which metric can be trusted? How its ranking of explainers agrees with the mask's, and with those of other metrics.

table = score(explainers, images, measures=("masking", "precision", "deletion"))
rows = agreement(table)                                         # every metric with the mask
matrix = between([table])                                       # every metric with every other, over several seeds
rows = fooled(table, {"centre": ("exact mask", "centre")})      # who prefers the centre to the exact mask?

Kendall's tau-b: of the pairs of explainers, those in the same order minus those in the other one, over the geometric
mean of the pairs that are no ties in either ranking. 1 is the same ranking, 0 chance, -1 the reverse.

A mask says where the object *is*, not what the network used: a faithful map of a wrong network need not lie on it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from ..data.datasets import Images, batches, exact_masks
from ..errors import InputError, choose
from ..explainers.frozen import Frozen
from ..numerics import exact
from . import faithfulness
from .scoring import values_of
from .statistics import average, bootstrap, percentage

LOWER = ("AD", "deletion", "MoRF", "complexity")  # first words of the measures of which less is better
TRUTH = "precision"
OF_MASK = ("IoU", "energy", "pointing", "precision")  # measures that need the mask themselves
SHOWN = ("the whole image", "the object alone", "the background, the object black", "the background, the object filled")
RANKINGS = ("per image", "undefined 0", "of means", "pairs")


def kendall(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Kendall's tau-b of a and b (..., E) over the E last values: (...), NaN where either is constant.

    Kendall (Biometrika 1945).
    """
    return (_orders(np.asarray(a, np.float64)) * _orders(np.asarray(b, np.float64))).sum(-1)


def _signs(values: np.ndarray) -> np.ndarray:
    """The order of each pair of (..., E): -1, 0 or 1, (..., pairs)."""
    first, second = np.triu_indices(values.shape[-1], 1)
    return np.sign(values[..., first] - values[..., second])


def _orders(values: np.ndarray) -> np.ndarray:
    """`_signs` scaled to length 1, NaN where there is no order: the sum of products of two is their tau-b."""
    signs = _signs(values)
    length = np.sqrt((signs**2).sum(-1, keepdims=True))
    return np.divide(signs, length, out=np.full_like(signs, np.nan), where=length > 0)


def ranked(table: pd.DataFrame, measures: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """{measure: values (N, E) of images and explainers, larger is better}, of a table of `scoring.score`.

    measures: of `summary`, by default all but those that leave images out or need the mask. Raises `InputError` for
    unknown ones, fewer than two explainers, and explainers that were not scored on the same images.
    """
    parts = [part.set_index("image") for _, part in table.groupby("explainer", sort=False)]
    if len(parts) < 2 or not all(part.index.equals(parts[0].index) for part in parts):
        raise InputError("A ranking needs at least two explainers, scored on the same images in the same order.")
    found = [values_of(part) for part in parts]
    if measures is None:
        measures = [name for name in found[0] if name not in OF_MASK and not name.endswith("defined")]
    signs = {name: -1 if name.split()[0] in LOWER else 1 for name in measures}
    return {name: signs[name] * np.stack([choose("measure", name, own) for own in found], 1) for name in measures}


def agreement(table: pd.DataFrame, truth: str = TRUTH, measures: Sequence[str] | None = None) -> pd.DataFrame:
    """How each measure ranks the explainers of a table of `score` against the ranking by `truth`, a measure too.

    truth: "precision", average precision, which asks for the order of pixels alone; "energy", the share of the map in
    the mask, prefers small maps, and "IoU" depends on a threshold. Rows measure, ranking,
    reproduced, low, high (95 % bootstrap over images, the same resamples for all), N:
    - "per image": tau-b of each image, mean of the N where both rankings order anything;
    - "undefined 0": mean of all images, with 0 for the others;
    - "of means": tau-b of the means over images; of E explainers it has E (E - 1) / 2 pairs, hence wide intervals;
    - "pairs": the share of pairs of explainers, image by image, that the measure orders as the truth does; its
      ties count one half, pairs that are equal in truth do not count. 0.5 is chance.
    A ranking that orders nothing has no row. Raises `InputError` as `ranked`.
    """
    values, rows = ranked(table, measures), []
    true = ranked(table, [truth])[truth]
    for name, own in values.items():
        if name == truth:
            continue
        tau, found = kendall(own, true), {}
        known = tau[~np.isnan(tau)]
        if len(known):
            found = {"per image": average(known), "undefined 0": average(np.nan_to_num(tau))}
        if not np.isnan(of_means := kendall(own.mean(0), true.mean(0))):
            low, high = bootstrap(np.hstack([own, true]), of=lambda means: kendall(*np.split(means.T, 2, 1)))
            found["of means"] = {"reproduced": float(of_means), "low": low, "high": high, "N": len(own)}
        ours, theirs = _signs(own), _signs(true)
        if (count := (theirs != 0).sum(1).clip(min=1e-12)).sum() >= 1:
            right = ((1 + ours * theirs) / 2 * (theirs != 0)).sum(1)
            found["pairs"] = average(right / count, count)
        rows += [{"measure": name, "ranking": ranking} | row for ranking, row in found.items()]
    return pd.DataFrame(rows, columns=["measure", "ranking", "reproduced", "low", "high", "N"])


def fooled(
    table: pd.DataFrame, pairs: Mapping[str, tuple[str, str]], measures: Sequence[str] | None = None
) -> pd.DataFrame:
    """How often a measure prefers the worse of two maps of an image, in percent; 50 is a coin.

    table: of `score`; pairs: {title: (the better explainer, the worse one)}; measures: as of `ranked`. Rows measure,
    pair, reproduced, low, high (95 % bootstrap), N; ties count one half. Raises `InputError` as `ranked`, and for
    unknown explainers.
    """
    names, rows = table.explainer.unique().tolist(), []
    for measure, values in ranked(table, measures).items():
        for title, pair in pairs.items():
            better, worse = (values[:, names.index(choose("explainer", name, names))] for name in pair)
            rows.append({"measure": measure, "pair": title} | average(50 * (1 + np.sign(worse - better))))
    return pd.DataFrame(rows)


def between(
    tables: Sequence[pd.DataFrame], ranking: str = "per image", measures: Sequence[str] | None = None
) -> pd.DataFrame:
    """Tau-b of every measure with every other, mean over the tables of several seeds: a square table, by their names.

    ranking: "per image", the mean over images where both order anything, or "of means"; NaN where a seed
    has none. Raises `InputError` as `ranked`. What shares its masked images (AD, IC, AG) agrees by construction.
    """
    choose("ranking", ranking, ("per image", "of means"))
    found = []
    for table in tables:
        values = ranked(table, measures)
        orders = _orders(np.stack([own if ranking == "per image" else own.mean(0)[None] for own in values.values()]))
        tau = np.einsum("anp,bnp->abn", orders, orders)
        known = ~np.isnan(tau)
        found.append(np.where(known, tau, 0).sum(2) / np.where(known.any(2), known.sum(2), np.nan))
    names = list(values)
    return pd.DataFrame(np.mean(found, 0), names, names)


@exact()
@torch.inference_mode()
def evidence(classifiers: Mapping[str, Frozen], images: Images, batch_size: int = 256) -> pd.DataFrame:
    """Whether classifiers need what the mask shows: top-1 accuracy on whole images, on object and background alone.

    The rest is black, which leaves the object's outline, or filled from around it (`faithfulness.road_impute`). Rows
    classifier, shown, reproduced, low, high (Wilson's 95 %), N. Only where accuracy falls without the object, and not
    without the background, can the mask judge a map. Raises `InputError` without masks.
    """
    masks, rows = exact_masks(images), []
    for name, classifier in classifiers.items():
        right: dict[str, list[bool]] = {shown: [] for shown in SHOWN}
        device = classifier.eval().normalise.mean.device
        for pixels, labels, at in batches(images, batch_size, device=device):
            mask = masks[at].to(device)
            filled = faithfulness.road_impute(pixels, mask, 0).clamp(0, 1)
            seen = (pixels, pixels * mask[:, None], pixels * ~mask[:, None], filled)
            for shown, altered in zip(SHOWN, seen, strict=True):
                right[shown] += (classifier(altered).argmax(1) == labels).tolist()
        rows += [{"classifier": name, "shown": shown} | percentage(found) for shown, found in right.items()]
    return pd.DataFrame(rows)
