"""Bad input, as users would make it: a line a try. The answer is one clear sentence, or the right result.

REFUSED, COMMANDS, PIXELS and TARGETS list what is wrong, the word that the sentence has to hold, and how it is done;
ACCEPTED lists what looks wrong but is right, with what has to come out. `p` is a `Place` of bad files and networks.
"""
# ruff: noqa: ARG001, ARG005 - of the rows of a table, some need less than others

import contextlib
import copy
import errno
import os
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from unittest import mock

import nbformat.v4
import networks
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

import lficam
from lficam import cli, losses, maps
from lficam.data import datasets
from lficam.explainers import convert, frozen
from lficam.explainers.baseline import Baseline
from lficam.lab import photos
from lficam.lab.explore.explorer import explore
from lficam.lab.graph import plan
from lficam.lab.graph.reproduce import gpu_names
from lficam.lab.notebooks import run
from lficam.metrics import agreement, combined, dumps, evaluation, faithfulness, localisation, scoring
from lficam.models import checkpoints
from lficam.training import jobs, lr_range, recipes

FULL, DENIED, NAN = errno.ENOSPC, errno.EACCES, float("nan")
Recipe, Job, small, keep = recipes.Recipe, jobs.Job, networks.small, checkpoints.save
new, attach, base, freeze, find = lficam.create, lficam.attach, lficam.baseline, frozen.freeze, frozen.find
load, resume, own, iou = lficam.load, checkpoints.resume, lficam.images, localisation.intersection_over_union
predict = evaluation.predict
NO_GPU, COARSE = {"CUDA_VISIBLE_DEVICES": "-1"}, torch.autocast("cpu", torch.bfloat16)
INFERENCE, SHOT = torch.inference_mode(), Image.effect_noise((40, 40), 99).convert("RGB")
CARD, TENSORS = {"method": "x", "backbone": "resnet-8", "num_classes": 2}, safetensors.torch.save({"a": torch.zeros(2)})
LAMBDAS = (lambda x, _: x[:, 0], lambda x, _: x[:, 1])
PARAMETERS = 'profile = "lab"\noutput = ""\nlr = 0.1\nepochs = 2\nname = "a"\nsteps = [1, 2]'
NOISE = torch.rand(24, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NOISE_64 = NOISE[0].repeat(1, 1, 2, 2)
MADE = {  # once, when a try first asks for it
    "net": lambda _: freeze(small(), size=32),
    "vit": lambda _: attach(freeze(networks.small_vit(), size=32), "t-tame"),
    "tame": lambda p: attach(p.net, "tame"),
    "grad": lambda p: base(p.net, "grad-cam"),
    "rise": lambda p: base(p.net, "rise", masks=8),
    "plain": lambda _: new("plain", "resnet-8", 10).eval(),
    "abn": lambda _: new("abn", "resnet-8", 10).eval(),
    "lfi": lambda _: new("lfi-cam", "resnet-8", 10).eval(),
    "images": lambda p: own(p.pixels.repeat(3, 1, 1, 1), [0, 1, 2, 3, 4, 0], [*"abcde"]),
    "digits": lambda _: datasets.load("photo-digits", "test", count=6),
    "callables": lambda p: callables(p),
}


class Flat(nn.Sequential):
    """A classifier without layers that have places."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))


class Held(networks.Small):
    """A classifier through which no gradient passes."""

    forward = torch.no_grad()(networks.Small.forward)


class Pair(networks.Small):
    """A classifier that returns two things, of which either may be the logits."""

    def forward(self, x):
        return super().forward(x), super().forward(x)


class Code:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


class Trained(BaseException):
    """A training would begin: nothing was wrong so far."""


def callables(p):
    """Whatever takes pixels."""
    names = ("grad-cam", "grad-cam++", "layer-cam", "score-cam", "ablation-cam", "hires-cam", "finer-cam")
    made = {name: base(p.net, name) for name in (*names, "random", "centre", "ones")}
    made |= {
        "opti-cam": base(p.net, "opti-cam", steps=2),
        "rise": p.rise,
        "tame": p.tame,
        "l-cam-img": attach(p.net, "l-cam-img"),
        "frozen": p.net,
    }
    made |= {"own": base(copy.deepcopy(p.plain), "own"), "plain": p.plain, "abn": p.abn, "lfi-cam": p.lfi}
    return made | {f"{name}.explain": made[name].explain for name in ("plain", "abn", "lfi-cam")}


def targeted(p):
    """Whatever takes pixels and a class of five."""
    other = ("random", "centre", "ones", "own")
    made = {name: one for name, one in p.callables.items() if isinstance(one, Baseline) and name not in other}
    made |= {"tame": p.tame, "vit": p.vit, "plain.explain": new("plain", "resnet-8", 5).eval().explain}
    return made | {"own": base(new("plain", "resnet-8", 5), "own")}


class Place:
    """A folder with bad files, and small networks."""

    def __init__(self, home):
        self.home, self.pixels = home, NOISE[0]

    def __getattr__(self, name):
        if name not in MADE:
            raise AttributeError(name)
        if callable(MADE[name]) and name not in self.KEPT:
            torch.manual_seed(0)
            self.KEPT[name] = MADE[name](self)
        return self.KEPT[name]

    KEPT = {}  # noqa: RUF012

    def file(self, name, content=b""):
        """A file of these bytes, of that image, or of what torch.save writes."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Image.Image):
            content.save(path)
        else:
            path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        return str(path)

    def saved(self, name="plain.pt", model=None, **settings):
        """A checkpoint as trainings leave it."""
        facts = {"settings": {"job": {"dataset": "photo-digits", "size": 0} | settings, "classes": [*"0123456789"]}}
        model = model or (self.plain if name == "plain.pt" else attach(self.saved(), "tame"))
        keep(self.home / name, checkpoints.facts(model) | facts)
        return str(self.home / name)

    def damaged(self, path, at=0.6, cut=False):
        """The file with 200 bytes zeroed, as a bad copy leaves it, or cut short there."""
        content = bytearray(Path(path).read_bytes())
        start = int(len(content) * at)
        assert any(content[start : start + 200])
        content[start : None if cut else start + 200] = b"" if cut else bytes(200)
        Path(path).write_bytes(content)
        return path

    def folder(self, *more, classes=("cat", "dog"), count=4):
        """A folder of photos by class, with further files (name, bytes or image)."""
        for k, name in enumerate(classes):
            for i in range(count):
                noise = np.random.default_rng((k, i)).integers(0, 255, (40, 40, 3), np.uint8)
                self.file(f"photos/{name}/{name}{i}.jpg", Image.fromarray(noise))
        for name, content in more:
            self.file(f"photos/{name}", content)
        return str(self.home / "photos")

    def read(self, root, split="train", **options):
        """All pixels of a folder of photos."""
        images = datasets.load("folder", split, **{"root": root, "size": 32} | options)
        return images.pixels(range(len(images)))

    def photo(self, image):
        """A photo, as it is read."""
        return photos.read_photo(image if isinstance(image, str) else self.file("x.png", image), 32)

    def listed(self, *lines, **options):
        """The pixels of a list file."""
        return self.read(self.folder(), list_file=self.file("list.txt", "\n".join(lines).encode()), **options)

    def notebook(self, settings=b"", parameters=PARAMETERS, tag="parameters", content=None):
        """A project with one notebook, and its file in the profile `smoke`."""
        cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": [tag]})]
        content = content or nbformat.writes(nbformat.v4.new_notebook(cells=cells)).encode()
        self.file("notebooks/01_toy.ipynb", content)
        self.file("notebooks/profiles/smoke/01_toy.yaml", settings)

    def prepare(self, settings=b"", overrides=None, name="01_toy", profile="smoke", **options):
        """A checked run of that notebook."""
        self.notebook(settings, **options)
        return run.prepare(name, profile, overrides)

    def score(self, explainers=None, images=None, path=None, **options):
        """Scores, by default of TAME on six images."""
        explainers = {"tame": self.tame} if explainers is None else explainers
        return scoring.score(explainers, self.images if images is None else images, path, **options)

    def train(self, device=None, lr=0.1, **job):
        """A training of one epoch."""
        recipe = Recipe(epochs=1, batch_size=8, milestones=(), lr=lr)
        job = Job("plain", "resnet-8", recipe=recipe, **job or {"train_count": 16, "validation_count": 16})
        return jobs.train(job, device=device)

    def convert(self, content, method="abn"):
        """The authors' weights, converted."""
        return convert.convert(self.file("a.pth", content), self.home / "out", method, "resnet-8")


def failing(name, number):
    """The system refuses a call: `number` is why."""
    return mock.patch(name, side_effect=OSError(number, os.strerror(number)))


def under(context, call):
    """What a call gives within a context."""
    with context:
        return call()


def BY_RISE(p):
    """The right maps of two classes by RISE."""
    return p.rise(p.pixels, [0, 1])


def BY_GRAD(p):
    """The right maps of two classes by Grad-CAM."""
    return p.grad(p.pixels, [0, 1])


def broken(name, method="grad-cam", **options):
    """An explainer of a network with NaN among its weights."""
    network = small()
    torch.nn.init.constant_(network.get_parameter(name), NAN)
    make = attach if method == "tame" else base
    return make(freeze(network, size=32), method, **options)


REFUSED = [  # kind, word that the sentence holds, try
    # names and options
    ("method with an underscore", "'lfi_cam'", lambda p: new("lfi_cam", "resnet-20", 10)),
    ("backbone without its hyphen", "'resnet20'", lambda p: new("abn", "resnet20", 10)),
    ("backbone of no such depth", "resnet-21", lambda p: new("abn", "resnet-21", 10)),
    ("option misspelt", "'dropot'", lambda p: new("plain", "wrn-10-1", 10, dropot=0.1)),
    ("weights of torchvision misspelt", "'DEFUALT'", lambda p: new("plain", "resnet18", 10, weights="DEFUALT")),
    ("one class", "num_classes", lambda p: new("plain", "resnet-8", 1)),
    ("classes as text", "num_classes", lambda p: new("plain", "resnet-8", "10")),
    ("two means", "mean", lambda p: new("plain", "resnet-8", 10, mean=(0.5, 0.5))),
    ("std of zero", "std", lambda p: new("plain", "resnet-8", 10, std=0)),
    ("std as text", "std", lambda p: new("plain", "resnet-8", 10, std="imagenet")),
    ("explainer misspelt", "'tam'", lambda p: attach(p.net, "tam")),
    ("a training-free method attached", "'grad-cam'", lambda p: attach(p.net, "grad-cam")),
    ("a trained method as a baseline", "'tame'", lambda p: base(p.net, "tame")),
    ("baseline without its hyphen", "'gradcam'", lambda p: base(p.net, "gradcam")),
    ("attention of a network without", "tokens", lambda p: base(p.net, "chefer")),
    ("layer misspelt", "'thrid'", lambda p: attach(p.net, "tame", ["thrid"])),
    ("layers as text", "'third'", lambda p: attach(p.net, "tame", "third")),
    ("a layer twice", "first", lambda p: attach(p.net, "tame", ["first", "first"])),
    ("two layers for L-CAM", "2", lambda p: attach(p.net, "l-cam-img", ["first", "third"])),
    ("option of TAME misspelt", "'aera'", lambda p: attach(p.net, "tame", aera=2.0)),
    ("weight of a loss as text", "area", lambda p: attach(p.net, "tame", area="2")),
    ("weight of a loss negative", "area", lambda p: attach(p.net, "tame", area=-2.0)),
    ("weight of a loss NaN", "variation", lambda p: attach(p.net, "tame", variation=NAN)),
    ("choice of TAME misspelt", "'all'", lambda p: attach(p.net, "tame", masks="all")),
    ("L-CAM of feature maps on tokens", "l-cam-fm", lambda p: attach(p.vit.classifier, "l-cam-fm")),
    ("layer of a baseline by number", "3", lambda p: base(p.net, "grad-cam", 3)),
    ("no classifier", "rise", lambda p: base(None, "rise")),
    ("no masks", "masks", lambda p: base(p.net, "rise", masks=0)),
    ("keep of zero", "keep", lambda p: base(p.net, "rise", keep=0)),
    ("keep as text", "keep", lambda p: base(p.net, "rise", keep="half")),
    ("seed as text", "seed", lambda p: base(p.net, "rise", masks=8, seed="one")),
    ("own map of a foreign network", "own", lambda p: base(p.net, "own")),
    ("classifier misspelt", "'resnet5'", lambda p: find("resnet5", "random")),
    ("classifier of timm", "timm", lambda p: find("timm/resnet5")),
    ("weights of no such name", "'IMAGENET1K_V9'", lambda p: find("resnet18", "IMAGENET1K_V9")),
    ("weights in no file", "nowhere.pth", lambda p: find("resnet18", "nowhere.pth")),
    ("weights in an empty file", "w.pth", lambda p: find("resnet18", p.file("w.pth"))),
    ("weights in an empty safetensors", "w.safetensors", lambda p: find("resnet18", p.file("w.safetensors"))),
    ("weights of another network", "w.pth", lambda p: find("resnet18", p.file("w.pth", small().state_dict()))),
    # networks
    ("a network of one class", "Small", lambda p: freeze(small(1), size=32)),
    ("5 outputs with 2 names", "classes", lambda p: freeze(small(), size=32, classes=("a", "b"))),
    ("a name for a network", "str", lambda p: freeze("resnet18")),
    ("a function that gives no scores", "Function", lambda p: base(lambda x: x, "rise")),
    ("a class of networks", "Small", lambda p: freeze(networks.Small)),
    ("a network of two outputs", "Pair", lambda p: freeze(Pair(), size=32)),
    ("a network of one output", "regression", lambda p: freeze(small(1), size=32)),
    ("outputs misspelt", "'label'", lambda p: freeze(small(), size=32, outputs="label")),
    (
        "scores of a regression",
        "score=",
        lambda p: p.score({"rise": base(freeze(small(1), outputs="regression"), "rise")}),
    ),
    ("a target that is one number", "one score an image", lambda p: p.grad(p.pixels, lambda y: y.sum())),
    ("a target that is NaN", "finite", lambda p: p.grad(p.pixels, lambda y: y[:, 0] * NAN)),
    ("a target misspelt", "'margins'", lambda p: p.grad(p.pixels, "margins")),
    ("a network that is no classifier", "Conv2d", lambda p: freeze(nn.Conv2d(3, 8, 3), size=32)),
    ("a network of another image size", "Flat", lambda p: freeze(Flat(), size=64)),
    ("a network and size 0", "size", lambda p: freeze(small(), size=0)),
    ("a network and size as text", "size", lambda p: freeze(small(), size="32")),
    ("TAME without layers", "Flat", lambda p: attach(freeze(Flat(), size=32), "tame")),
    ("Grad-CAM without layers", "layer", lambda p: base(freeze(Flat(), size=32), "grad-cam")),
    ("frozen with another mean", "mean", lambda p: freeze(p.net, mean=0)),
    ("a forward under no_grad", "Held", lambda p: base(freeze(Held(), size=32), "grad-cam")(p.pixels)),
    ("NaN weights, Grad-CAM", "finite", lambda p: broken("fc.weight")(p.pixels)),
    ("NaN weights, TAME", "finite", lambda p: broken("first.0.weight", "tame")(p.pixels)),
    ("NaN weights, RISE", "finite", lambda p: broken("fc.weight", "rise", masks=8)(p.pixels)),
    ("NaN weights, a photo", "finite", lambda p: photos.explain_photo(broken("fc.weight"), p.pixels[0])),
    ("NaN weights, scores", "finite", lambda p: p.score({"g": broken("fc.weight")})),
    ("a ViT and pixels of another size", "32", lambda p: p.vit(p.pixels[:, :, :16, :16])),
    ("Flat and pixels of another size", "64", lambda p: base(freeze(Flat(), size=32), "rise", masks=8)(NOISE_64)),
    ("a ViT and pixels not square", "32", lambda p: p.vit(p.pixels.repeat(1, 1, 1, 2))),
    ("pixels without height", "(2, 3, 0, 32)", lambda p: p.tame(p.pixels[:, :, :0])),
    ("a photo as uint8", "photo", lambda p: photos.explain_photo(p.grad, (p.pixels[0] * 255).byte())),
    ("a photo of 0..255", "[0, 1]", lambda p: photos.explain_photo(p.grad, p.pixels[0] * 255)),
    ("a photo as a batch", "photo", lambda p: photos.explain_photo(p.grad, p.pixels)),
    ("a photo and class 7 of 5", "7", lambda p: photos.explain_photo(p.grad, p.pixels[0], [7])),
    ("a photo and no explainer", "explain", lambda p: photos.explain_photo(p.net, p.pixels[0])),
    ("authors' weights of another model", "missing", lambda p: lficam.load_authors(p.plain, {"a": torch.zeros(1)})),
    ("authors' weights as a path", "str", lambda p: lficam.load_authors(p.plain, "best.pth")),
    ("authors' weights of a network", "Small", lambda p: lficam.load_authors(small(), {"a": torch.zeros(1)})),
    # checkpoints
    ("no checkpoint", "nowhere.pt", lambda p: load("nowhere.pt")),
    ("a folder as a checkpoint", "runs", lambda p: load(Path(p.file("runs/x.txt")).parent)),
    ("an empty checkpoint", "x.pt", lambda p: load(p.file("x.pt"))),
    ("a checkpoint cut short", "plain.pt", lambda p: load(p.damaged(p.saved(), 0.9, cut=True))),
    ("a checkpoint with zeros in the middle", "plain.pt", lambda p: load(p.damaged(p.saved()))),
    ("a checkpoint that holds code", "x.pt", lambda p: load(p.file("x.pt", {"model": Code(), "card": {}}))),
    ("weights that hold code", "x.pth", lambda p: find("resnet18", p.file("x.pth", {"model": Code()}))),
    ("a text file as a checkpoint", "x.pt", lambda p: load(p.file("x.pt", b"epoch,loss\n1,2\n"))),
    ("weights as a checkpoint", "x.pt", lambda p: load(p.file("x.pt", small().state_dict()))),
    ("safetensors of something else", "x.safetensors", lambda p: load(p.file("x.safetensors", TENSORS))),
    ("a checkpoint of an unknown method", "x.pt", lambda p: load(p.file("x.pt", {"model": {}, "card": CARD}))),
    ("a checkpoint without its card", "x.pt", lambda p: load(p.file("x.pt", {"model": {}, "card": {}}))),
    ("an explainer as a classifier", "tame.pt", lambda p: find(p.saved("tame.pt"))),
    ("an explainer without its classifier", "plain.pt", lambda p: load((p.saved("tame.pt"), os.unlink("plain.pt"))[0])),
    ("an explainer on another classifier", "tame.pt", lambda p: load(p.saved("tame.pt"), classifier=p.lfi)),
    ("an explainer on other strides", "tame.pt", lambda p: strided(p)),
    ("resumed as another model", "x.pt", lambda p: resume(p.abn, None, Path(p.saved("x.pt", p.plain)), "cpu")),
    ("the authors' weights of another method", "abn", lambda p: p.convert(p.plain.state_dict())),
    ("the authors' weights that hold code", "a.pth", lambda p: p.convert({"state_dict": Code()})),
    ("a full disk, a checkpoint", "space", lambda p: under(failing("os.fsync", FULL), p.saved)),
    ("a folder that may not be written", "denied", lambda p: under(failing("pathlib.Path.mkdir", DENIED), p.saved)),
    ("a file where a folder is expected", "x.txt", lambda p: keep(p.file("x.txt") + "/best.pt", {})),
    # data
    ("data set misspelt", "'photo_digits'", lambda p: datasets.load("photo_digits", "train")),
    ("split misspelt", "'testing'", lambda p: datasets.load("photo-digits", "testing")),
    ("count of zero", "count", lambda p: datasets.load("photo-digits", "test", count=0)),
    ("size huge", "10000", lambda p: datasets.load("photo-digits", "test", size=10000)),
    ("size of CIFAR", "64", lambda p: datasets.load("cifar10", "test", size=64)),
    ("CIFAR that is not there", "cifar10", lambda p: datasets.load("cifar10", "test")),
    ("a list for built-in data", "photo-digits", lambda p: datasets.load("photo-digits", "test", list_file="x.txt")),
    ("batches of zero", "batch_size", lambda p: datasets.batches(p.images, 0)),
    ("no root", "data-root", lambda p: datasets.load("folder", "train")),
    ("a folder that is not there", "nowhere", lambda p: p.read("nowhere")),
    ("a file as a folder", "x.jpg", lambda p: p.read(p.file("x.jpg"))),
    ("an empty folder", "empty", lambda p: p.read(p.home / "empty" if (p.home / "empty").mkdir() is None else 0)),
    ("photos without class folders", "cat", lambda p: p.read(p.folder() + "/cat")),
    ("one class folder", "cat", lambda p: p.train(dataset="folder", data_root=p.folder(classes=["cat"]), size=32)),
    ("an empty class folder", "bird", lambda p: p.read(p.folder(("bird/readme.txt", b"soon")))),
    ("a class of two photos", "'cat'", lambda p: p.read(p.folder(count=2))),
    ("a class that train lacks", "bird", lambda p: split(p)),
    ("ImageNet elsewhere", "val", lambda p: datasets.load("imagenet", "test", root=p.folder())),
    ("a broken link in a class folder", "gone.jpg", lambda p: p.read(linked(p.folder(), "cat/gone.jpg"))),
    ("a photo of no bytes", "x.jpg", lambda p: p.read(p.folder(("cat/x.jpg", b"")))),
    ("text called .jpg", "x.jpg", lambda p: p.read(p.folder(("cat/x.jpg", b"not a photo")))),
    ("a photo cut short", "x.jpg", lambda p: p.photo(p.damaged(p.file("x.jpg", SHOT), cut=True))),
    (
        "a photo that may not be read",
        "x.jpg",
        lambda p: under(failing("PIL.Image.open", DENIED), lambda: p.photo("x.jpg")),
    ),
    ("a list that is not there", "nowhere.txt", lambda p: p.read(p.folder(), list_file="nowhere.txt")),
    ("an empty list", "list.txt", lambda p: p.listed()),
    ("a list with a missing file", "list.txt:2", lambda p: p.listed("cat/cat0.jpg 0", "cat/cat9.jpg 0")),
    ("a list without labels", "list.txt:1", lambda p: p.listed("cat/cat0.jpg")),
    ("a list with a negative label", "list.txt:1", lambda p: p.listed("cat/cat0.jpg -1")),
    ("a list with a label beyond the classes", "list.txt:1", lambda p: p.listed("cat/cat0.jpg 9", num_classes=3)),
    ("a list with a bare name of two folders", "same.jpg", lambda p: doubled(p)),
    ("a list that is a photo", "cat0.jpg", lambda p: p.read(p.folder(), list_file="photos/cat/cat0.jpg")),
    # pixels and labels of one's own
    ("own pixels of 0..255", "[0, 1]", lambda p: own(p.pixels * 255, [0, 1])),
    ("own pixels as int64", "int64", lambda p: own((p.pixels * 255).long(), [0, 1])),
    ("own pixels with channels last", "(2, 32, 32, 3)", lambda p: own(p.pixels.permute(0, 2, 3, 1), [0, 1])),
    ("own pixels as a path", "pixels", lambda p: own("photos", [0, 1])),
    ("own labels of another length", "labels", lambda p: own(p.pixels, [0, 1, 2])),
    ("own labels negative", "-1", lambda p: own(p.pixels, [0, -1])),
    ("own labels as names", "labels", lambda p: own(p.pixels, ["cat", "dog"])),
    ("own labels beyond the names", "labels", lambda p: own(p.pixels, [0, 2], ["cat", "dog"])),
    ("own mean of two numbers", "mean", lambda p: own(p.pixels, [0, 1], mean=(0.5, 0.5))),
    ("own pad negative", "pad", lambda p: own(p.pixels, [0, 1], pad=-1)),
    # scores
    ("no explainers", "explainer", lambda p: p.score({})),
    ("explainers as a list", "list", lambda p: p.score([p.tame])),
    ("two classifiers", "2", lambda p: p.score({"a": p.tame, "b": base(small(seed=1), "grad-cam")})),
    ("controls alone", "classifier", lambda p: p.score({"centre": base(None, "centre")})),
    ("the name of a method for an explainer", "grad-cam", lambda p: p.score({"tame": p.tame, "x": "grad-cam"})),
    ("a class for an explainer", "Explainer", lambda p: p.score({"tame": p.tame, "x": type(p.tame)})),
    ("maps of another shape", "x: ", lambda p: p.score({"tame": p.tame, "x": lambda pixels, _: pixels})),
    ("a table of another lambda", "x", lambda p: [p.score({"t": p.tame, "x": f}, path="s.csv") for f in LAMBDAS]),
    ("images as a path", "str", lambda p: p.score(images="photos")),
    ("images as a tensor", "Tensor", lambda p: p.score(images=p.pixels)),
    ("a table of other settings", "s.csv", lambda p: (p.score(path="s.csv"), p.score(path="s.csv", fractions=(0.5,)))),
    ("a table that was changed", "s.csv", lambda p: p.score(path=(p.score(path="s.csv"), p.file("s.csv", b"a"))[1])),
    ("a table on a full disk", "s.csv", lambda p: under(failing("os.fsync", FULL), lambda: p.score(path="s.csv"))),
    ("a table in a file", "x.txt", lambda p: p.score(path=p.file("x.txt") + "/s.csv")),
    ("shard out of range", "(2, 2)", lambda p: p.score(shard=(2, 2))),
    ("more shards than batches", "99", lambda p: p.score(shard=(0, 99))),
    ("fraction of zero", "fractions", lambda p: p.score(fractions=(0,))),
    ("fraction in percent", "fractions", lambda p: p.score(fractions=(100, 50, 15))),
    ("more steps than pixels", "steps", lambda p: p.score(measures=["insertion"], steps=10**5)),
    ("measure misspelt", "'deltion'", lambda p: p.score(measures=["deltion"])),
    ("precision misspelt", "'fp16'", lambda p: p.score(precision="fp16")),
    ("workers negative", "workers", lambda p: p.score(workers=-1)),
    ("inside out without masks", "exact masks", lambda p: scoring.inside_out(p.score(), "ab")),
    ("a blank of 255", "[0, 1]", lambda p: evaluation.of_blank(p.net, 32, 255)),
    ("a blank of two colours", "(1.0, 0.0, 0.0)", lambda p: evaluation.of_blank(p.net, 32, (0, 1))),
    ("a blank that is a word", "'grey'", lambda p: evaluation.of_blank(p.net, 32, "grey")),
    ("compared by no such measure", "'AD 20'", lambda p: scoring.compare(p.score(), "AD 20")),
    ("compared without a control", "none was scored", lambda p: scoring.compare(p.score(), "AD 100")),
    ("joined scores without coherency", "adcc", lambda p: combined.combinations(p.score())),
    ("a ranking of one explainer", "two explainers", lambda p: agreement.agreement(p.score())),
    ("a shard without a file", "path", lambda p: p.score(shard=(0, 2), batch_size=3)),
    ("a shard that begins anew", "fresh", lambda p: p.score(path="a.csv", shard=(0, 2), batch_size=3, fresh=True)),
    ("maps as an earlier version kept them", "d.npz", lambda p: dumps.open_dump(p.file("d.npz", b"PK"))),
    # metrics
    ("maps of another size than masks", "(2, 16, 32)", lambda p: iou(p.pixels[:, 0, ::2], p.pixels[:, 0] > 0.5)),
    ("threshold on the scale 0..255", "100", lambda p: iou(p.pixels[:, 0], p.pixels[:, 0] > 0.5, 100)),
    ("masks as floats", "float32", lambda p: iou(p.pixels[:, 0], p.pixels[:, 0])),
    ("maps with NaN", "NaN", lambda p: localisation.sparsity(p.pixels[:, 0] * NAN)),
    ("overlap of maps with NaN", "NaN", lambda p: iou(p.pixels[:, 0] * NAN, p.pixels[:, 0] > 0.5)),
    (
        "energy of negative maps",
        "negative",
        lambda p: localisation.energy_in_mask(-p.pixels[:, 0], p.pixels[:, 0] > 0.5),
    ),
    ("labels that have no logits", "7", lambda p: losses.correct(torch.rand(2, 5), torch.tensor([1, 7]))),
    ("top of no classes", "k", lambda p: losses.correct(torch.rand(2, 5), torch.tensor([1, 2]), k=0)),
    ("the top 15 of 1", "15", lambda p: faithfulness.keep_top(p.pixels[:, 0], 15)),
    ("drops of another number of images", "(3,)", lambda p: faithfulness.average_drop(torch.rand(2), torch.rand(3))),
    ("gain of logits", "probabilities", lambda p: faithfulness.average_gain(torch.ones(1) * 3, torch.ones(1) * -2)),
    ("ROAD without a pixel left", "removed", lambda p: faithfulness.road_impute(p.pixels, p.pixels[:, 0] > -1)),
    ("maps finished with channels", "(2, 3, 32, 32)", lambda p: maps.normalise_and_upsample(p.pixels, 64)),
    # trainings
    ("epochs of zero", "epochs", lambda p: Recipe(epochs=0)),
    ("epochs as text", "epochs", lambda p: Recipe(epochs="ten")),
    ("epochs as a fraction", "epochs", lambda p: Recipe(epochs=1.5)),
    ("learning rate NaN", "lr", lambda p: Recipe(lr=NAN)),
    ("learning rate as YAML reads it", "write 0.001", lambda p: Recipe(lr="1e-3")),
    ("momentum of 2", "momentum", lambda p: Recipe(momentum=2.0)),
    ("weight decay negative", "weight_decay", lambda p: Recipe(weight_decay=-1e-4)),
    ("gamma negative", "gamma", lambda p: Recipe(gamma=-0.1)),
    ("seed negative", "seed", lambda p: Recipe(seed=-1)),
    ("a recipe that the authors lack", "resnet-8", lambda p: recipes.find("authors", "abn", "cifar10", "resnet-8")),
    ("method of a job misspelt", "'lficam'", lambda p: Job("lficam", "resnet-8")),
    ("an explainer of an explainer", "tame", lambda p: Job("tame", Job("tame", Job("plain", "resnet-8")))),
    ("images to train on negative", "train_count", lambda p: Job("plain", "resnet-8", train_count=-1)),
    ("a data set as None", "dataset", lambda p: Job("plain", "resnet-8", dataset=None)),
    ("a training that diverges", "plain resnet-8", lambda p: p.train(lr=1e30)),
    ("a training on a full disk", "space", lambda p: under(failing("os.fsync", FULL), p.train)),
    ("compile misspelt", "'yes'", lambda p: jobs.train(Job("plain", "resnet-8"), compile="yes")),
    ("a device that is not there", "cuda", lambda p: p.train("cuda:7")),
    ("a device misspelt", "gpu", lambda p: p.train("gpu")),
    ("a range test of one step", "steps", lambda p: lr_range.lr_range(p.lfi, p.digits, Recipe(), steps=1)),
    # profiles and notebooks
    ("parameter misspelt", "'epohs'", lambda p: p.prepare(b"epohs: 1")),
    ("learning rate in YAML", "write 0.001", lambda p: p.prepare(b"lr: 1e-3")),
    ("parameter twice", "line 2", lambda p: p.prepare(b"lr: 0.1\nlr: 0.2")),
    ("parameter of the wrong type", "epochs", lambda p: p.prepare(b"epochs: many")),
    ("entry of the wrong type", "steps[1]", lambda p: p.prepare(b"steps: [1, x]")),
    ("tabs in YAML", "line 2", lambda p: p.prepare(b"steps:\n\t- 1")),
    ("a list as a profile", "line 1", lambda p: p.prepare(b"- lr\n- epochs")),
    ("a profile in another encoding", "01_toy.yaml", lambda p: p.prepare(b"name: \xff\xfe\x00")),
    ("a notebook without a tagged cell", "'parameters'", lambda p: p.prepare(tag="params")),
    ("a notebook that was run", "01_toy", lambda p: p.prepare(tag="injected-parameters")),
    ("a notebook that is no JSON", "01_toy", lambda p: p.prepare(content=b"x")),
    ("a parameter that is computed", "half", lambda p: p.prepare(parameters=PARAMETERS + "\nhalf = lr / 2")),
    ("notebook misspelt", "'01_tyo'", lambda p: p.prepare(name="01_tyo")),
    ("profile misspelt", "'smok'", lambda p: p.prepare(profile="smok")),
    ("a graph of no profile", "'smok'", lambda p: p.notebook() or plan.collect("smok")),
    ("a project without notebooks", "LFICAM_HOME", lambda p: run.prepare("01_train_lficam", "smoke")),
    ("an explorer without explainers", "explainer", lambda p: explore({}, p.images)),
    ("an explorer without trainings", "training", lambda p: explore()),
]

TRAIN = "train --method plain --backbone resnet-8 --count 16 --epochs 1 --batch-size 8"
TAME = "train --method tame --classifier {plain} --count 16 --epochs 1 --batch-size 8"
SCORE = "score --classifier {plain} --dataset photo-digits --count 4"
COMMANDS = [  # word that the sentence holds, command line
    ("'evaluate'", "evalute {plain}"),
    ("'--epochs'", "train --method plain --backbone resnet-8 --epocs 3"),
    ("--method", "train --backbone resnet-8"),
    ("--classifier", "train --method plain --backbone resnet-8 --classifier resnet18"),
    ("'ten'", "train --method plain --backbone resnet-8 --epochs ten"),
    ("'resnet8'", "train --method plain --backbone resnet8"),
    ("'lfi'", "train --method lfi --backbone resnet-8"),
    ("'photodigits'", f"{TRAIN} --dataset photodigits"),
    ("count", "train --method plain --backbone resnet-8 --count 0"),
    ("size", f"{TRAIN} --size 0"),
    ("10000", "train --method plain --backbone resnet-8 --size 10000"),
    ("epochs", f"{TRAIN} --epochs 0"),
    ("batch", f"{TRAIN} --batch-size -1"),
    ("lr", f"{TRAIN} --lr nan"),
    ("--option", f"{TRAIN} --option softmax"),
    ("'softmx'", "train --method lfi-cam --backbone resnet-8 --option softmx=false"),
    ("milestones", f"{TRAIN} --milestones 5 3"),
    ("workers", f"{TRAIN} --workers -1"),
    ("--data-root", f"{TRAIN} --dataset folder"),
    ("nowhere", f"{TRAIN} --dataset folder --data-root nowhere"),
    ("photo-digits", f"{TRAIN} --authors"),
    ("best", f"{TRAIN} --compile best"),
    ("best.pt", "train --method tame --backbone resnet-8"),
    ("plain.pt", "train --method plain --classifier {plain}"),
    ("tame.pt", "train --method tame --classifier {tame}"),
    ("'layer9'", f"{TAME} --layers layer9"),
    ("start", "lr-find --method plain --backbone resnet-8 --count 16 --start 1 --end 0.1"),
    ("steps", "lr-find --method plain --backbone resnet-8 --count 16 --steps 1"),
    ("nowhere.pt", "evaluate nowhere.pt"),
    ("empty.pt", "evaluate {empty}"),
    ("tame.pt", "evaluate {tame} --count 4"),
    ("'tst'", "evaluate {plain} --split tst"),
    ("count", "evaluate {plain} --count 0"),
    ("size", "evaluate {plain} --size 0"),
    ("photo-digits-2", "evaluate {plain} --dataset photo-digits-2 --count 4"),
    ("epsilon", "evaluate {plain} --count 4 --perturbation -1"),
    ("maps.txt", "evaluate {plain} --count 4 --dump maps.txt"),
    ("nowhere.jpg", "explain nowhere.jpg --checkpoint {tame}"),
    ("no image", "explain {home} --checkpoint {tame}"),
    ("'wolf'", "explain {shot} --checkpoint {tame} --target wolf"),
    ("'99'", "explain {shot} --checkpoint {tame} --target 99"),
    ("--checkpoint", "explain {shot}"),
    ("--checkpoint", "explain {shot} --method tame --classifier {plain}"),
    ("'gradcam'", "explain {shot} --method gradcam --classifier {plain}"),
    ("--classifier", "explain {shot} --method grad-cam"),
    ("--method", "explain {shot} --checkpoint {tame} --method tame"),
    ("photo.png", "explain {shot} --checkpoint {tame} --out {shot}"),
    ("--checkpoint", "score --dataset photo-digits"),
    ("--classifier", "score --baseline grad-cam --dataset photo-digits"),
    ("'grad'", f"{SCORE} --baseline grad"),
    ("'tame'", f"{SCORE} --baseline tame"),
    ("centre", f"{SCORE} --baseline grad-cam centre centre"),
    ("plain.pt", "score --checkpoint {plain} --count 4"),
    ("'photodigit'", f"{SCORE} --baseline grad-cam --dataset photodigit"),
    ("'masks'", f"{SCORE} --baseline grad-cam --measures masks"),
    ("steps", f"{SCORE} --baseline grad-cam --steps 0"),
    ("batch", f"{SCORE} --baseline grad-cam --batch-size 0"),
    ("count", f"{SCORE} --baseline grad-cam --count 0"),
    ("size", f"{SCORE} --baseline grad-cam --size 0"),
    ("'fp16'", f"{SCORE} --baseline grad-cam --precision fp16"),
    ("3/2", f"{SCORE} --baseline grad-cam --shard 3/2"),
    ("list", f"{SCORE} --baseline grad-cam --list-file nowhere.txt"),
    ("photo.png", f"{SCORE} --baseline grad-cam --out {{shot}}"),
    ("'resnet5'", "layers resnet5"),
    ("'V9'", "layers resnet18 --weights V9"),
    ("nowhere.safetensors", "iou nowhere.safetensors nowhere.safetensors"),
    ("threshold", "iou {dump} {dump} --threshold 300"),
    ("'author'", "iou {dump} {dump} --protocol author"),
    ("size", "iou {dump} {dump} --size -1"),
    ("photo.png", "iou {shot} {shot}"),
    ("nowhere.pth", "convert nowhere.pth --method abn --backbone resnet-8"),
    ("'abm'", "convert {weights} --method abm --backbone resnet-8"),
    ("num", "convert {weights} --method plain --backbone resnet-8 --num-classes 0"),
    ("classes", "convert {weights} --method plain --backbone resnet-8 --num-classes 7"),
    ("'02_toy'", "run 02_toy --profile smoke"),
    ("'smok'", "run 01_toy --profile smok"),
    ("NAME=VALUE", "run 01_toy --profile smoke --set epochs"),
    ("write 0.001", "run 01_toy --profile smoke --set lr=1e-3"),
    ("timeout", "run 01_toy --profile smoke --timeout 0"),
    ("'smok'", "reproduce --profile smok"),
    ("--cores", "reproduce --profile smoke --cores 0"),
    ("5-1", "reproduce --profile smoke --seeds 5-1"),
    ("'0'", "reproduce --profile smoke --seeds 0"),
    ("'a'", "reproduce --profile smoke --seeds 1,a"),
    ("twice", "reproduce --profile smoke --seeds 1,2,1"),
    ("'smok'", "verify --profile smok"),
    ("smoke", "verify --profile smoke"),
    ("'smok'", "plan --profile smok"),
    ("--tflops", "plan --profile smoke --tflops 0"),
    ("--efficiency", "plan --profile smoke --tflops 1 --efficiency 30"),
    ("'smok'", "report --profile smok"),
    ("'../x'", "report --profile ../x"),
    ("smoke", "publish --profile smoke"),
    ("99999", "explore --classifier {plain} --port 99999"),
    ("tame", "explore --classifier {plain} --method tame"),
    ("size", "explore --classifier {plain} --size 1"),
    ("nowhere.pt", "explore --checkpoint nowhere.pt"),
    ("'grad'", "explore --classifier {plain} --method grad --no-browser"),
]

PIXELS = [  # kind, word that the sentence holds, made of good pixels, what may come out instead: of which pixels
    ("pixels of 0..255", "[0, 1]", lambda x: x * 255, None),
    ("pixels normalised already", "[0, 1]", lambda x: (x - 0.5) / 0.25, None),
    ("pixels with NaN", "[0, 1]", lambda x: torch.where(x > 0.9, torch.nan, x), None),
    ("pixels with infinity", "[0, 1]", lambda x: torch.where(x > 0.9, torch.inf, x), None),
    ("pixels as uint8", "uint8", lambda x: (x * 255).byte(), None),
    ("pixels as int64", "int64", lambda x: (x * 255).long(), None),
    ("pixels as numpy", "numpy", lambda x: x.numpy(), lambda x: x),
    ("pixels as a list", "list", lambda x: list(x), None),
    ("pixels as PIL", "Image", lambda x: Image.fromarray(np.uint8(x[0].permute(1, 2, 0) * 255)), None),
    ("pixels as a path", "str", lambda x: "photo.jpg", None),
    ("pixels without a batch", "(3, 32, 32)", lambda x: x[0], None),
    ("pixels in grey", "(2, 1, 32, 32)", lambda x: x[:, :1], None),
    ("pixels with alpha", "(2, 4, 32, 32)", lambda x: torch.cat([x, x[:, :1]], 1), None),
    ("pixels with channels last", "(2, 32, 32, 3)", lambda x: x.permute(0, 2, 3, 1), None),
    ("pixels as float64", "float64", lambda x: x.double(), lambda x: x),
    ("pixels as float16", "float16", lambda x: x.half(), lambda x: x.half().float()),
    ("no pixels at all", "at least one image", lambda x: x[:0], lambda x: x[:0]),
    ("pixels a rounding beyond 1", "-", lambda x: x / x.max() + 1e-7, lambda x: x / x.max() + 1e-7),
    ("pixels that want a gradient", "-", lambda x: x.clone().requires_grad_(), lambda x: x),
    ("pixels in another layout", "-", lambda x: x.to(memory_format=torch.channels_last), lambda x: x),
]
TARGETS = [  # kind, word that the sentence holds, target, what may come out instead: of which classes
    ("a target out of range", "7", [1, 7], None),
    ("a target negative", "-1", [1, -1], None),
    ("a target as floats", "1.5", [1.5, 2.0], None),
    ("a target as booleans", "True", [True, False], None),
    ("a target as names", "cat", ["cat", "dog"], None),
    ("targets of another length", "3", torch.tensor([1, 2, 3]), None),
    ("one target for all", "-", 3, [3, 3]),
    ("targets as numpy", "-", np.array([3, 1]), [3, 1]),
]

ACCEPTED = [  # kind, what comes out, what has to come out
    ("an empty profile", lambda p: p.prepare().parameters, {}),
    ("a whole number for a fraction in YAML", lambda p: p.prepare(b"lr: 1").parameters, {"lr": 1}),
    ("milestones as a list", lambda p: Recipe(milestones=[1, 2]).milestones, (1, 2)),
    ("a classifier of two classes", lambda p: freeze(small(2), size=32).num_classes, 2),
    ("GIFs in a folder of photos", lambda p: gif(p), 16),
    ("a half-transparent PNG", lambda p: p.photo(Image.new("RGBA", (40, 40))).min().item(), 1),
    ("a grey photo", lambda p: p.photo(Image.new("L", (40, 40), 255)).min().item(), 1),
    ("a photo of 1 x 3 pixels", lambda p: p.photo(Image.new("RGB", (1, 3))).shape, (3, 32, 32)),
    ("four threads share TAME", lambda p: shared(p, "tame"), lambda p: alone(p, "tame")),
    ("four threads share L-CAM", lambda p: shared(p, "l-cam-img"), lambda p: alone(p, "l-cam-img")),
    ("four threads share Grad-CAM", lambda p: shared(p, "grad-cam"), lambda p: alone(p, "grad-cam")),
    ("four threads share Score-CAM", lambda p: shared(p, "score-cam"), lambda p: alone(p, "score-cam")),
    ("a network in half precision", lambda p: or_refused(p, small().half, "float16"), BY_RISE),
    ("a network in bfloat16", lambda p: or_refused(p, small().bfloat16, "bfloat16"), BY_RISE),
    ("a traced network", lambda p: or_refused(p, lambda: traced(p), "jit"), BY_RISE),
    ("a network in nn.DataParallel", lambda p: or_refused(p, lambda: nn.DataParallel(small()), "-"), BY_RISE),
    ("frozen in inference mode", lambda p: under(INFERENCE, lambda: or_refused(p, small, "inference_mode")), BY_RISE),
    ("Grad-CAM in inference mode", lambda p: under(INFERENCE, partial(p.grad, p.pixels, [0, 1])), BY_GRAD),
    ("Grad-CAM under autocast", lambda p: under(COARSE, partial(p.grad, p.pixels, [0, 1])), BY_GRAD),
    ("RISE under autocast", lambda p: under(COARSE, partial(p.rise, p.pixels, [0, 1])), BY_RISE),
    (
        "ties in bfloat16",
        lambda p: losses.correct(torch.ones(2, 2).bfloat16(), torch.tensor([0, 1])).sum().item(),
        1,
    ),
    ("scores of what was randomised", lambda p: randomised(p), True),
    ("a ViT randomised", lambda p: trained_parts(), []),
    ("a table that is finished", lambda p: [len(p.score(path="s.csv")) for _ in range(2)], [6, 6]),
    ("a full disk, the earlier file", lambda p: earlier(p), b"earlier"),
    ("no GPU by CUDA_VISIBLE_DEVICES", lambda p: under(mock.patch.dict(os.environ, NO_GPU), gpu_names), []),
]


def linked(root, name):
    """The folder with a link to nowhere."""
    (Path(root) / name).symlink_to("nowhere.jpg")
    return root


def split(p):
    """Folders train and val, of which the second has a class more."""
    photo = Image.new("RGB", (40, 40))
    for name in ("train/cat", "train/dog", "val/cat", "val/dog", "val/bird"):
        p.file(f"both/{name}/x.png", photo)
    return p.read(p.home / "both", "validation")


def doubled(p):
    """A list with a bare name that two class folders have."""
    photo = Image.new("RGB", (40, 40))
    root = p.folder(("cat/same.jpg", photo), ("dog/same.jpg", photo))
    return p.read(root, list_file=p.file("list.txt", b"same.jpg 1"))


def strided(p):
    """A checkpoint of TAME opened on a classifier of the same weights, whose strides differ."""
    p.saved("tame.pt", attach(freeze(small(), size=32, card={"classifier": "mine"}), "tame"))
    other = small()
    other.second[0].stride = (1, 1)
    return load(p.home / "tame.pt", classifier=freeze(other, size=32))


def gif(p):
    """How many of the photos are read where half are GIFs."""
    photo = Image.fromarray(np.random.default_rng(5).integers(0, 255, (40, 40), np.uint8))
    root = p.folder(*((f"{name}/{i}.gif", photo) for name in ("cat", "dog") for i in range(4)))
    return sum(len(p.read(root, split)) for split in datasets.SPLITS)


def explainer_of(p, method):
    net = p.net  # made here, before the seed
    torch.manual_seed(0)
    return attach(net, method) if method in ("tame", "l-cam-img") else base(net, method)


def shared(p, method):
    """Maps of many photos by one explainer in four threads."""
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        return torch.stack([found.detach() for found in pool.map(explainer_of(p, method), NOISE)])


def alone(p, method):
    """The same, one after the other."""
    return torch.stack([explainer_of(p, method)(pixels).detach() for pixels in NOISE])


def or_refused(p, make, names):
    """The map of a class by a network; where that is refused as it should be, the right one."""
    try:
        return base(freeze(make(), size=32), "rise", masks=8)(p.pixels, [0, 1])
    except lficam.InputError as error:
        return unclear(str(error), names) or p.rise(p.pixels, [0, 1])


def traced(p):
    """A traced network, of which newer versions of torch say that they will not have them."""
    with mock.patch("warnings.warn"):
        return torch.jit.trace(small().eval(), p.pixels)


def randomised(p):
    """Whether a randomised explainer has a table of its own."""
    first, second = (p.score({"g": e}, path="scores") for e in (p.grad, evaluation.randomised(p.grad)))
    return not first.probability.equals(second.probability)


def trained_parts():
    """Parameters of a ViT that are the same after it was randomised."""
    network = networks.small_vit()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.rand_like(parameter))  # else what starts at 0 or 1 starts there again
    other = evaluation.randomised(base(freeze(network, size=32), "rise", masks=8)).classifier.network
    return [name for name, value in other.named_parameters() if torch.equal(value, network.get_parameter(name))]


def earlier(p):
    """What is under a name whose new content does not fit on the disk."""
    path = p.file("x.pt", b"earlier")
    with failing("os.fsync", FULL), contextlib.suppress(lficam.InputError):
        keep(path, {"a": 1})
    return Path(path).read_bytes()


# --- What a perfect answer is

ADVICE = re.compile(
    r"expected|did you mean|choose|near ones|for example|belongs to|\b(give|use|take|make|add|remove|replace|restore|"
    r"check|start|run|train|install|write|name|leave|set|create|free|match|score|lower|say|upsample|dump|wait|load|correct|see|convert|"
    r"needs?|must|has to)\b",
    re.I,
)
HALF = re.compile(
    r"Traceback|Errno|object at 0x|<function|<lambda>|<class '|\w(?:Error|Exception)\b|size mismatch|mat1|weights_only|"
    r"Weights only|npickl|magic number|torch\.load|torch\.Size|\bNone (?:None|with)|tensor\(|should be the same|"
    r"miniz|zip archive|: \.|invalid (?:int|float) value|\n",
)
PYTHON = re.compile(r"(?<![-\w])(classifier|size|count|root|labels|num_classes|batch_size|fresh|align)=")


def unclear(text, names):
    """What is wrong with a sentence, "" if nothing is. names: the thing that it has to name."""
    text, half = text.strip(), HALF.search(text.strip())
    wrong = {
        f"does not name {names!r}": names not in text,
        f"is of {len(text)} characters": len(text) > 300,
        "does not end as a sentence does": not text.endswith((".", "?")),
        "says not what to do": not ADVICE.search(text),
        f"has {half and half[0]!r}": half,
    }
    found = "; ".join(what for what, is_so in wrong.items() if is_so)
    return found and f"unclear: {found}: {text}"


def answer(p, call, names):
    """(result, what is wrong); of a call that succeeds "silent", which the caller judges."""
    try:
        return call(), "silent"
    except lficam.InputError as error:
        return None, unclear(str(error).replace(f"{p.home}/", ""), names)  # whose name would count as words
    except Exception as error:
        return None, f"traceback: {type(error).__name__}: {str(error)[:300]}"


def same(got, expected):
    """Whether two results are the same, tensors up to what autocast rounds."""
    got, expected = (getattr(x, "logits", x) for x in (got, expected))
    if torch.is_tensor(expected) and expected.numel():
        return got.shape == expected.shape and (got - expected).abs().max() <= 0.05 * expected.abs().max()
    return got.shape == expected.shape if torch.is_tensor(expected) else got == expected


@pytest.fixture
def p(tmp_path, monkeypatch):
    monkeypatch.setenv("LFICAM_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def rows(table, at=0):
    return {"argvalues": table, "ids": [row[at] for row in table]}


@pytest.mark.parametrize(("kind", "names", "do"), **rows(REFUSED))
def test_refused(p, kind, names, do):
    assert answer(p, lambda: do(p), names)[1] == ""
    assert not (p.home / "ran").exists()


def check_all(p, called, names, bad, instead):
    """The same for everything: refused by a sentence, or the result that good input has."""
    wrong = []
    for name, call in called.items():
        got, told = answer(p, lambda call=call: call(*bad), names)
        if got is not None and instead is not None:
            told = "" if same(got, call(*instead)) else "silent: another result"
        wrong += [f"{name}: {told}"] if told else []
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("kind", "names", "make", "good"), **rows(PIXELS))
def test_pixels(p, kind, names, make, good):
    check_all(p, p.callables, names, [make(p.pixels)], good and [good(p.pixels)])


@pytest.mark.parametrize(("kind", "names", "target", "good"), **rows(TARGETS))
def test_targets(p, kind, names, target, good):
    check_all(p, targeted(p), names, [p.pixels, target], good and [p.pixels, torch.tensor(good)])


@pytest.mark.parametrize(("kind", "do", "expected"), **rows(ACCEPTED))
def test_accepted(p, kind, do, expected):
    got, told = answer(p, lambda: do(p), "")
    assert got is not None, told or "unclear: it was refused"
    expected = expected(p) if callable(expected) else expected
    assert same(got, expected), f"silent: {got} instead of {expected}"


@pytest.mark.parametrize(("names", "line"), **rows(COMMANDS, 1))
def test_commands(p, names, line, capsys):
    p.notebook()
    makers = {
        "home": lambda: "notebooks",
        "plain": p.saved,
        "tame": lambda: p.saved("tame.pt"),
        "empty": lambda: p.file("empty.pt"),
        "weights": lambda: p.file("w.pth", p.plain.state_dict()),
        "shot": lambda: p.file("photo.png", Image.new("RGB", (40, 40))),
        "dump": lambda: str(evaluation.dump(predict(p.abn, p.digits), p.digits, p.home / "d.safetensors").path),
    }
    line = line.format(**{name: make() if name in line else "" for name, make in makers.items()})
    capsys.readouterr()
    code = 0
    with mock.patch("lficam.training.jobs.fit", side_effect=Trained), contextlib.suppress(Trained):
        try:
            code = cli.main(shlex.split(line))
        except SystemExit as left:
            code = left.code
        except Exception as error:
            pytest.fail(f"traceback: {type(error).__name__}: {str(error)[:300]}")
    printed = capsys.readouterr().err.replace(f"{p.home}/", "")
    assert code == 2, f"silent: exit code {code}"
    assert re.match("lficam: .", printed), f"unclear: not one sentence: {printed}"
    assert unclear(printed.removeprefix("lficam: "), names) == ""
    assert not PYTHON.search(printed), f"unclear: a name of Python: {printed}"


def test_the_count():
    tables = REFUSED, COMMANDS, PIXELS, TARGETS, ACCEPTED
    names = [row[1] if table is COMMANDS else row[0] for table in tables for row in table]
    assert len(names) == len(set(names)) >= 350
