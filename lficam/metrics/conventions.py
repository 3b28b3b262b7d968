"""Average Drop by several conventions: one explainer, one classifier, the same maps, and yet not one number.

table = average_drops(explainer, images)   # a row per convention: AD with a 95 % interval

The papers (L-CAM, TAME, T-TAME) drop the softmax probability of the predicted class, relative to what it was, averaged
over the images; the map, before the sigmoid, is min-max normalised, upsampled, and multiplies pixels in [0, 1]. Each
other convention departs from that in one choice.
"""

import dataclasses

import numpy as np
import pandas as pd
import torch

from ..data.datasets import batches
from ..errors import InputError, check_fields, choose
from ..maps import finish, minmax, upsample
from ..numerics import exact
from . import faithfulness
from .measures import fetch
from .statistics import average

CHOICES = {
    "score": ("probability", "logit"),
    "drop": ("relative", "absolute"),
    "space": ("pixels", "normalised"),
    "label": ("predicted", "truth"),
    "mask": ("minmax-upsample", "upsample-minmax", "sigmoid"),
    "average": ("images", "sums"),
}
SCALES = {
    "minmax-upsample": finish,
    "upsample-minmax": lambda maps, size: minmax(upsample(maps, size)),
    "sigmoid": lambda maps, size: upsample(torch.sigmoid(maps.float()), size),
}


@dataclasses.dataclass(frozen=True)
class Convention:
    """What one Average Drop means; all of it at 100 % of the pixels.

    score: of the class, Y on the image and O on the masked one: "probability" or "logit".
    drop: "relative", 100 max(0, Y - O) / Y; "absolute", 100 max(0, Y - O).
    space: the map multiplies "pixels" (left out is black), or the "normalised" image (left out is the mean colour).
    label: the class explained and scored: "predicted" or "truth".
    mask: from raw map to mask: "minmax-upsample", "upsample-minmax", or "sigmoid" (not min-maxed), then upsampled.
    average: of the drops over "images", or with "sums" the summed drops over the summed scores.
    """

    description: str
    score: str = "probability"
    drop: str = "relative"
    space: str = "pixels"
    label: str = "predicted"
    mask: str = "minmax-upsample"
    average: str = "images"

    def __post_init__(self):
        check_fields(self)
        for name, known in CHOICES.items():
            choose(name, getattr(self, name), known)
        if self.average == "sums" and self.drop != "relative":
            raise InputError('average: "sums" is a relative drop, sums over sums; give drop="relative".')


CONVENTIONS = {
    "papers": Convention("L-CAM, TAME and T-TAME"),
    "absolute": Convention(
        "in points, not divided by the score (DropInConfidence of pytorch-grad-cam)", drop="absolute"
    ),
    "logit": Convention("instead of the probability (torchcam's metric without logits_fn)", score="logit"),
    "normalised": Convention(
        "image times map: grey, not black (pytorch-grad-cam, torchcam; T-TAME trains ViT so)", space="normalised"
    ),
    "truth": Convention("the true class, not the predicted one", label="truth"),
    "sums": Convention("of drops over sum of scores, not mean of ratios", average="sums"),
    "sigmoid": Convention("of the map, as L-CAM, TAME and T-TAME train, not min-max", mask="sigmoid"),
    "upsampled": Convention(
        "before min-max, not after (Grad-CAM and Grad-CAM++ in L-CAM's code)", mask="upsample-minmax"
    ),
}


@exact()
@torch.no_grad()  # not inference mode: methods by gradients could not use what is made in it
def scores(explainer, images, conventions=CONVENTIONS, batch_size=64, workers=0):
    """What the classifier says of every image and of the masked image, by every convention.

    explainer: any that has a classifier and gives raw maps; images: `datasets.Images` with labels of the classifier's
    classes; conventions: {name: Convention}. Returns a table with a row per image and convention: convention, image
    (id), class, clean (Y), masked (O). Each image and each distinct mask goes through the classifier once, in passes of
    `batch_size` images.
    Raises `InputError` for labels that the classifier does not have, where a convention asks for the truth.
    """
    classifier, parts = explainer.classifier.eval(), []
    normalise, truth = classifier.normalise, any(c.label == "truth" for c in conventions.values())
    if truth and not ((images.labels >= 0) & (images.labels < classifier.num_classes)).all():
        raise InputError(f"Labels: expected classes 0 to {classifier.num_classes - 1} of the classifier.")
    for pixels, labels, indices in batches(images, batch_size, device=normalise.mean.device, workers=workers):
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        maps, classes, logits = _explained(explainer, pixels, labels if truth else None)
        mean, answers = normalise.mean.flatten(), {}
        for label, mask, space in dict.fromkeys((c.label, c.mask, c.space) for c in conventions.values()):
            scaled = SCALES[mask](maps[label], pixels.shape[2:])
            masked = faithfulness.masked_images(pixels, scaled, space, mean, check=False)
            answers[label, mask, space] = classifier.answer(masked.contiguous(memory_format=torch.channels_last))
        found = []
        for c in conventions.values():
            own, pair = classes[c.label], (logits, answers[c.label, c.mask, c.space])
            found += [own, *(faithfulness.class_scores(value, own, c.score, check=False) for value in pair)]
        found, ids = fetch(found), [images.ids[i] for i in indices.tolist()]
        bad = (~torch.isfinite(torch.stack(found))).any(0).nonzero()
        if len(bad):
            raise InputError(
                f"The map or an answer for image {ids[bad[0].item()]!r} holds NaN or infinity: the explainer or the "
                "classifier is damaged."
            )
        for i, name in enumerate(conventions):
            columns = zip(("class", "clean", "masked"), found[3 * i : 3 * i + 3], strict=True)
            columns = {key: values.numpy() for key, values in columns}
            parts.append(pd.DataFrame({"convention": name, "image": ids} | columns))
    table = pd.concat(parts, ignore_index=True)
    order = {name: i for i, name in enumerate(conventions)}
    return table.sort_values("convention", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def _explained(explainer, pixels, labels):
    """Raw maps {label: (B, h, w)} and classes {label: (B,)} by both choices of label, and logits (B, K): a clean pass.

    labels: (B,) the truth, or None, if it is not asked for. The mechanism of a trained explainer gives both maps at
    once; others are called again where the classes differ.
    """
    classifier, truth = explainer.classifier, [] if labels is None else [labels]
    if hasattr(explainer, "mechanism"):
        features, logits = explainer.eval().features(pixels, stop=False)
        classes = [logits.argmax(1), *truth]
        maps = explainer.mechanism(features, torch.stack(classes, 1)).unbind(1)
    else:
        logits = classifier(pixels)
        classes = [logits.argmax(1), *truth]
        maps = [explainer(pixels, classes[0])]
        for other in classes[1:]:
            differs, again = other != classes[0], maps[0].clone()
            if differs.any():
                again[differs] = explainer(pixels[differs], other[differs])
            maps.append(again)
    return *(dict(zip(CHOICES["label"], found, strict=False)) for found in (maps, classes)), logits


def drops(clean, masked, convention):
    """Per-image drop in percent and its weight: clean (Y), masked (O) (N,) -> (N,), (N,) float64.

    The Average Drop is the weighted mean, which gives "sums" its ratio with weights Y. A relative drop of logits is
    100 max(0, Y - O) / (Y + 1e-7) as torchcam computes it: negative for Y < 0, and of no use near 0.
    """
    clean, masked = (torch.tensor(np.asarray(x), dtype=torch.float64) for x in (clean, masked))
    if convention.score == "logit" and convention.drop == "relative":
        values = faithfulness.average_drop(clean, masked, relative=False) / (clean + 1e-7)
    else:
        values = faithfulness.average_drop(clean, masked, convention.drop == "relative")
    return values.numpy(), (clean.numpy() if convention.average == "sums" else np.ones(len(values)))


def average_drops(explainer, images, conventions=CONVENTIONS, batch_size=64, workers=0):
    """The Average Drop of one explainer by every convention, from the same maps of the same images.

    Arguments and errors: as `scores`. Returns a table convention, description, reproduced (AD in percent; absolute
    drops in percentage points), low, high (95 % bootstrap interval over images), N.
    """
    table, rows = scores(explainer, images, conventions, batch_size, workers), []
    for name, convention in conventions.items():
        part = table[table.convention == name]
        values, weights = drops(part.clean, part.masked, convention)
        rows.append({"convention": name, "description": convention.description} | average(values, weights))
    return pd.DataFrame(rows)
