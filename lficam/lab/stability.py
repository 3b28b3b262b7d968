"""The stability experiment: the same classifier trained under several settings, and where each of them looks.

Lee et al. (ICCV 2021) train five models a method; their settings are not published, ours stand in the notebooks.
"""

from ..errors import InputError
from ..metrics import evaluation
from ..metrics.dumps import open_dump
from ..training.jobs import Job, Recipe


def jobs(datasets, backbones, batch_sizes, lrs, weight_decays, *, recipe, **options):
    """One training per data set, method and setting: {(dataset, method, number from 1): Job}.

    backbones: {method: name}. The i-th setting is batch_sizes[i], lrs[i], weight_decays[i], with seed i; recipe: what
    all have in common (epochs, milestones ...); options: fields of `Job`.
    Raises `InputError` when the three lists differ in length.
    """
    lengths = {"batch_sizes": len(batch_sizes), "lrs": len(lrs), "weight_decays": len(weight_decays)}
    if len(set(lengths.values())) > 1 or not batch_sizes:
        raise InputError(f"Settings: expected lists of one length, a value per model, got {lengths}.")
    settings = list(enumerate(zip(batch_sizes, lrs, weight_decays, strict=True), start=1))
    return {
        (dataset, method, i): Job(
            method,
            backbone,
            dataset=dataset,
            recipe=Recipe(batch_size=batch, lr=lr, weight_decay=decay, seed=i, **recipe),
            **options,
        )
        for dataset in datasets
        for method, backbone in backbones.items()
        for i, (batch, lr, decay) in settings
    }


def dump_maps(runs, all_jobs, count=0, workers=0):
    """The maps of every run on the first `count` test images (0: all), dumped into its folder: {key: Dump}.

    runs, all_jobs: {key: Run}, {key: Job}. A dump of the same images that is there already is used again.
    """
    dumps = {}
    for key, run in runs.items():
        images = all_jobs[key].images("test", count)
        path = run.folder / f"maps-{len(images)}.safetensors"
        there = path.is_file() and open_dump(path)
        same = there and there.facts.get("digest") == images.digest
        if not same:
            there = evaluation.dump(evaluation.predict(run.model, images, workers=workers), images, path)
        dumps[key] = there
    return dumps
