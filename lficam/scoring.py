"""Explainers of one classifier scored on a data set: Average Drop, Increase in Confidence, and the object's exact mask.

table = score({"tame": explainer, "centre": baseline(classifier, "centre")}, images)   # a row per image and explainer
rows = summary(table)                                                                  # means with 95 % intervals
"""

import pandas as pd
import torch

from . import faithfulness, metrics, results
from .data import batches
from .errors import InputError
from .features import tap
from .maps import finish

CONVENTION = (
    "predicted class, softmax probability, map before the sigmoid, min-max normalised, upsampled bilinearly, its top "
    "pixels with soft values times the pixels in [0, 1]"
)


@torch.no_grad()  # not inference mode: methods by gradients could not use what is made in it
def score(explainers, images, fractions=(1.0, 0.5, 0.15), batch_size=64, workers=0):
    """What the classifier says of every image, and of it masked by the map of every explainer.

    explainers: {name: explainer} of one classifier; fractions: of the pixels that the mask keeps.
    Returns a table with a row per image and explainer: explainer, image (id), class (predicted), probability,
    masked_100 ... (probability when the top 100 % ... of the map mask it), and with exact masks iou and energy.
    The classifier sees each image once for all explainers of its feature maps, and all masked images of one at once.
    Raises `InputError` for explainers of several classifiers.
    """
    classifiers = {e.classifier.digest: e.classifier for e in explainers.values()}
    if len(classifiers) != 1:
        raise InputError(f"Scores compare explainers of one classifier, got {len(classifiers)}.")
    classifier = next(iter(classifiers.values())).eval()
    device, parts = classifier.normalise.mean.device, []
    for pixels, _, indices in batches(images, batch_size, device=device, workers=workers):
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        for name, maps, logits in shared_maps(explainers, classifier, pixels):
            classes = logits.argmax(1)
            maps = finish(maps, pixels.shape[2:])
            kept = [faithfulness.keep_top(maps, fraction) for fraction in fractions]
            masked = torch.cat([faithfulness.masked_images(pixels, k) for k in kept])
            answers = faithfulness.class_scores(classifier(masked), classes.repeat(len(fractions)))
            columns = {"class": classes, "probability": faithfulness.class_scores(logits, classes)}
            columns |= {f"masked_{100 * f:g}": a for f, a in zip(fractions, answers.split(len(pixels)), strict=True)}
            if images.masks is not None:
                masks = images.masks[indices].to(device)
                columns["iou"] = metrics.intersection_over_union(maps, masks)
                columns["energy"] = metrics.energy_in_mask(maps, masks)
            columns = {key: value.cpu().numpy() for key, value in columns.items()}
            parts.append(
                pd.DataFrame({"explainer": name, "image": [images.ids[i] for i in indices.tolist()]} | columns)
            )
    table = pd.concat(parts, ignore_index=True)
    order = {name: i for i, name in enumerate(explainers)}
    return table.sort_values("explainer", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def shared_maps(explainers, classifier, pixels):
    """(name, raw maps (B, h, w) of the predicted class, logits (B, K)) of every explainer, from one clean pass.

    Explainers of feature maps share that pass; others are called.
    """
    trained = {name: e for name, e in explainers.items() if hasattr(e, "mechanism")}
    wanted = {layer.name for explainer in trained.values() for layer in explainer.layers}
    layers = [layer for layer in classifier.layers if layer.name in wanted]
    raw, logits = tap(classifier.network, classifier.normalise(pixels), layers, raw=True)
    outputs = dict(zip((layer.name for layer in layers), raw, strict=True))
    classes = logits.argmax(1)
    for name, explainer in explainers.items():
        if name in trained:
            multiply = explainer.settings.class_token == "multiply"
            features = [layer.maps(outputs[layer.name], multiply) for layer in explainer.layers]
            yield name, explainer.eval().mechanism(features, classes[:, None])[:, 0], logits
        else:
            yield name, explainer(pixels, classes), logits


def summary(table):
    """Per explainer AD and IC in percent for every fraction, IoU and energy: value, 95 % bootstrap interval, N.

    table: of `score`. Returns rows explainer, measure ("AD 100" ...), reproduced, low, high, N.
    """
    rows = []
    for name, part in table.groupby("explainer", sort=False):
        clean = torch.tensor(part["probability"].to_numpy())
        measures = {}
        for column in [c for c in table if c.startswith("masked_")]:
            masked, top = torch.tensor(part[column].to_numpy()), column.removeprefix("masked_")
            measures[f"AD {top}"] = faithfulness.average_drop(clean, masked)
            measures[f"IC {top}"] = 100 * faithfulness.increase_in_confidence(clean, masked).double()
        measures |= {
            title: part[key].to_numpy() for title, key in (("IoU", "iou"), ("energy", "energy")) if key in part
        }
        rows += [{"explainer": name, "measure": m} | results.average(values) for m, values in measures.items()]
    return pd.DataFrame(rows)


def wide(rows, digits=None):
    """Rows of `summary` as one line per explainer, a column per measure, for reading: "12.3 [11.0, 13.7]"."""
    digits = digits or {}

    def cell(row):
        places = digits.get(row.measure, 1 if row.measure[:2] in ("AD", "IC") else 3)
        return f"{row.reproduced:.{places}f} [{row.low:.{places}f}, {row.high:.{places}f}]"

    text = rows.assign(cell=[cell(row) for row in rows.itertuples()])
    table = text.pivot(index="explainer", columns="measure", values="cell")
    return table.loc[rows.explainer.unique(), rows.measure.unique()].rename_axis(columns=None).reset_index()


@torch.inference_mode()
def side_by_side(explainer, images, count=200, batch_size=50, right=True):
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
    raw = torch.cat([explainer.explain(part, wanted)[0] for part, wanted in parts])
    maps = finish(raw.flatten(0, 1), scenes.shape[2:]).unflatten(0, raw.shape[:2])
    left = maps[..., : scenes.shape[2]].sum((2, 3)) / maps.sum((2, 3)).clamp(min=1e-12)
    share = torch.stack([left[:, 0], 1 - left[:, 1]], 1)
    return tuple(value.cpu() for value in (scenes, classes, maps, share))
