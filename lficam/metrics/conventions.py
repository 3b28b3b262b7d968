"""Average Drop by several conventions: one explainer, one classifier, the same maps, and yet not one number.

table = average_drops(explainer, images)   # a row per convention: AD with a 95 % interval

The papers (L-CAM, TAME, T-TAME) drop the softmax probability of the predicted class, relative to what it was, averaged
over the images; the map, before the sigmoid, is min-max normalised, upsampled, and multiplies pixels in [0, 1]. Each
other convention departs from that in one choice.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..data.datasets import Images, batches
from ..errors import InputError, check_fields, choose
from ..explainers import baseline
from ..maps import minmax, normalise_and_upsample, upsample
from ..numerics import exact
from . import faithfulness
from .measures import Explains, explained, fetch
from .statistics import average

CHOICES = {
    "score": ("probability", "logit"),
    "drop": ("relative", "absolute"),
    "space": ("pixels", "normalised"),
    "label": ("predicted", "truth"),
    "mask": ("minmax-upsample", "upsample-minmax", "sigmoid", "top-half"),
    "average": ("images", "sums", "dropped"),
}
SCALES: dict[str, Callable[..., Tensor]] = {
    "minmax-upsample": normalise_and_upsample,
    "upsample-minmax": lambda maps, size: minmax(upsample(maps, size)),
    "sigmoid": lambda maps, size: upsample(torch.sigmoid(maps.float()), size),
    "top-half": lambda maps, size: faithfulness.keep_top_unchecked(normalise_and_upsample(maps, size), 0.5).sign(),
}


@dataclasses.dataclass(frozen=True)
class Convention:
    """What one Average Drop means; all of it at 100 % of the pixels.

    score: of the class, Y on the image and O on the masked one: "probability" or "logit".
    drop: "relative", 100 max(0, Y - O) / Y; "absolute", 100 max(0, Y - O).
    space: the map multiplies "pixels" (left out is black), or the "normalised" image (left out is the mean colour).
    label: the class explained and scored: "predicted" or "truth".
    mask: from raw map to mask: "minmax-upsample", "upsample-minmax", or "sigmoid" (not min-maxed), then upsampled;
    "top-half": 1 where the top 50 % of the papers are above 0, else 0.
    average: of the drops over "images", over those that "dropped", or with "sums" the summed drops over the summed
    scores.
    """

    description: str
    score: str = "probability"
    drop: str = "relative"
    space: str = "pixels"
    label: str = "predicted"
    mask: str = "minmax-upsample"
    average: str = "images"

    def __post_init__(self) -> None:
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

OTHERS = {  # that are in use, too, beside those of notebook 05
    "dropped": Convention("over the images that dropped, not over all", average="dropped"),
    "top-half": Convention("hard top 50 %, the rest the mean colour", mask="top-half", space="normalised"),
}


@exact()
@torch.no_grad()  # not inference mode: methods by gradients could not use what is made in it
def scores(
    explainer: Explains,
    images: Images,
    conventions: Mapping[str, Convention] = CONVENTIONS,
    batch_size: int = 64,
    workers: int = 0,
) -> pd.DataFrame:
    """What the classifier says of every image and of the masked image, by every convention.

    explainer: any that has a classifier and gives raw maps; images: `datasets.Images` with labels of the classifier's
    classes; conventions: {name: Convention}. Returns a table with a row per image and convention: convention, image
    (id), class, clean (Y), masked (O). Each image and each distinct mask goes through the classifier once, in passes of
    `batch_size` images.
    Raises `InputError` for labels that the classifier does not have, where a convention asks for the truth, and for
    pixels, maps and answers that are none.
    """
    if explainer.classifier is None:
        raise InputError("An Average Drop needs a classifier: give an explainer of one, of attach or baseline.")
    classifier = explainer.classifier.eval()
    normalise, truth = classifier.normalise, any(c.label == "truth" for c in conventions.values())
    if truth and not ((images.labels >= 0) & (images.labels < classifier.num_classes)).all():
        raise InputError(f"Labels: expected classes 0 to {classifier.num_classes - 1} of the classifier.")
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in conventions}
    for pixels, labels, indices in batches(images, batch_size, device=normalise.mean.device, workers=workers):
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        raw, logits = explained({"map": explainer}, classifier, pixels, labels if truth else None)
        maps = dict(zip(CHOICES["label"], raw["map"], strict=False))
        classes, answers = {"predicted": logits.argmax(1), "truth": labels}, {}
        for label, mask, space in dict.fromkeys((c.label, c.mask, c.space) for c in conventions.values()):
            scaled = SCALES[mask](maps[label], pixels.shape[2:])
            mean = normalise.mean.flatten() if space == "normalised" else None
            masked = faithfulness.masked_images_unchecked(pixels, scaled, mean)
            answers[label, mask, space] = classifier.answer(masked.contiguous(memory_format=torch.channels_last))
        found = {}
        for name, c in conventions.items():
            own, pair = classes[c.label], {"clean": logits, "masked": answers[c.label, c.mask, c.space]}
            found[name, "class"] = own
            found |= {(name, what): baseline.scores(said, own, c.score, classifier) for what, said in pair.items()}
        ids = [images.ids[i] for i in indices.tolist()]
        for (name, what), values in fetch(found, classifier, pixels, ids).items():
            if what == "class":
                parts[name].append(pd.DataFrame({"convention": name, "image": ids}))
            parts[name][-1][what] = values.numpy()
    return pd.concat([part for own in parts.values() for part in own], ignore_index=True)


def drops(clean: ArrayLike, masked: ArrayLike, convention: Convention) -> tuple[np.ndarray, np.ndarray]:
    """Per-image drop in percent and its weight: clean (Y), masked (O) (N,) -> (N,), (N,) float64.

    The Average Drop is the weighted mean, which gives "sums" its ratio with weights Y. A relative drop of logits is
    100 max(0, Y - O) / (Y + 1e-7) as torchcam computes it: negative for Y < 0, and of no use near 0.
    """
    clean, masked = (torch.tensor(np.asarray(x), dtype=torch.float64) for x in (clean, masked))
    if convention.score == "logit" and convention.drop == "relative":
        values = faithfulness.average_drop(clean, masked, relative=False) / (clean + 1e-7)
    else:
        values = faithfulness.average_drop(clean, masked, convention.drop == "relative")
    weights = {"images": torch.ones_like(clean), "sums": clean, "dropped": (values > 0).double().clamp(min=1e-12)}
    return values.numpy(), weights[convention.average].numpy()  # none dropped: 0, not 0 / 0


def average_drops(
    explainer: Explains,
    images: Images,
    conventions: Mapping[str, Convention] = CONVENTIONS,
    batch_size: int = 64,
    workers: int = 0,
) -> pd.DataFrame:
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
