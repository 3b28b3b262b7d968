"""The parameter names of the authors' released code in our terms."""

import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from .attention import LFICAM, Classifier

Rule = tuple[str, str | Callable[[re.Match], str]]  # as `re.sub` takes them


def stage(match: re.Match) -> str:
    """Stages count from 1 in the authors' names, from 0 in ours."""
    return f"backbone.stages.{int(match[1]) - 1}."


# Regular expressions, applied in this order. Families of backbones by the beginning of their name.
_STEM: list[Rule] = [(r"^conv1\.", "backbone.stem.0."), (r"^fc\.(0\.)?", "backbone.fc.")]
_RESNET: list[Rule] = [
    *_STEM,
    (r"^bn1\.", "backbone.stem.1."),
    (r"^layer(\d)\.", stage),
    (r"^att_layer\d\.", "attention.stage."),
]
BACKBONES: dict[str, list[Rule]] = {
    "densenet-bc": [
        *_STEM,
        (r"^dense([12])\.", lambda m: stage(m) + "0."),
        (r"^trans(\d)\.bn1\.", lambda m: stage(m) + "1.0."),
        (r"^trans(\d)\.conv1\.", lambda m: stage(m) + "1.2."),
        (r"^dense3\.", "backbone.stages.2."),
        (r"^att_dense3\.", "attention.stage."),
        (r"^bn\.", "backbone.tail.0."),
    ],
    "resnext-": [
        (r"^conv_1_3x3\.", "backbone.stem.0."),
        (r"^bn_1\.", "backbone.stem.1."),
        (r"^classifier\.", "backbone.fc."),
        (r"^stage_(\d)\.stage_\d_bottleneck_", stage),
        (r"^stage_att\.stage_att_bottleneck_", "attention.stage."),
        (r"\.(conv|bn)_reduce\.", r".\g<1>1."),
        (r"\.conv_conv\.", ".conv2."),
        (r"\.bn\.", ".bn2."),
        (r"\.(conv|bn)_expand\.", r".\g<1>3."),
        (r"\.shortcut\.shortcut_conv\.", ".downsample.0."),
        (r"\.shortcut\.shortcut_bn\.", ".downsample.1."),
    ],
    "wrn-": [
        *_STEM,
        (r"^block(\d)\.layer\.", stage),
        (r"^att_block3\.layer\.", "attention.stage."),
        (r"\.convShortcut\.", ".shortcut."),
        (r"^bn1\.", "backbone.tail.0."),
    ],
    # The gate hangs on the last batch norm of a block: the second of two, or the third of three.
    "se-resnet-18": [*_RESNET, (r"\.fc([12])\.", r".bn2.fc\1.")],
    "se-resnet-34": [*_RESNET, (r"\.fc([12])\.", r".bn2.fc\1.")],
    "se-resnet-": [*_RESNET, (r"\.fc([12])\.", r".bn3.fc\1.")],
    "": _RESNET,
}
METHODS: dict[str, list[Rule]] = {
    "plain": [],
    "abn": [
        (r"^bn_att\.", "attention.norm."),
        (r"^att_conv\.", "attention.to_classes."),
        (r"^bn_att2\.", "attention.class_norm."),
        (r"^att_conv2\.", "attention.to_logits."),
        (r"^att_conv3\.", "attention.to_map."),
        (r"^bn_att3\.", "attention.map_norm."),
    ],
}


def our_name(model: Classifier, name: str) -> str:
    """The authors' parameter name in terms of a model made by `create`.

    A name that fits no rule stays and is then reported as unknown.
    """
    name = name.removeprefix("module.")
    method, backbone = model.card["method"], model.card["backbone"]
    family = next(prefix for prefix in BACKBONES if backbone.startswith(prefix))
    rules = BACKBONES[family] + (importance_rules(model) if isinstance(model, LFICAM) else METHODS[method])
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name, count=1)
    return name


def importance_rules(model: LFICAM) -> list[Rule]:
    """Names of the feature importance network: places in a row (CIFAR), or att_conv1, att_bn1 ... (224 pixels)."""
    layers = model.attention.importance_network.layers
    rules: list[Rule] = [(r"^attention\.", "attention.importance_network.layers.")]
    for kind, letters in ((nn.Conv2d, "conv"), (nn.BatchNorm2d, "bn")):
        places = [i for i, layer in enumerate(layers) if isinstance(layer, kind)]
        for i, place in enumerate(places, start=1):
            rules.append((rf"^att_{letters}{i}\.", f"attention.importance_network.layers.{place}."))
    return rules


def explainer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The attention mechanism of a checkpoint of L-CAM (attnM.op), TAME (attn.*) or T-TAME, in our names.

    The classifier's weights, which L-CAM and T-TAME store beside it, are left out.
    """
    parts = {"op": "fuse", "fuser": "fuse", "convs": "convs", "bns": "norms"}
    found = {}
    for name, value in state.items():
        if match := re.fullmatch(r"(?:.*\.)?(op|fuser|convs|bns)\.((?:\d+\.)?\w+)", name):
            found[f"{parts[match[1]]}.{match[2]}"] = value
        elif "attn" in name:
            found[name] = value
    return found
