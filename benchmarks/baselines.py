"""Score-CAM and RISE against other libraries at equal maps, in one process, in turn.

    python -m benchmarks.baselines                                    # resnet18, random weights, two photographs
    python -m benchmarks.baselines vgg16 --weights papers --images 1  # ImageNet weights, downloaded once

Score-CAM: pytorch-grad-cam, by its own protocol. RISE, which neither has: the structure of the
published code, written from its description (masks resized one by one and all stored, masked images all stored). Each
pair is checked to give the same map before it is timed. A row per pair, with the images that the
classifier saw.
"""

import torch
import torch.nn.functional as F
from pytorch_grad_cam import ScoreCAM as GradCAMScoreCAM
from pytorch_grad_cam import score_cam as grad_cam_module
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from skimage import data
from skimage.transform import resize

import lficam
from benchmarks import timing
from lficam.explainers import frozen
from lficam.maps import minmax


def photographs(count, size, device):
    """Pixels (count, 3, size, size) of photographs that come with scikit-image, the cat first."""
    arrays = [data.chelsea(), data.astronaut(), data.coffee(), data.rocket()]
    tensors = [torch.from_numpy(a).permute(2, 0, 1)[None].float() / 255 for a in arrays]
    large = [F.interpolate(t[..., : min(t.shape[2:])], (size, size), mode="bilinear", antialias=True) for t in tensors]
    return torch.cat([large[i % len(large)] for i in range(count)]).to(device)


def grad_cam(classifier, layer, pixels, targets):
    """Maps (B, h, w) in [0, 1], as the library scales them, but not enlarged."""
    grad_cam_module.tqdm.tqdm = lambda steps: steps  # no progress bars
    with GradCAMScoreCAM(classifier.network, [classifier.network.get_submodule(layer)]) as extract:
        side = next(x.height for x in classifier.layers if x.name == layer) * pixels.shape[-1] // classifier.size
        extract.get_target_width_height = lambda _: (side, side)
        chosen = [ClassifierOutputTarget(t) for t in targets.tolist()]
        return torch.from_numpy(extract(classifier.normalise(pixels), chosen))


def rise(classifier, grid, shifts, cells, pixels, targets, at_once=100):
    """Maps (B, H, W): masks of the same draws as ours, anew for every image, as the published code for ResNet-50."""
    size, total = pixels.shape[-1], []
    cell = -(-size // cells)
    for image, target in zip(classifier.normalise(pixels).split(1), targets, strict=True):
        masks = torch.empty(len(grid), 1, size, size)
        for k, (cut, (x, y)) in enumerate(zip(grid.numpy().astype("float32"), shifts.tolist(), strict=True)):
            large = resize(cut, ((cells + 1) * cell,) * 2, order=1, mode="reflect", anti_aliasing=False)
            masks[k, 0] = torch.from_numpy(large[x : x + size, y : y + size])
        masks = masks.to(pixels.device)
        stack = masks * image
        with torch.no_grad():
            p = torch.cat([classifier.network(part).softmax(1) for part in stack.split(at_once)])
        total.append((p.T @ masks.flatten(1)).view(-1, size, size)[target] / len(grid) / 0.5)
    return torch.stack(total)


def pairs(classifier, layer, pixels, targets, masks):
    """(name, our explainer, reference) of everything that is compared."""
    score = lficam.baseline(classifier, "score-cam", layer, protocol="grad-cam")
    draws = lficam.baseline(classifier, "rise", masks=masks)
    shifts = (draws.shifts * -(-pixels.shape[-1] // 7)).long()
    return [
        ("Score-CAM, grad-cam", score, lambda: grad_cam(classifier, layer, pixels, targets)),
        ("RISE, published code", draws, lambda: rise(classifier, draws.grid, shifts, 7, pixels, targets)),
    ]


def compare(name, explainer, reference, pixels, targets, rounds):
    """A row, after a first call of each side that checks the maps."""
    ours, theirs = minmax(explainer(pixels, targets)).cpu(), minmax(reference()).cpu()
    error = (ours - theirs).abs().max().item()
    if error > 1e-4 or not theirs.flatten(1).any(1).all():
        raise SystemExit(f"{name}: the two sides differ by {error:.1e}, nothing was timed.")
    calls = {"ours": lambda: explainer(pixels, targets), "reference": reference}
    times = timing.in_turn(calls, rounds, pixels.device)
    method, _, peer = name.partition(", ")
    seen = f"{explainer.counted / len(pixels):.0f} of {explainer.forward_passes}"
    what = f"{method}, {pixels.shape[-1]} pixels"
    return timing.row(what, peer, times, len(pixels), **{"images seen": seen, "maps differ by": error})


PARSER = timing.parser("baselines", __doc__, rounds=3, size=224, images=2, masks=256)
PARSER.add_argument("classifier", nargs="?", default="resnet18", help="a name of torchvision's")
PARSER.add_argument("--weights", default="random", help="as `frozen.find` takes them")
PARSER.add_argument("--layer", help="by default the papers', or the like")
QUICK = ["--size", "64", "--images", "1", "--masks", "4", "--layer", "layer1", "--rounds", "1"]


def rows(given):
    """Rows of every pair."""
    torch.manual_seed(0)
    classifier = frozen.find(given.classifier, given.weights).to(given.device)
    layer = lficam.baseline(classifier, "score-cam", given.layer).layer.name
    pixels = photographs(given.images, given.size, given.device)
    with torch.no_grad():
        targets = classifier(pixels).argmax(1)
    for pair in pairs(classifier, layer, pixels, targets, given.masks):
        found = compare(*pair, pixels, targets, given.rounds)
        place = f"{given.classifier} ({given.weights} weights), {layer}"
        yield found | {"what": f"{found['what']}, {place}"}


if __name__ == "__main__":
    timing.main(rows, PARSER)
