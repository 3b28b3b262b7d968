"""What tells one table of scores from another: explainers, classifiers and functions by their content."""

import collections
import copy
import dataclasses
import enum
import fractions
import functools
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Cheap
from processes import begin, finish
from torch import nn

import lficam
from lficam.data import datasets
from lficam.errors import InputError
from lficam.explainers.frozen import freeze
from lficam.metrics import scoring
from lficam.metrics.configuration import configuration, describe, function, identity, sha256
from lficam.metrics.evaluation import randomised
from lficam.metrics.measures import Plan

FACTOR = 2


def helper(pixels):
    return pixels.mean(1)


def helped(pixels, target=None):  # noqa: ARG001
    return FACTOR * helper(pixels)


def power(exponent):
    return lambda pixels, target: pixels.mean(1) ** exponent  # noqa: ARG005


class Holds:
    def __init__(self, value):
        self.value = value


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Scaled(nn.Module):
    def __init__(self, factor, hidden=1):
        super().__init__()
        self.factor, self._hidden = factor, hidden
        self.register_buffer("kept", torch.tensor(float(hidden)), persistent=False)

    def forward(self, pixels, target=None):  # noqa: ARG002
        return self.factor * pixels.mean(1)

    @property
    def double(self):
        return 2 * self.factor


@dataclasses.dataclass
class Settings:
    value: object


def edited(kind, **body):
    """The class with other code under the same name."""
    return type(kind.__name__, (kind,), {"__qualname__": kind.__qualname__, "__module__": kind.__module__, **body})


Colour = enum.Enum("Colour", ["RED", "BLUE"])
PAIRS = {
    "constants": [lambda p, t: p.mean(1) * 2, lambda p, t: p.mean(1) * 3],  # noqa: ARG005
    "names": [lambda p, t: p.amax(1), lambda p, t: p.amin(1)],  # noqa: ARG005
    "defaults": [lambda p, t=None, k=1: k * p, lambda p, t=None, k=2: k * p],  # noqa: ARG005
    "inner": [lambda p, t: (lambda: p + 1)(), lambda p, t: (lambda: p + 2)()],  # noqa: ARG005
    "closures": [power(1), power(2)],
    "arguments": [functools.partial(helped, target=np.int64(1)), functools.partial(helped, target=np.int64(2))],
    "methods": [Scaled(2).forward, Scaled(3).forward],
    "modules": [Scaled(2), Scaled(3)],
    "hidden": [Scaled(2, 3), Scaled(2, 4)],
    "properties": [Scaled(2), edited(Scaled, double=property(lambda self: 3 * self.factor))(2)],
    "code": [Holds(1), edited(Holds, __call__=lambda self, p, t: p)(1)],  # noqa: ARG005
    "slots": [Slots(1), Slots(2)],
} | {
    f"held {number}": [Holds(a), Holds(b)]
    for number, (a, b) in enumerate(
        [
            (np.arange(3), np.arange(1, 4)),
            (np.zeros((2, 3)), np.zeros((3, 2))),
            (np.array([None, 1]), np.array([None, 2])),
            (np.int64(1), np.int64(2)),
            (np.random.default_rng(1), np.random.default_rng(2)),
            (b"a", b"b"),
            (Path("a"), Path("b")),
            (Colour.RED, Colour.BLUE),
            ({"red", "blue"}, {"red", "green"}),
            (fractions.Fraction(1, 2), fractions.Fraction(1, 3)),
            (collections.deque([1]), collections.deque([2])),
            (Settings(np.ones(2)), Settings(np.zeros(2))),
            (Settings(power(1)), Settings(power(2))),
            (torch.float16, torch.bfloat16),
            (F.relu, F.gelu),
            (torch.relu, torch.sigmoid),
            (nn.Linear(2, 2), nn.Linear(2, 2)),
        ]
    )
}


@pytest.mark.parametrize("name", PAIRS)
def test_explainers_are_told_apart_by_their_content(name):
    one, other = (json.loads(json.dumps(describe(explainer))) for explainer in PAIRS[name])
    assert one != other
    assert one == json.loads(json.dumps(describe(PAIRS[name][0])))


@pytest.mark.slow
def test_explainers_are_the_same_in_every_process(tmp_path):
    """In one with other hashes of texts, say, and so another order of sets."""
    assert finish(begin(write_descriptions, tmp_path / "there.json")) == 0
    write_descriptions(tmp_path / "here.json")
    assert (tmp_path / "there.json").read_text() == (tmp_path / "here.json").read_text()


def write_descriptions(path):
    pairs = [pair for name, pair in PAIRS.items() if name != "held 16"]  # random weights
    path.write_text(json.dumps([describe(explainer) for pair in pairs for explainer in pair]))


def test_what_a_function_uses_belongs_to_it(monkeypatch):
    found = [describe(helped)]
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "FACTOR", 3)
        found.append(describe(helped))
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "helper", lambda pixels: pixels.amax(1))
        found.append(describe(helped))
    assert len({str(entry) for entry in found}) == 3
    assert describe(helped) == found[0]


@pytest.mark.parametrize("value", [threading.Lock(), iter(x for x in "a"), power(threading.Lock())])
def test_what_has_no_content_is_refused(value):
    with pytest.raises(InputError, match=r"A (lock|generator) of an explainer cannot be .* score without a path"):
        describe(Holds(value))


@pytest.mark.parametrize("method", ["grad-cam", "l-cam-img"])
def test_an_explainer_inside_of_another(method):
    """What it counts is no part of it; its classifier is."""
    make = lficam.baseline if method == "grad-cam" else functools.partial(lficam.attach, layers=["conv"])
    inner = [make(freeze(Cheap(), size=32), method) for _ in range(2)]
    if method != "grad-cam":
        inner[1].load_state_dict(inner[0].state_dict())
    found = [describe(Holds([one])) for one in inner]
    inner[0](torch.rand(2, 3, 32, 32))
    assert describe(Holds([inner[0]])) == found[0] != found[1]


def test_functions_that_call_each_other():
    found = describe(there)
    assert found == describe(there)
    assert found != describe(back)
    assert describe(lambda p, t: threading.Lock())["code"]  # noqa: ARG005 - what it makes is no part of it


def there():
    return back()


def back():
    return there() + 1


def test_classifiers_are_told_apart():
    """By weights, of which `randomised` makes others, and by what they compute of them: here strides."""
    torch.manual_seed(1)
    explainer = lficam.baseline(freeze(Cheap(), size=32), "rise", masks=4)
    before = identity(explainer.classifier)
    assert identity(randomised(explainer).classifier) != before
    other = copy.deepcopy(explainer)
    other.classifier.network.conv.stride = (1, 1)
    after = identity(other.classifier)
    assert after["sha256"] == before["sha256"]
    assert after["function"] != before["function"]
    with pytest.raises(InputError, match="explainers of one classifier, got 2"):
        scoring.score({"one": explainer, "two": other}, datasets.load("photo-digits", "test", count=2))


def test_weights_of_a_mechanism_belong_to_it():
    classifier = freeze(Cheap(), size=32)
    one, other = (lficam.attach(classifier, "l-cam-img") for _ in range(2))
    assert describe(one) != describe(other)
    other.load_state_dict(one.state_dict())
    assert describe(one) == describe(other)


def test_tables_of_earlier_versions_are_found():
    """Names of classes and of what they hold are part of the hash: renamed, no table written before would be found."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    classifier = freeze(network, size=8, mean=0.5, std=0.25)
    explainers = {name: lficam.baseline(classifier, name) for name in ("grad-cam", "centre")}
    explainers["l-cam-img"] = lficam.attach(classifier, "l-cam-img", ["0"])
    for value in [*network.parameters(), *explainers["l-cam-img"].mechanism.parameters()]:
        nn.init.constant_(value, 0.5)
    images = lficam.images(torch.zeros(4, 3, 16, 16), labels=[0, 1, 2, 0])
    config = configuration(explainers, classifier, images, Plan(), batch_size=4, shard=(0, 1))
    assert sha256(config | {"version": ""}) == "2517571a019e8bd03f0c7d1c4ce5799bccac1a72827bb328cf0299c586af6a1a"


def test_the_function_of_a_network():
    """Not where it stands, nor what only training looks at."""
    network, other = Cheap(), Cheap()
    assert function(network) == function(other)
    other.last.bias.data += 1
    other.train()
    assert function(network) == function(other)
    assert function(network) != function(edited(Cheap, forward=lambda self, x: self.last(x))())
    norms = [nn.Sequential(nn.BatchNorm2d(3)) for _ in range(3)]
    norms[1][0].track_running_stats = False  # as an explainer that trains with batch statistics leaves it
    norms[2][0].eps = 1e-3
    assert function(norms[0]) == function(norms[1]) != function(norms[2])
