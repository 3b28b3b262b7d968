"""Explainers of one classifier scored on a data set: by masking, by curves, by ROAD, and against the exact mask.

table = score({"tame": explainer, "centre": baseline(classifier, "centre")}, images, "scores.csv")
rows = summary(table)                       # means with 95 % intervals, a row per explainer and measure
compare(table, "AD 15")                     # every explainer against a control, image by image
"""

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.datasets import Images, batches
from ..errors import InputError, check_numbers, choose
from ..explainers.baseline import Baseline
from ..explainers.frozen import Frozen
from ..explainers.learned import Explainer
from ..explainers.perturbation import channels_last
from ..maps import normalise_and_upsample
from ..numerics import exact
from ..progress import Progress, say
from . import combined, faithfulness, store
from .configuration import configuration, identity, sha256
from .evaluation import of_blank, one_class
from .measures import Columns, Explainers, Explains, Plan, measure
from .statistics import HOLM, average, bootstrap, holm, percentage

CONVENTION = (
    "predicted class, softmax probability, map before the sigmoid, min-max normalised, upsampled bilinearly, its top "
    "pixels with soft values times the pixels in [0, 1]"
)
COMBINED = ("ADCC", "ADCC defined", "ADCC normalised", "ARCC")  # of `combined.COMBINATIONS`, in summaries
CONTROLS = ("centre", "random")  # of `compare`, in this order
PERCENT = ("AD", "IC", "AG", "MoRF", "LeRF")


@exact()
def score(
    explainers: Explainers,
    images: Images,
    path: Path | str | None = None,
    *,
    fractions: Sequence[float] = (1.0, 0.5, 0.15),
    measures: Sequence[str] = ("masking", "overlap"),
    steps: int = 20,
    batch_size: int = 64,
    workers: int = 0,
    shard: tuple[int, int] = (0, 1),
    precision: str = "float32",
    fresh: bool = False,
) -> pd.DataFrame | None:
    """What the classifier says of every image, and of it altered by the map of every explainer, in one pass.

    explainers: {name: explainer} of one classifier. measures: of
    - "masking": masked_100 ..., the probability when the top 100 % ... (`fractions`) of the map mask the image;
    - "overlap": iou, energy, correlation (with the mask), pointing, where the images have exact masks;
    - "precision": average precision of the map's order of pixels for the mask, where there are masks;
    - "sparsity": Gini index of the map;
    - "insertion", "deletion": areas under the curves of `steps` steps, with the curves insertion_0 ...;
    - "road": morf_10 ..., lerf_10 ..., whether the prediction stays without the most or least relevant 10 % ...;
    - "adcc": coherency (0, and undefined 1, where a map is constant), complexity, masked_100; "adcc-normalised": of
      maps times the normalised image; "arcc": road for the drop. Each explains every masked image once more;
    - "single-deletion": single_deletion, Spearman of map and drop of the logit over 16 cells (0 where undefined).
    precision: "float32", or "bfloat16" for the passes of classifier and explainers. workers: see `datasets.batches`.
    Returns a table with a row per explainer and image: explainer, image (id), class (predicted), probability, and
    those columns. Images that cannot be read are left out for all explainers, reported by name, and in
    `attrs["failed"]` as (id, reason).

    path: the table as a file, see store.py, or a folder, in which all settings have files of their own. Batches are
    written as they come, so that memory does not grow with the images; killed and called again it continues, and the
    file is the same; finished, it is read. fresh: forget what is there.
    shard: (i, n) makes the batches i, i + n, ... for a table that others help to make, at the same path, at any time;
    who makes the last one gets the table, the others None.
    Raises `InputError` for explainers of several classifiers, maps that are not finite, a path that holds scores of
    other settings, a full disk (what is written stays), no image that can be read.
    """
    plan = Plan(fractions, measures, steps, precision)
    check_numbers(batch_size=batch_size, workers=workers)
    classifier = _classifier(explainers)
    if not isinstance(images, Images):
        given = type(images).__name__
        raise InputError(f"images: expected a data set, of data.load or lficam.images, got {given}.")
    count = -(-len(images) // batch_size)
    mine = _shard(shard, count, path, fresh)
    kept = store.Batches(list(explainers), count)
    if path is not None:
        config = configuration(explainers, classifier, images, plan, batch_size=batch_size, shard=(0, 1))
        path = Path(path) if Path(path).suffix else Path(path) / f"scores-{sha256(config)[:10]}.csv"
        kept = store.Folder(list(explainers), count, path, config, fresh)
    table = kept.table
    if table is None:
        try:
            _fill(kept, mine, plan, explainers, classifier, images, batch_size, workers)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(kept.interrupted()) from None
        table = kept.finish()
        if table is not None and table.attrs["failed"]:
            say(f"{len(table.attrs['failed'])} of {len(images)} images could not be read and are left out.")
    if table is None:
        there = f"{path}: {len(kept.numbers())} of {count} batches are there"
        if shard[1] == 1:
            raise InputError(f"{there}, others were removed meanwhile: the same command makes them anew.")
        say(f"{there}; the other shards make the rest.")
        return None
    first = table[table.explainer == table.explainer.iloc[0]]
    if text := one_class(torch.tensor(first["class"].to_numpy()), images.labels, classifier.classes):
        say(text)
    return table


def _classifier(explainers: Explainers) -> Frozen:
    """The one that all explain; those that look at the image alone may have none."""
    if not isinstance(explainers, dict) or not explainers:
        given = "none" if explainers == {} else type(explainers).__name__
        raise InputError(f"Explainers: expected {{name: explainer}} with at least one, got {given}.")
    for name, explainer in explainers.items():
        if isinstance(explainer, type | str):
            given = explainer.__name__ if isinstance(explainer, type) else repr(explainer)
            raise InputError(f"{name}: expected an explainer, as attach and baseline make it, got {given:.60}.")
    found = [e.classifier for e in explainers.values() if getattr(e, "classifier", None) is not None]
    classifiers: dict[object, Frozen] = {id(classifier): classifier for classifier in reversed(found)}
    if len(classifiers) > 1:
        classifiers = {sha256(identity(classifier)): classifier for classifier in classifiers.values()}
    if not classifiers:
        raise InputError(
            "Scores need a classifier, and none of these explainers has one: make them with attach or baseline "
            "(a classifier's own map: baseline(classifier, 'own'))."
        )
    if len(classifiers) != 1:
        raise InputError(
            f"Scores compare explainers of one classifier, got {len(classifiers)}: score those of each by themselves."
        )
    classifier = classifiers.popitem()[1].eval()
    if classifier.outputs == "regression":
        raise InputError(
            "Scores are made of probabilities, and a regression has none: use conventions.average_drops with a "
            'Convention of score="logit", drop="absolute", which is in the unit of the values.'
        )
    return classifier


def _shard(shard: tuple[int, int], count: int, path: Path | str | None, fresh: bool) -> range:
    """The batches, of `count`, that a shard makes."""
    whole = isinstance(shard, (tuple, list)) and len(shard) == 2 and all(type(x) is int for x in shard)
    if not whole or not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard: expected (i, n) with i from 0 to n - 1, got {shard!r}.")
    if shard[1] > max(1, count):
        raise InputError(f"shard: {count} batches cannot be cut into {shard[1]} shards: take at most {count}.")
    if shard[1] > 1 and path is None:
        raise InputError("shard: several shards make one table together: give the path of its file.")
    if shard[1] > 1 and fresh:
        raise InputError("shard: fresh (--fresh) would remove what other shards have made: remove the file by hand.")
    return range(shard[0], count, shard[1])


def _fill(
    kept: store.Batches,
    mine: Sequence[int],
    plan: Plan,
    explainers: Explainers,
    classifier: Frozen,
    images: Images,
    batch_size: int,
    workers: int,
) -> None:
    """Make those of the batches `mine` that are not there yet."""
    cuts, there = torch.arange(len(images)).split(batch_size), kept.numbers()
    todo = [number for number in mine if number not in there]
    if not todo:
        return
    at = torch.cat([cuts[number] for number in todo])
    rest = images.subset(at) if len(at) < len(images) else images
    device = classifier.normalise.mean.device
    laid = functools.cache(channels_last)
    explainers = {k: _laid(e, laid) for k, e in explainers.items()}
    classifier = laid(classifier)
    failed: list[tuple[str, str]] = []
    total = sum(len(cuts[number]) for number in mine)
    with Progress(total, "scoring", total - len(rest)) as progress:

        def keep(number: int | None = None, frames: Mapping[str, pd.DataFrame] = {}) -> None:
            """Keep a batch with what could not be read of it; before it come those of which nothing could be read."""
            lost = [(int(at[rest.ids.index(name)]), name, reason) for name, reason in failed]
            for _, name, reason in lost:
                say(f"{name} is left out. {reason}")
            failed.clear()
            parts = {own: list(part) for own, part in itertools.groupby(lost, lambda entry: entry[0] // batch_size)}
            for own in sorted(parts.keys() | ({number} if number is not None else set())):
                kept.add(own, frames if own == number else {}, parts.get(own, []))
                progress.update(len(cuts[own]))

        for pixels, _, indices in batches(rest, batch_size, device=device, workers=workers, failed=failed):
            ids = [rest.ids[i] for i in indices.tolist()]
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            masks = None if rest.masks is None else rest.masks[indices].to(device, non_blocking=True)
            columns = measure(plan, explainers, classifier, pixels, ids, masks)
            frames = {name: _frame(name, ids, columns[name]) for name in explainers}
            keep(int(at[indices[0]]) // batch_size, frames)
        keep()


def _laid(explainer: Explains, laid: Callable[[Frozen], Frozen]) -> Explains:
    """The explainer with its classifier's weights channels last; what is not ours may hold on to its own."""
    if isinstance(explainer, Baseline) and explainer.classifier is not None:
        return explainer.of(laid(explainer.classifier))
    return explainer


def _frame(name: str, ids: Sequence[str], columns: Columns) -> pd.DataFrame:
    values = {key: value.double() if value.is_floating_point() else value for key, value in columns.items()}
    return pd.DataFrame({"explainer": name, "image": ids} | {key: value.numpy() for key, value in values.items()})


def values_of(part: pd.DataFrame) -> dict[str, np.ndarray]:
    """{measure: value of each image} of one explainer's rows of `score`: AD, IC, AG, MoRF and LeRF in percent.

    What is undefined for an image is NaN in the measures that end in "defined", which leave it out, else 0.
    """
    measures, clean = {}, torch.tensor(part["probability"].to_numpy())
    for column in [c for c in part if c.startswith("masked_")]:
        masked, top = torch.tensor(part[column].to_numpy()), column.removeprefix("masked_")
        measures[f"AD {top}"] = faithfulness.average_drop(clean, masked).numpy()
        measures[f"IC {top}"] = 100 * faithfulness.increase_in_confidence(clean, masked).double().numpy()
    if "masked_100" in part:
        masked = torch.tensor(part["masked_100"].to_numpy())
        measures["AG 100"] = faithfulness.average_gain(clean, masked).numpy()
    measures |= {t: part[t.lower()].to_numpy(float) for t in ("IoU", "energy", "pointing") if t.lower() in part}
    measures |= {t: part[t].to_numpy(float) for t in ("precision", "sparsity", "insertion", "deletion") if t in part}
    measures |= {t: part[t].to_numpy(float) for t in ("coherency", "complexity") if t in part}
    if "coherency_normalised" in part:
        measures["coherency normalised"] = part.coherency_normalised.to_numpy(float)
    for title, own in combined.COMBINATIONS.items():
        if title in COMBINED and combined.known(part, own):
            measures[title] = combined.join(combined.terms(part, own), own.mean)
    if "single_deletion" in part:
        measures["single deletion"] = part.single_deletion.to_numpy(float)
        measures["single deletion defined"] = part.single_deletion.mask(part.single_deletion_undefined > 0).to_numpy()
    for title in ("MoRF", "LeRF"):
        columns = [c for c in part if c.startswith(f"{title.lower()}_")]
        if columns:
            measures[title] = 100 * part[columns].to_numpy(float).mean(1)
    return measures


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per explainer the mean of every measure of its scores: value, 95 % bootstrap interval, N.

    table: of `score`. "AD 100" ..., "IC 100" ... and "AG 100" in percent; IoU, energy and pointing (the share of maps
    whose maximum lies in the mask), average precision; sparsity; insertion and deletion (areas); "MoRF" and "LeRF", the
    percentage of predictions that stay, mean of ROAD's levels; coherency, complexity, ADCC and ARCC as in
    `combined.COMBINATIONS`, "single deletion", each with 0 where it is undefined, and in "... defined" over the other
    images alone.
    Returns rows explainer, measure, reproduced, low, high, N.
    """
    rows = []
    for name, part in table.groupby("explainer", sort=False):
        found = {m: values[~np.isnan(values)] for m, values in values_of(part).items()}
        rows += [{"explainer": name, "measure": m} | average(values) for m, values in found.items() if len(values)]
    return pd.DataFrame(rows)


def compare(
    table: pd.DataFrame, measure: str, rival: str = "centre", resamples: int = 10000, seed: int = 0
) -> pd.DataFrame:
    """Every explainer against one of them in a measure of `summary`, image by image.

    rival: its name, chosen beforehand; by default the control "centre", or "random" where that one was not scored.
    Returns rows explainer, against, difference (mean of its value minus the rival's), low, high (95 % bootstrap
    interval over images), p (Holm), N. p is two-sided: how often random signs of the differences give a mean as far
    from 0 (all signs when they are no more than `resamples`), corrected for the number of rows (`statistics.holm`).
    Raises `InputError` for unknown names, where no control was scored, and for images that differ.
    """
    parts = {name: part.set_index("image") for name, part in table.groupby("explainer", sort=False)}
    values = {name: choose("measure", measure, values_of(part)) for name, part in parts.items()}
    if rival == CONTROLS[0]:
        rival = next((name for name in CONTROLS if name in values), rival)
    if rival in CONTROLS and rival not in values:
        raise InputError(
            f"Comparisons are with a control, and of {', '.join(CONTROLS)} none was scored: score one too, or name "
            f"another rival (one of {', '.join(values)})."
        )
    choose("explainer", rival, values)
    rows = []
    for name in values:
        if not parts[name].index.equals(parts[rival].index):
            raise InputError(f"{name} and {rival} were not scored on the same images in the same order.")
        if name != rival:
            gap = values[name] - values[rival]
            gap = gap[~np.isnan(gap)]  # of what both have
            if not len(gap):
                raise InputError(f"{measure}: there is no image for which it is defined of {name} and {rival}.")
            low, high = bootstrap(gap, seed=seed)
            found = {"difference": gap.mean(), "low": low, "high": high, HOLM: _sign_flips(gap, resamples, seed)}
            rows.append({"explainer": name, "against": rival} | found | {"N": len(gap)})
    found = pd.DataFrame(rows, columns=["explainer", "against", "difference", "low", "high", HOLM, "N"])
    return found.assign(**{HOLM: holm(found[HOLM])})


def _sign_flips(gap: np.ndarray, resamples: int, seed: int) -> float:
    """p of the mean of paired differences (N,), if either sign of each were equally likely."""
    n, far = len(gap), abs(gap.sum()) * (1 - 1e-9)
    if 2**n <= resamples:
        sums = [abs(np.dot(signs, gap)) for signs in itertools.product((-1, 1), repeat=n)]
        return float(np.mean(np.array(sums) >= far))
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(resamples):
        hits += abs(gap.sum() - 2 * gap[rng.random(n, np.float32) < 0.5].sum()) >= far
    return (1 + int(hits)) / (1 + resamples)


def inside_out(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The percentage of maps whose correlation with the exact mask is negative: they mark all but the object.

    table: of `score`, with exact masks; classes: names of all. Returns a row an explainer: explainer, "all", and a
    column for each predicted class (left out where there are more than 20; empty where nothing was predicted so), as
    "12 [8, 17]" with Wilson's 95 % interval. Raises `InputError` for scores without masks.
    """
    if "correlation" not in table:
        raise InputError('inside_out: expected scores with "overlap" of images that have exact masks.')
    rows, shown = [], classes if len(classes) <= 20 else []
    for name, part in table.groupby("explainer", sort=False):
        turned = part.correlation < 0
        groups = {"all": turned} | {title: turned[part["class"] == k] for k, title in enumerate(shown)}
        found = {title: percentage(own.tolist()) for title, own in groups.items() if len(own)}
        cells = {title: "{reproduced:.0f} [{low:.0f}, {high:.0f}]".format(**share) for title, share in found.items()}
        rows.append({"explainer": name} | dict.fromkeys(groups, "") | cells)
    return pd.DataFrame(rows)


def blank(classifiers: Mapping[str, Frozen], images: Images, fill: float | Sequence[float] = 0.0) -> pd.DataFrame:
    """What classifiers say of an image of one colour (`evaluation.of_blank`), in the size of the images.

    Returns a row a classifier: classifier, and a column a class with its probability; of more than 20 classes the ten
    with the highest mean.
    """
    said = torch.stack([of_blank(classifier, images.size, fill) for classifier in classifiers.values()])
    first, known = next(iter(classifiers.values())), said.shape[1] == len(images.classes)
    names = first.classes or (images.classes if known else [str(k) for k in range(said.shape[1])])
    table = pd.DataFrame(said.double().numpy(), columns=list(names))
    if len(names) > 20:
        table = table[table.mean().nlargest(10).index]
    table.insert(0, "classifier", list(classifiers))
    return table


def forward_passes(explainer: Explains) -> int | None:
    """Passes through the classifier for one explanation, as the papers count: of a trained explainer 1."""
    return getattr(explainer, "forward_passes", 1 if isinstance(explainer, Explainer) else None)


def cost(
    explainers: Explainers, images: Images, count: int = 16, repeats: int = 11, seconds: float = 0.5
) -> pd.DataFrame:
    """What an explanation of the predicted class costs, in milliseconds; for a process that does nothing else.

    Rows explainer; milliseconds for an image alone, the median of `repeats`, with lower and upper quartile, between
    which the middle half of them lies; "in a batch", an image of `count` at once, median; forward passes.
    The explainers take turns, in another order each time: what else the machine does falls on all alike. A turn is the
    faster of two calls in a row, so that neither a first call, nor what ran before, nor a short interruption counts.
    So equal work takes equal time. After `seconds` an explainer stops, if it had three turns.
    """
    count, random = min(count, len(images)), np.random.default_rng(0)
    pixels = images.pixels(range(count)).to(_classifier(explainers).normalise.mean.device)
    inputs = {"one": pixels.split(1), "batch": (pixels,)}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in itertools.product(explainers, inputs)}
    for turn in range(repeats):
        for name, kind in random.permutation(list(times)).tolist():
            own = times[name, kind]
            if len(own) < 3 or sum(own) < seconds:
                some = inputs[kind][turn % len(inputs[kind])]
                own.append(min(_seconds(explainers[name], some) for _ in range(2)))
    rows = []
    for name, explainer in explainers.items():
        low, middle, high = 1000 * np.percentile(times[name, "one"], [25, 50, 75])
        row = {"explainer": name, "milliseconds": middle, "lower quartile": low, "upper quartile": high}
        row["in a batch"] = 1000 * float(np.median(times[name, "batch"])) / count
        rows.append(row | {"forward passes": forward_passes(explainer)})
    return pd.DataFrame(rows)


@torch.no_grad()
def _seconds(explainer: Explains, pixels: Tensor) -> float:
    synchronise = torch.cuda.synchronize if pixels.is_cuda else lambda: None
    synchronise()
    started = time.perf_counter()
    explainer(pixels)
    synchronise()
    return time.perf_counter() - started


def pivot(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `summary` as one line per explainer, a column per measure, for reading: "12.3 [11.0, 13.7]"."""
    places = [1 if measure.split()[0] in PERCENT else 3 for measure in rows.measure]
    numbers = zip(places, rows.reproduced, rows.low, rows.high, strict=True)
    text = rows.assign(cell=[f"{mean:.{k}f} [{low:.{k}f}, {high:.{k}f}]" for k, mean, low, high in numbers])
    table = text.pivot(index="explainer", columns="measure", values="cell")
    return table.loc[rows.explainer.unique(), rows.measure.unique()].rename_axis(columns=None).reset_index()


@exact()
@torch.inference_mode()
def side_by_side(
    explainer: Explainer, images: Images, count: int = 200, batch_size: int = 50, right: bool = True
) -> tuple[Tensor, ...]:
    """Scenes of two images of different classes side by side, each explained for both classes.

    Image i stands left of image i + 1 of the data set where their classes differ; right: and both, alone, are predicted
    right.
    Returns (scenes (N, 3, S, 2S), classes (N, 2), maps (N, 2, S, 2S) in [0, 1], share (N, 2) of each map's mass that
    lies in the half of its class; 0.5 is chance). Raises `InputError` when no scene is found.
    """
    classifier = explainer.classifier.eval()
    device, indices = classifier.normalise.mean.device, range(min(len(images), 2 * count + 1))
    pixels, labels = images.pixels(indices).to(device), images.labels[: len(indices)].to(device)
    fit = torch.cat([classifier(part).argmax(1) for part in pixels.split(batch_size)]) == labels
    fit = fit if right else torch.ones_like(fit)
    at = torch.nonzero(fit[:-1] & fit[1:] & (labels[:-1] != labels[1:]))[:count, 0]
    if not len(at):
        raise InputError(
            f"{images.name}: no two neighbours of different classes are predicted right: take more images."
        )
    scenes, classes = torch.cat([pixels[at], pixels[at + 1]], 3), torch.stack([labels[at], labels[at + 1]], 1)
    parts = zip(scenes.split(batch_size), classes.split(batch_size), strict=True)
    raw = torch.cat([explainer.maps_and_logits(part, wanted)[0] for part, wanted in parts])
    maps = normalise_and_upsample(raw.flatten(0, 1), scenes.shape[2:]).unflatten(0, raw.shape[:2])
    left = maps[..., : scenes.shape[2]].sum((2, 3)) / maps.sum((2, 3)).clamp(min=1e-12)
    share = torch.stack([left[:, 0], 1 - left[:, 1]], 1)
    return tuple(value.cpu() for value in (scenes, classes, maps, share))
