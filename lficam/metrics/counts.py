"""What of the papers is counted, not trained: parameters of the attention mechanisms, and forward passes.

The papers' classifiers stand on torch's meta device: shapes without weights, from which layers and mechanisms are made
as for real ones. Each number stands beside the published one, and the two are equal or not.
"""

import functools
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..data import papers
from ..explainers.frozen import Frozen, freeze
from ..explainers.learned import METHODS, attach
from ..explainers.registry import baseline
from ..models import imagenet
from .scoring import forward_passes

NAMES = {"VGG-16": "vgg16", "ResNet-50": "resnet50", "ViT-B/16": "vit_b_16"}
MECHANISMS = {
    "L-CAM": "l-cam-img",
    "TAME": "tame",
    "T-TAME": "t-tame",
    "TAME no skip": "tame-no-skip",
    "TAME no skip no batch norm": "tame-no-skip-no-norm",
}
PARTS = {"branch_convs": "convs", "batch_norms": "norms", "fusion": "fuse"}
MASKS = {"VGG-16": 4000, "ResNet-50": 8000}  # of RISE, as the profiles paper and paper-resnet50 have them


@functools.cache
def _classifier(backbone: str) -> Frozen:
    with torch.device("meta"):
        network = imagenet.load(NAMES[backbone], 1000)
    return freeze(network)


def attention_parameters() -> pd.DataFrame:
    """Parameters of the attention mechanisms for 1,000 classes, by our own classes on the layers that they choose.

    Columns method, backbone, branch_convs, batch_norms, fusion (counted), published, reproduced (in all), equal: "yes",
    or "no" where any of these four is not the published one.
    """
    rows = []
    for theirs in papers.published_parameters().to_dict("records"):
        with torch.device("meta"):
            mechanism = attach(_classifier(theirs["backbone"]), MECHANISMS[theirs["method"]]).mechanism
        empty = nn.Module()
        ours = {name: _count(getattr(mechanism, part, empty)) for name, part in PARTS.items()}
        total = _count(mechanism)
        place = {name: theirs[name] for name in ("method", "backbone")}
        same = theirs == place | ours | {"total": total}
        counted = {"published": theirs["total"], "reproduced": total, "equal": _word(same)}
        rows.append(place | ours | counted)
    return pd.DataFrame(rows)


def papers_passes() -> pd.DataFrame:
    """Forward passes an explanation, of our own explainers with the authors' numbers of masks.

    Columns backbone, explainer, published, reproduced, equal ("yes" or "no").
    """
    rows = []
    for theirs in papers.published_passes().to_dict("records"):
        classifier, name = _classifier(theirs["backbone"]), theirs["explainer"]
        options: dict[str, Any] = {"masks": MASKS[theirs["backbone"]]} if name == "rise" else {}
        with torch.device("meta"):
            explainer = attach(classifier, name) if name in METHODS else baseline(classifier, name, **options)
        counted = forward_passes(explainer)
        rows.append(theirs | {"reproduced": counted, "equal": _word(counted == theirs["published"])})
    return pd.DataFrame(rows)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _word(same: bool) -> str:
    return "yes" if same else "no"
