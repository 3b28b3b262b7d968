"""The stability experiment: the same classifier trained under several settings, and where each of them looks.

Lee et al. (ICCV 2021) train five models a method; their settings are not published, ours stand in the notebooks.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ..errors import InputError, choose
from ..metrics import evaluation
from ..metrics.dumps import Dump, open_dump
from ..models.attention import Classifier
from ..training import recipes
from ..training.jobs import Job, Run

VARIED = ("batch_size", "lr", "weight_decay")


def jobs(
    datasets: Sequence[str],
    backbones: Mapping[str, str],
    recipe: str,
    variations: Mapping[str, Sequence[float]],
    changes: Mapping[str, Any],
    seed: int = 1,
    **options: Any,
) -> dict[tuple[str, str, int], Job]:
    """One training per data set, method and setting: {(dataset, method, number from 1): Job}.

    backbones: {method: name}. recipe, changes: what all have in common (`recipes.find`). variations: {setting of the
    recipe: factors on it}, a factor per model. seed: of M models, model i has the seed (seed - 1) M + i, so that other
    seeds are other models. options: fields of `Job`.
    Raises `InputError` for other settings than `VARIED`, and where their factors differ in number.
    """
    for name in variations:
        choose("setting to vary", name, VARIED)
    lengths = {name: len(factors) for name, factors in variations.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise InputError(f"variations: expected lists of one length, a factor per model, got {lengths}.")
    found, models = {}, next(iter(lengths.values()))
    for dataset, (method, backbone) in itertools.product(datasets, backbones.items()):
        common = recipes.find(recipe, method, dataset, backbone, **changes)
        for i, factors in enumerate(zip(*variations.values(), strict=True), start=1):
            varied: dict[str, Any] = {
                name: _times(getattr(common, name), factor) for name, factor in zip(variations, factors, strict=True)
            }
            own = dataclasses.replace(common, seed=(seed - 1) * models + i, **varied)
            found[dataset, method, i] = Job(method, backbone, dataset=dataset, recipe=own, **options)
    return found


def _times(value: float, factor: float) -> float:
    """A setting times a factor, of the setting's type; 0.05 · 1.6 is 0.08, not the nearest binary product."""
    return round(value * factor) if isinstance(value, int) else float(f"{value * factor:.6g}")


def dump_maps(
    runs: Mapping[tuple, Run], all_jobs: Mapping[tuple, Job], count: int = 0, workers: int = 0
) -> dict[tuple, Dump]:
    """The maps of every run on the first `count` test images (0: all), dumped into its folder: {key: Dump}.

    runs, all_jobs: {key: Run}, {key: Job}. A dump of the same images that is there already is used again.
    """
    dumps = {}
    for key, run in runs.items():
        images = all_jobs[key].images("test", count)
        path = run.folder / f"maps-{len(images)}.safetensors"
        there = open_dump(path) if path.is_file() else None
        if there is None or there.facts.get("digest") != images.digest:
            model = cast(Classifier, run.model)
            there = evaluation.dump(evaluation.predict(model, images, workers=workers), images, path)
        dumps[key] = there
    return dumps
