"""L-CAM and TAME, trained and applied, against the authors' structure and a bare classifier, in one process, in turn.

    python benchmarks/mechanism.py                        # the rows of the table in benchmarks/README.md
    python benchmarks/mechanism.py tame resnet50 --batch 8

The reference is written from the description of the released code: the clean pass runs the whole classifier, every
branch is upsampled, concatenated and fused into the maps of all 1,000 classes, of which a few are then used; L-CAM-Img
explains with two passes. Ours is what the package runs. Both are checked to give the same maps and losses before they
are timed. A line per model: images per second (medians) of a training step (forward, backward, SGD) and of explaining,
each with the ratio ours / reference; for explaining also the ratio to a bare forward pass of the classifier.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

import lficam
from lficam.loop import memory_format, set_rates, sgd, train_step
from lficam.losses import explanation_loss
from lficam.recipes import Recipe

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

    def class_maps(self, features):
        """All K maps (B, K, h, w): upsampled, concatenated, fused."""
        mechanism = self.mechanism
        if not hasattr(mechanism, "convs"):
            return mechanism.fuse(features[0])
        size, up = [min(side, 56) for side in features[0].shape[2:]], []
        for maps, conv, norm in zip(features, mechanism.convs, mechanism.norms, strict=True):
            z = norm(conv(maps))
            z = mechanism.activation(z + maps if mechanism.skip else z)
            up.append(F.interpolate(z, size, mode="bilinear", align_corners=False))
        return mechanism.fuse(torch.cat(up, 1))

    def loss(self, pixels, labels):
        options = self.explainer.settings
        if options.masked == "features":
            kept = []

            def mask(features):
                kept.append(torch.sigmoid(self.class_maps(features)))
                return features[-1] * kept[0][torch.arange(len(pixels)), labels][:, None]

            _, logits = self.explainer._tap(self.normalise(pixels), change=mask)
            maps = kept[0]
        else:
            features, clean = self.explainer._tap(self.normalise(pixels))
            labels = clean.argmax(1) if options.labels == "batch" else labels
            maps = torch.sigmoid(self.class_maps(features))
            own = maps[torch.arange(len(pixels)), labels][:, None]
            own = F.interpolate(own.float(), pixels.shape[2:], mode="bilinear", align_corners=False)
            logits = self.network(self.normalise(own * pixels))
        return explanation_loss(logits, labels, maps[:, labels]), labels == labels

    def explain(self, pixels):
        features, logits = self.explainer._tap(self.normalise(pixels))
        if self.explainer.settings.masked == "image" and not hasattr(self.mechanism, "convs"):
            logits = self.network(self.normalise(pixels))  # L-CAM-Img runs the backbone again for its logits
        return self.class_maps(features)[torch.arange(len(pixels)), logits.argmax(1)]


def seconds(call, device):
    """Wall time of one call, the device idle before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def in_turn(calls, rounds, device):
    """Seconds of each call in each of the rounds, after a warm-up."""
    times = {name: [] for name in calls}
    for i in range(rounds + 1):
        for name, call in calls.items():
            taken = seconds(call, device)
            times[name] += [taken] if i else []
    return times


def ratio(times, ours, other):
    return statistics.median(b / a for a, b in zip(times[ours], times[other], strict=True))


def compare(method, network, batch, rounds, device):
    """Print one line: medians of the rounds of each side, taken in turn."""
    torch.manual_seed(0)
    explainer = lficam.attach(network, method, weights="random").to(device)
    reference = Reference(explainer)
    optimizer = sgd(explainer, RECIPE)
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
    training = in_turn(
        {
            "ours": lambda: train(explainer, best, RECIPE),
            "reference": lambda: train(reference, first, plain),
        },
        rounds,
        device,
    )
    explaining = in_turn(
        {
            "ours": lambda: explain(explainer, last),
            "reference": lambda: explain(reference.explain, first),
            "bare": lambda: explain(explainer.classifier, last),
        },
        rounds,
        device,
    )
    speed = {
        name: batch / statistics.median(t) for name, t in [("ours", training["ours"]), ("ref", training["reference"])]
    }
    cells = [f"{speed['ours']:8.2f} {speed['ref']:8.2f} {ratio(training, 'ours', 'reference'):6.2f}x"]
    speed = {name: batch / statistics.median(t) for name, t in explaining.items()}
    cells.append(
        f"{speed['ours']:8.2f} {speed['reference']:8.2f} {ratio(explaining, 'ours', 'reference'):6.2f}x "
        f"{speed['bare']:8.2f} {ratio(explaining, 'ours', 'bare'):6.2f}"
    )
    print(f"{method:10} {network:9} {batch:5}  {cells[0]}   {cells[1]}   {difference:.0e}", flush=True)


def check(explainer, reference, pixels, labels):
    """The largest difference of maps; exits when maps or losses differ."""
    with torch.no_grad():
        explainer.eval()
        maps = (explainer(pixels) - reference.explain(pixels)).abs().max().item()
        ours, theirs = (side.loss(pixels, labels)[0]["total"].item() for side in (explainer, reference))
    if maps > 1e-3 or abs(ours - theirs) > 1e-4 * abs(theirs):
        raise SystemExit(f"The two sides differ (maps by {maps:.1e}, losses {ours} and {theirs}): nothing was timed.")
    return maps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="*", metavar="METHOD CLASSIFIER", help="one model instead of the table's")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if len(arguments.model) not in (0, 2):
        parser.error("give a method and a classifier, or neither")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.rounds} rounds")
    print(
        "method     classifier batch  training: ours, reference, ratio  explaining: ours, reference, ratio, bare, ratio"
    )
    for model in [(*arguments.model, arguments.batch)] if arguments.model else MODELS:
        compare(*model, arguments.rounds, device)


if __name__ == "__main__":
    main()
