"""Opti-CAM, LeGrad and P-TAME against the structure of the released code, in one process, in turn.

    python -m benchmarks --only newer                     # the rows of the table in benchmarks/README.md
    python -m benchmarks.newer opti-cam resnet50 --batch 2 --steps 5

The references are written from descriptions of the released code. Opti-CAM: a pass for the logits, one for the feature
maps, then in the loop the mask, its bilinear enlargement and normalisation; the layer's maps of every pass are
recorded. LeGrad: attention with its weights in place of each block's own, of all blocks, a backward pass a block, whose
map is enlarged before they are added. P-TAME, by `mechanism.compare`: maps doubled and convolved at full resolution for
all 1,000 classes. Both sides are checked to give the same maps before they are timed; random weights, with which Adam
makes rounding visible after some twenty steps of Opti-CAM: it has ten.
"""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import nn

import lficam
from benchmarks import mechanism, timing
from lficam.explainers import frozen
from lficam.maps import minmax, upsample

MODELS = [
    ("opti-cam", "resnet50", 4),
    ("legrad", "vit_b_16", 4),
    ("p-tame", "resnet50", 8),
]
TINY = [("opti-cam", "resnet18", 1), ("legrad", "vit_b_16", 1), ("p-tame", "resnet18", 1)]


def opti_cam(classifier, layer, pixels, target, steps, lr=0.1):
    """Masks (B, H, W) after so many steps, or fewer: the batch stops when its objective, looked at ten times, rises."""

    def logits(images):
        return classifier.network(classifier.normalise(images)).gather(1, target[:, None]).squeeze(1)

    recorded, best = [], math.inf
    hook = classifier.network.get_submodule(layer).register_forward_hook(lambda *a: recorded.append(a[2].detach()))
    with contextlib.ExitStack() as stack, torch.enable_grad():
        stack.callback(hook.remove)
        with torch.no_grad():
            whole = logits(pixels)
            classifier.network(classifier.normalise(pixels))
        maps = recorded[-1]
        weights = torch.full_like(maps[:, :, :1, :1], 0.5).requires_grad_()
        adam = torch.optim.Adam([weights], lr)
        for step in range(steps + 1):
            total = (weights.softmax(1) * maps).sum(1, keepdim=True)
            masks = F.interpolate(total, pixels.shape[2:], mode="bilinear", align_corners=False)
            low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
            masks = (masks - low) / (high - low)
            if step == steps:
                break
            lost = (whole - logits(masks * pixels)).sum()
            adam.zero_grad()
            lost.backward()
            adam.step()
            if step % (steps // 10) == 0:
                if lost.item() > best:
                    break
                best = lost.item()
    return masks[:, 0].detach()


class Attention:
    """An nn.MultiheadAttention's forward method that keeps its weights (B * heads, N, N)."""

    def __init__(self, module, kept):
        self.module, self.kept = module, kept

    def __call__(self, x, *_, **__):
        module, (batch, length, width) = self.module, x.shape
        projected = F.linear(x, module.in_proj_weight, module.in_proj_bias)
        parts = projected.view(batch, length, 3 * module.num_heads, -1).transpose(1, 2)
        q, k, v = (part.flatten(0, 1) for part in parts.chunk(3, 1))
        weights = torch.bmm(q * q.shape[2] ** -0.5, k.transpose(1, 2)).softmax(-1)
        self.kept.append(weights)
        merged = torch.bmm(weights, v).view(batch, module.num_heads, length, -1).transpose(1, 2)
        return module.out_proj(merged.reshape(batch, length, width)), None


def legrad(classifier, pixels, target):
    """Maps (B, H, W) of a torchvision transformer, enlarged block by block and added."""
    network, attention, tokens = classifier.network, [], []
    paying = [part for part in network.modules() if isinstance(part, nn.MultiheadAttention)]
    hooks = [b.register_forward_hook(lambda *a: tokens.append(a[2])) for b in network.encoder.layers.children()]
    with contextlib.ExitStack() as stack, torch.enable_grad():
        for hook in hooks:
            stack.callback(hook.remove)
        for part in paying:
            part.forward = Attention(part, attention)
            stack.callback(delattr, part, "forward")
        network(classifier.normalise(pixels).requires_grad_())
        total = 0
        for weights, z in zip(attention, tokens, strict=True):
            said = network.heads(network.encoder.ln(z.mean(1)))
            (gradient,) = torch.autograd.grad(said.gather(1, target[:, None]).sum(), weights, retain_graph=True)
            relevance = gradient.clamp(min=0).view(len(pixels), -1, *weights.shape[1:]).mean((1, 2))[:, 1:]
            side = math.isqrt(relevance.shape[1])
            maps = relevance.view(len(pixels), 1, side, side)
            total = total + F.interpolate(maps, pixels.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return total.detach()


def compare(method, network, batch, rounds, device, steps):
    """A row, after a first call of each side that checks the maps."""
    torch.manual_seed(0)
    classifier = frozen.find(network, "random").to(device)
    if method == "legrad":  # whose random weights are zeros in torchvision's last layer: every map would be
        nn.init.normal_(classifier.network.heads.head.weight, std=0.02)
    if method == "opti-cam":
        ours = lficam.baseline(classifier, method, steps=steps, early_stop=True)
        what = f"{method} {network}, 224 pixels, batch {batch}, {steps} steps"
    else:
        ours, what = lficam.baseline(classifier, method), f"{method} {network}, 224 pixels, batch {batch}"
    pixels = torch.rand(batch, 3, 224, 224, device=device)
    with torch.no_grad():
        target = classifier(pixels).argmax(1)

    def reference():
        if method == "opti-cam":
            return opti_cam(classifier, ours.layer.name, pixels, target, steps)
        return legrad(classifier, pixels, target)

    found = minmax(upsample(ours(pixels, target), pixels.shape[2:]))
    error = (found - minmax(reference())).abs().max().item()
    if error > 1e-3 or not found.flatten(1).any(1).all():
        raise SystemExit(f"{what}: the two sides differ by {error:.1e}, nothing was timed.")
    times = timing.in_turn({"ours": lambda: ours(pixels, target), "reference": reference}, rounds, device)
    yield timing.row(what, "authors' structure", times, batch, **{"maps differ by": error})


PARSER = timing.parser("newer", __doc__, "METHOD CLASSIFIER", batch=4, steps=10)
PARSER.add_argument("--tiny", action="store_true", help="the smallest models that show that it works")
QUICK = ["--tiny", "--rounds", "1"]


def rows(given):
    """Rows of every model."""
    for method, network, batch in timing.chosen(given, TINY if given.tiny else MODELS, given.batch):
        case = method, network, batch, given.rounds, torch.device(given.device)
        yield from mechanism.compare(*case) if method == "p-tame" else compare(*case, given.steps)


if __name__ == "__main__":
    timing.main(rows, PARSER)
