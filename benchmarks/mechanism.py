"""L-CAM and TAME, trained and applied, against the authors' structure and a bare classifier, in one process, in turn.

    python -m benchmarks.mechanism                        # the rows of the table in benchmarks/README.md
    python -m benchmarks.mechanism tame resnet50 --batch 8

The reference is written from the description of the released code: the clean pass runs the whole classifier, every
branch is upsampled, concatenated and fused into the maps of all 1,000 classes, of which a few are then used; L-CAM-Img
explains with two passes. Ours is what the package runs. Both are checked to give the same maps and losses before they
are timed. Three rows per model: a training step (forward, backward, SGD), explaining, and explaining against a bare
forward pass of the classifier.
"""

import torch
import torch.nn.functional as F

import lficam
from benchmarks import timing
from lficam.explainers import frozen
from lficam.explainers.features import tap
from lficam.losses import explanation_loss
from lficam.maps import minmax
from lficam.training.loop import memory_format, optimiser, set_rates, train_step
from lficam.training.recipes import Recipe

MODELS = [
    ("l-cam-img", "resnet50", 8),
    ("l-cam-fm", "resnet50", 8),
    ("tame", "resnet50", 8),
    ("l-cam-img", "vgg16", 4),
    ("l-cam-fm", "vgg16", 4),
    ("tame", "vgg16", 4),
    ("t-tame", "vit_b_16", 4),
]
RECIPE = Recipe(lr=1e-3, nesterov=True, bias_lr=2.0, weight_decay=5e-4, precision="auto")


class Reference:
    """An explainer of ours, computed in the authors' structure, with the same weights."""

    def __init__(self, explainer):
        self.explainer, self.mechanism, self.network = explainer, explainer.mechanism, explainer.classifier.network
        self.normalise = explainer.classifier.normalise
        self.doubles = getattr(self.mechanism, "doubles", False)

    def tap(self, pixels, **options):
        """Features and logits; P-TAME runs the whole of its auxiliary classifier, whose logits nobody needs."""
        beside = self.explainer.auxiliary
        if beside is None:
            return self.explainer._tap(pixels, **options)
        features, _ = tap(beside.network, beside.normalise(pixels), self.explainer.layers)
        return features, self.network(self.normalise(pixels))

    def class_maps(self, features):
        """All K maps (B, K, h, w): upsampled, concatenated, fused."""
        mechanism = self.mechanism
        if not hasattr(mechanism, "convs"):
            return mechanism.fuse(features[0])
        size, up = [side if self.doubles else min(side, 56) for side in features[0].shape[2:]], []
        for maps, conv, norm in zip(features, mechanism.convs, mechanism.norms, strict=True):
            z = norm(conv(maps))
            z = mechanism.activation(z + maps if mechanism.skip else z)
            while self.doubles and z.shape[2] < size[0]:
                z = F.interpolate(z, scale_factor=2, mode="bilinear", align_corners=False)
            up.append(z if self.doubles else F.interpolate(z, size, mode="bilinear", align_corners=False))
        return mechanism.fuse(torch.cat(up, 1))

    def loss(self, pixels, labels):
        options = self.explainer.settings
        if options.masked == "features":
            kept = []

            def mask(features):
                kept.append(torch.sigmoid(self.class_maps(features)))
                return features[-1] * kept[0][torch.arange(len(pixels)), labels][:, None]

            _, logits = self.tap(pixels, change=mask)
            maps = kept[0]
        else:
            features, clean = self.tap(pixels)
            labels = clean.argmax(1) if options.labels == "batch" else labels
            maps = torch.sigmoid(self.class_maps(features))
            own = maps[torch.arange(len(pixels)), labels][:, None]
            own = F.interpolate(own.float(), pixels.shape[2:], mode="bilinear", align_corners=False)
            logits = self.network(self.normalise(own * pixels))
        return explanation_loss(logits, labels, maps[:, labels]), labels == labels

    def explain(self, pixels):
        features, logits = self.tap(pixels)
        if self.explainer.settings.masked == "image" and not hasattr(self.mechanism, "convs"):
            logits = self.network(self.normalise(pixels))  # L-CAM-Img runs the backbone again for its logits
        maps = self.class_maps(features)
        maps = minmax(maps.flatten(0, 1)).view_as(maps) if self.doubles else maps  # P-TAME: of all classes
        return maps[torch.arange(len(pixels)), logits.argmax(1)]


def compare(method, network, batch, rounds, device):
    """Rows of training and explaining, each side in turn."""
    torch.manual_seed(0)
    beside = {"auxiliary": frozen.find("resnet18", "random")} if method == "p-tame" else {}
    explainer = lficam.attach(network, method, weights="random", **beside).to(device)
    reference = Reference(explainer)
    optimizer = optimiser(explainer, RECIPE)
    set_rates(optimizer, RECIPE.lr, RECIPE.momentum)
    pixels, labels = torch.rand(batch, 3, 224, 224, device=device), torch.randint(1000, (batch,), device=device)
    difference = check(explainer, reference, pixels, labels)
    plain = RECIPE if device.type == "cpu" else Recipe(**vars(RECIPE) | {"precision": "float32"})

    def train(side, layout, recipe):
        explainer.classifier.to(memory_format=layout)
        side_model = explainer.train() if side is explainer else side
        explainer.train()
        train_step(side_model, optimizer, pixels.contiguous(memory_format=layout), labels, recipe)

    def explain(call, layout):
        explainer.eval().classifier.to(memory_format=layout)
        with torch.inference_mode():
            call(pixels.contiguous(memory_format=layout))

    last, first, best = torch.channels_last, torch.contiguous_format, memory_format(device, 224)
    training = timing.in_turn(
        {
            "ours": lambda: train(explainer, best, RECIPE),
            "reference": lambda: train(reference, first, plain),
        },
        rounds,
        device,
    )
    explaining = timing.in_turn(
        {
            "ours": lambda: explain(explainer, last),
            "reference": lambda: explain(reference.explain, first),
            "bare": lambda: explain(explainer.classifier, last),
        },
        rounds,
        device,
    )
    what, differ = f"{method} {network}, 224 pixels, batch {batch}", {"maps differ by": difference}
    yield timing.row(f"{what}: training", "authors' structure", training, batch, **differ)
    yield timing.row(f"{what}: explaining", "authors' structure", explaining, batch, **differ)
    yield timing.row(f"{what}: explaining", "bare forward pass", explaining, batch, other="bare")


def check(explainer, reference, pixels, labels):
    """The largest difference of maps; exits when maps or losses differ."""
    with torch.no_grad():
        explainer.eval()
        own = minmax(explainer(pixels)) if reference.doubles else explainer(pixels)
        maps = (own - reference.explain(pixels)).abs().max().item()
        ours, theirs = (side.loss(pixels, labels)[0]["total"].item() for side in (explainer, reference))
    if maps > 1e-3 or abs(ours - theirs) > 1e-4 * abs(theirs):
        raise SystemExit(f"The two sides differ (maps by {maps:.1e}, losses {ours} and {theirs}): nothing was timed.")
    return maps


PARSER = timing.parser("mechanism", __doc__, "METHOD CLASSIFIER", batch=8)
QUICK = ["l-cam-fm", "resnet18", "--batch", "1", "--rounds", "1"]


def rows(given):
    """Rows of every model."""
    for model in timing.chosen(given, MODELS, given.batch):
        yield from compare(*model, given.rounds, torch.device(given.device))


if __name__ == "__main__":
    timing.main(rows, PARSER)
