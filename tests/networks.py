"""Small networks to explain, the outputs of the authors' code of L-CAM, TAME, T-TAME on two of them; training steps."""

import contextlib
import functools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.models.vgg import make_layers

from lficam.training import loop
from lficam.training.recipes import Recipe

GOLDEN = Path(__file__).parent / "golden"
RECIPE = Recipe(epochs=2, batch_size=16, lr=0.01, milestones=(), seed=3, precision="float32")


def block(inputs, outputs, kernel=3, stride=2, inplace=False):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU(inplace=inplace)
    )


class TinyNet(nn.Module):
    """The classifier of tame_tinynet.pt, ttame.pt: s1 24 x 28 x 28, s2 32 x 14 x 14, s3 48 x 7 x 7; 1,000 classes."""

    def __init__(self):
        super().__init__()
        self.stem = block(3, 16, kernel=7, stride=4)
        self.s1, self.s2, self.s3 = block(16, 24), block(24, 32), block(32, 48)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(48, 1000)

    def forward(self, x):
        return self.fc(self.pool(self.s3(self.s2(self.s1(self.stem(x))))).flatten(1))


class TinyVGG(nn.Module):
    """The classifier of lcam_tinyvgg.pt: the modules of VGG-16 under their names, with fewer channels, no dropout."""

    def __init__(self):
        super().__init__()
        self.features = make_layers([8, 8, "M", 8, 8, "M", 16, 16, 16, "M", 16, 16, 16, "M", 16, 16, 512, "M"])
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        layers = [nn.Linear(25088, 24), nn.ReLU(True), nn.Dropout(0), nn.Linear(24, 24), nn.ReLU(True), nn.Dropout(0)]
        self.classifier = nn.Sequential(*layers, nn.Linear(24, 1000))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class Small(nn.Module):
    """A classifier of images of any size in 5 classes. first 6 x h/2 x w/2, second 8 x h/4 x w/4, third 10 x h/8 x w/8.

    The activations write in place into the outputs of the batch norms.
    """

    def __init__(self, classes=5):
        super().__init__()
        self.first, self.second, self.third = block(3, 6, inplace=True), block(6, 8, inplace=True), block(8, 10)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(10, classes)

    def forward(self, x):
        return self.fc(self.dropout(self.third(self.second(self.first(x))).mean((2, 3))))


class TinyConv(nn.Module):
    """The networks of adcc_arcc, idsds, finer_hires_refine, opticam_tiny and ptame_tiny, `layer1` to `layer3`."""

    def __init__(self, *widths):
        super().__init__()
        self.layer1, self.layer2, self.layer3 = (block(*pair) for pair in zip((3, *widths), widths, strict=False))
        self.fc = nn.Linear(widths[-1], 10)

    def forward(self, x):
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class Cheap(nn.Module):
    """A classifier of ten classes that costs next to nothing; its probabilities differ."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 3, 2, 1), nn.Linear(6, 10)

    def forward(self, x):
        return self.last(20 * self.conv(x).relu().mean((2, 3)))


def small(classes=5, seed=0):
    """A `Small` with given weights, and batch-norm statistics that differ from those of any batch."""
    torch.manual_seed(seed)
    network = Small(classes)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.5, 1.5)
    return network


def small_vit(classes=6):
    """torchvision's vision transformer for 32 x 32 pixels: a class token and 4 x 4 patches, 8 channels, 3 blocks."""
    torch.manual_seed(0)
    network = VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=classes)
    nn.init.normal_(network.heads.head.weight)  # which torchvision leaves at 0
    return network


def small_swin(classes=4):
    """torchvision's Swin transformer, channels last: 8 x 8 places of 12 channels, then 4 x 4 of 24."""
    torch.manual_seed(0)
    return SwinTransformer([4, 4], 12, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4], num_classes=classes)


def in_threads(calls, rounds=10, threads=4):
    """Whether threads that run all calls at once, in different orders, get bit by bit what they give one by one."""
    alone, start = [call() for call in calls], threading.Barrier(threads)

    def work(number):
        start.wait()
        order = [(number + i) % len(calls) for i in range(len(calls))] * rounds
        return all(torch.equal(calls[i](), alone[i]) for i in order)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return all(pool.map(work, range(threads)))
    finally:
        sys.setswitchinterval(interval)


@contextlib.contextmanager
def watch(module):
    """The outputs of a module, in the order of its calls."""
    outputs = []
    handle = module.register_forward_hook(lambda *call: outputs.append(call[-1].detach().clone()))
    try:
        yield outputs
    finally:
        handle.remove()


@contextlib.contextmanager
def watch_method(thing, name):
    """The arguments and results of a method, in the order of its calls."""
    calls, method = [], getattr(thing, name)

    def keep(*arguments):
        calls.append((arguments, method(*arguments)))
        return calls[-1][1]

    with mock.patch.object(thing, name, keep):
        yield calls


@functools.cache
def golden_images():
    """The four images of all complete models, (4, 3, 224, 224) in [0, 1]."""
    pixels = torch.from_numpy(np.array(Image.open(GOLDEN / "explainer_images.png")))
    return pixels.reshape(4, 224, 224, 3).permute(0, 3, 1, 2) / 255


def golden_outputs(name):
    """A golden file; its float16 weights and features as float32, and only the class rows that it has are not zero."""
    content = _as_float32(torch.load(GOLDEN / f"{name}.pt", weights_only=True))
    if "attn_state" in content:
        content["attn_state"] = all_classes(content["attn_state"], content["classes"])
    return content


def all_classes(state, classes, count=1000):
    """A mechanism's state with the rows of all classes, those that are not stored as zeros."""

    def spread(name, value):
        if len(value) != len(classes) or not name.rpartition(".")[0].endswith(("op", "fuser")):
            return value
        full = torch.zeros(count, *value.shape[1:])
        full[classes] = value
        return full

    return {name: spread(name, value) for name, value in state.items()}


def _as_float32(content):
    if isinstance(content, dict):
        return {key: _as_float32(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_as_float32(value) for value in content]
    return content.float() if torch.is_tensor(content) and content.dtype == torch.float16 else content


def steps(model, optimizer, images, recipe=RECIPE, loss=None):
    """One epoch's losses, on the device."""
    found = []
    for pixels, labels, _ in loop.train_batches(model, images, recipe, 0):
        loop.set_rates(optimizer, recipe.lr, recipe.momentum)
        terms, _ = loop.train_step(model, optimizer, pixels, labels, recipe, loss)
        found.append(terms["total"].detach().clone())  # what is compiled is written over
    return torch.stack(found)
