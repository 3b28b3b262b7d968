"""What runs on a GPU, on the stand-in of standin.py: the values of the CPU, no mixed devices, and where the host waits.

A wait stops the host until the device has done all that was asked of it; between waits the device never runs dry.
"""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from networks import small, small_swin, small_vit
from standin import DEVICE, Standin
from torch.utils._python_dispatch import _disable_current_modes

import lficam
from lficam.data import datasets
from lficam.data.datasets import place
from lficam.explainers.frozen import freeze
from lficam.lab.graph import plan
from lficam.lab.photos import explain_photo
from lficam.metrics import conventions, evaluation, measures, scoring
from lficam.training import jobs, loop, sweep
from lficam.training.recipes import Recipe

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CLASSIFIERS = ("plain", "abn", "lfi-cam")
EXPLAINERS = ("l-cam-fm", "l-cam-img", "tame", "t-tame")
BASELINES = ("grad-cam", "grad-cam++", "layer-cam", "hires-cam", "finer-cam", "ablation-cam", "score-cam", "opti-cam")
BASELINES += ("rise", "own", "random", "centre")


@pytest.fixture
def standin():
    with Standin() as mode:
        yield mode


@pytest.fixture(scope="module")
def images():
    return datasets.load("photo-digits", "test", count=12)


def frozen():
    """A classifier that is sure of something."""
    torch.manual_seed(3)
    classifier = freeze(lficam.create("plain", "resnet-8", 10))
    with torch.no_grad():
        classifier.network.backbone.fc.weight *= 60
    return classifier


def made(method, classifier=None):
    """A classifier or an explainer of that name, always with the same weights."""
    torch.manual_seed(2)
    if method in CLASSIFIERS:
        return lficam.create(method, "resnet-8", 10)
    classifier = frozen() if classifier is None else classifier
    torch.manual_seed(4)
    if method in EXPLAINERS:
        return lficam.attach(classifier, method)
    return lficam.baseline(classifier, method, **({"masks": 12} if method == "rise" else {}))


def on(device, explainer):
    """The explainer with its classifier on the device, in place."""
    explainer.classifier.to(device)
    return explainer.to(device) if isinstance(explainer, torch.nn.Module) else explainer


def test_the_stand_in_is_like_a_gpu(standin):  # noqa: ARG001
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device="standin", requires_grad=True)
    assert x.device == torch.arange(3, device=DEVICE).device == torch.zeros(1).to(DEVICE).device == DEVICE
    (2 * x**2).sum().backward()
    assert x.grad.tolist() == [[4, 8], [12, 16]]
    x, one = x.detach(), torch.ones(2, 2)
    view = x[0]
    view += 1
    assert x.cpu().tolist() == [[2, 3], [3, 4]]
    assert copy.deepcopy(x).device == x.to(torch.bfloat16).device == DEVICE
    for mixed in (lambda: x + one, lambda: one @ x, lambda: torch.cat([x, one]), lambda: one[x[0].long()]):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises((TypeError, RuntimeError), match="numpy"):
        x.numpy()
    assert (x + torch.tensor(1.0)).sum().item() == 16  # a single value may join
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(DEVICE)
    with torch.autocast("standin", torch.bfloat16):
        found = network(torch.rand(2, 3, 8, 8, device=DEVICE))
    found.float().mean().backward()
    assert (found.dtype, network[0].weight.grad.dtype) == (torch.bfloat16, torch.float32)


def test_the_stand_in_counts_what_the_host_waits_for(standin):
    x, at = torch.arange(4.0, device=DEVICE), torch.tensor([0, 1])
    standin.waits.clear()
    x[x > 0] = 0
    torch.where(x > 0, x, 1).argmax()
    torch.ones(4).to(DEVICE, non_blocking=True)
    assert not standin.waits
    waits = [lambda: x.sum().item(), lambda: bool((x > 0).any()), lambda: x.tolist(), lambda: x.cpu(), lambda: x[x > 0]]
    waits += [lambda: x.nonzero(), lambda: x[at], lambda: at.to(DEVICE), lambda: torch.tensor(1.0, device=DEVICE)]
    for wait in waits:
        standin.waits.clear()
        wait()
        assert standin.waits.total() == 1, standin.waits
    with pytest.raises(lficam.InputError):
        measures.localisation.sparsity(x.view(1, 2, 2) * torch.nan)
    assert "nonzero" in {what for what, _ in standin.waits}


# --- training


@pytest.mark.parametrize("method", [*CLASSIFIERS, *EXPLAINERS])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_step_does_not_wait(standin, images, method, precision):
    """Two steps of each: the parameters are those of the CPU, and the host only sends work."""
    recipe, found = Recipe(1, batch_size=6, lr=0.1, precision=precision, milestones=()), {}
    for device in ("cpu", DEVICE):
        model = made(method).to(device, memory_format=torch.channels_last).train()
        optimizer, sums = loop.optimiser(model, recipe), 0
        torch.manual_seed(0)
        for pixels, labels, _ in datasets.batches(place(images, device), 6, augment=True, shuffle=True, device=device):
            standin.waits.clear()
            loop.set_rates(optimizer, 0.1, 0.9)
            terms, hits = loop.train_step(model, optimizer, pixels, labels, recipe)
            sums = sums + loop.summed(terms, hits)
            assert not standin.waits, standin.waits
        found[str(device)] = [sums, *(p.detach() for p in model.parameters() if p.requires_grad)]
    assert all(value.device == DEVICE for value in found[str(DEVICE)])
    close = {"rtol": 1e-4, "atol": 1e-5} if precision == "float32" else {"rtol": 0.1, "atol": 0.05}
    for ours, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(theirs.cpu(), ours, **close)


def test_an_epoch_waits_for_its_copies_alone(standin, images, tmp_path):
    """Order and draws of an epoch go to the device at once, and its sums come back: as many waits at any length."""
    recipe, waits = Recipe(1, batch_size=2, lr=0.01, milestones=()), {}
    for count in (4, 12):
        model, held = made("lfi-cam").to(DEVICE), place(images.subset(range(count)), DEVICE)
        optimizer = loop.optimiser(model, recipe)
        standin.waits.clear()
        loop.train_epoch(model, optimizer, held, recipe, 0, 0, loop.Progress(count, "training"))
        waits[count] = standin.waits.total()
    assert waits[12] == waits[4] <= 2, standin.waits
    (row,) = loop.fit(made("abn"), images, images, recipe, tmp_path, device=DEVICE)
    assert row["train_loss"] > 0
    assert lficam.load(tmp_path / "best.pt")(images.pixels([0])).logits.shape == (1, 10)


# --- explaining


@pytest.mark.parametrize("target", [None, "labels"])
@pytest.mark.parametrize("method", [*EXPLAINERS, *BASELINES])
def test_maps_are_those_of_the_cpu(standin, images, method, target):  # noqa: ARG001
    pixels, target = images.pixels(range(4)), target and images.labels[:4]
    explainer = made(method)
    with torch.no_grad():
        wanted = explainer(pixels, target)
        on(DEVICE, explainer)
        here, elsewhere = (explainer(pixels.to(place), target) for place in (DEVICE, "cpu"))
    assert here.device == elsewhere.device == DEVICE
    torch.testing.assert_close(here.cpu(), wanted)
    torch.testing.assert_close(elsewhere.cpu(), wanted)


@pytest.mark.parametrize("network", [small, small_vit, small_swin])
def test_maps_of_any_network(standin, network):  # noqa: ARG001
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for method in ("grad-cam", "ablation-cam", "tame"):
        explainer = made(method, freeze(network(), size=32))
        with torch.no_grad():
            wanted, found = explainer(pixels), on(DEVICE, explainer)(pixels.to(DEVICE))
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-5)


def test_photos(standin, images):  # noqa: ARG001
    for method in ("lfi-cam", "plain", "tame", "grad-cam"):
        model = made(method)
        (wanted,) = explain_photo(model, images.pixels([0])[0])
        model = model.to(DEVICE) if isinstance(model, torch.nn.Module) else on(DEVICE, model)
        for device in ("cpu", DEVICE):
            (found,) = explain_photo(model, images.pixels([0])[0].to(device))
            assert found.index == wanted.index
            assert found.after == pytest.approx(wanted.after, rel=1e-4)
            torch.testing.assert_close(found.masked, wanted.masked)


# --- evaluation


def test_evaluation(standin, images, tmp_path):
    for method in CLASSIFIERS:
        model = made(method)
        wanted = evaluation.predict(model, images, 6)
        hits = evaluation.perturbed_accuracy(model, images, 0.02, batch_size=6)
        model.to(DEVICE)
        standin.waits.clear()
        found = evaluation.predict(model, images, 6)
        assert standin.waits.total() <= 2 * 4  # of two batches: labels there, and labels, logits and maps back
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs)
        assert torch.equal(evaluation.perturbed_accuracy(model, images, 0.02, batch_size=6), hits)
        dump = evaluation.dump(found, images, tmp_path / f"{method}.safetensors")
        torch.testing.assert_close(torch.from_numpy(dump.read(range(12))), wanted.maps)
    assert evaluation.lficam_steps(model, images.pixels([0]))["weights"].device.type == "cpu"


@pytest.mark.parametrize("method", ["tame", "grad-cam"])
def test_random_weights_and_conventions(standin, images, method):
    explainer, pixels = made(method), images.pixels([0])
    wanted = conventions.scores(explainer, images, batch_size=6)
    other = evaluation.randomised(explainer)(pixels).detach()
    on(DEVICE, explainer)
    torch.testing.assert_close(evaluation.randomised(explainer)(pixels).detach().cpu(), other)
    standin.waits.clear()
    found = conventions.scores(explainer, images, batch_size=6)
    np.testing.assert_allclose(found[["clean", "masked"]], wanted[["clean", "masked"]], atol=1e-5)
    if method == "tame":
        assert standin.waits.total() <= 2 * 2, standin.waits  # of two batches: labels there and results back


# --- scores


def measured(standin, names, images, **options):
    """The waits of one scored batch on the stand-in, whose values are asserted to be those of the CPU."""
    classifier, plan = frozen(), measures.Plan(**options)
    explainers = {name: made(name, classifier) for name in names}
    pixels, masks = images.pixels(range(len(images))), images.masks
    with _disable_current_modes():
        wanted = measures.measure(plan, explainers, classifier, pixels, images.ids, masks)
    explainers = {name: on(DEVICE, explainer) for name, explainer in explainers.items()}
    pixels, masks = pixels.to(DEVICE), masks.to(DEVICE)
    standin.waits.clear()
    columns = measures.measure(plan, explainers, classifier, pixels, images.ids, masks)
    waits = standin.waits.total()
    for name in names:
        assert list(columns[name]) == list(wanted[name])
        for key, value in wanted[name].items():
            torch.testing.assert_close(columns[name][key], value, rtol=1e-4, atol=1e-5)
    return waits


TRAINED = (["tame"], ["tame", "l-cam-img", "t-tame"])


@pytest.mark.parametrize(
    "what", [("masking", "single-deletion"), ("masking", "overlap", "sparsity"), ("insertion", "deletion")]
)
def test_a_scored_batch_waits_once(standin, images, what):
    """Whatever is measured of however many trained explainers."""
    for names in TRAINED:
        assert measured(standin, names, images, measures=what, steps=4) == 1, standin.waits


def test_roads_of_all_explainers_are_one_solve(standin, monkeypatch):
    """Conjugate gradients are looked at every ten iterations; three explainers need no more looks than the hardest."""
    monkeypatch.setattr(measures, "ROAD", (30, 70))
    few = datasets.load("photo-digits", "test", count=2, size=16)
    one, three = (measured(standin, names, few, measures=("road",)) for names in TRAINED)
    assert three <= one + 1 <= 9, standin.waits


def test_masked_images_are_explained_again(standin, images):
    """A trained explainer, too, is called as by a user then: pixels, classes and maps are looked at."""
    what = {"measures": ("adcc", "adcc-normalised", "arcc")}
    assert measured(standin, ["tame", "centre"], images.subset(range(2)), **what) <= 1 + 2 * 5 + 12, standin.waits


def test_explainers_without_training_are_waited_for_by_their_own_checks(standin, images):
    """Of pixels, classes and maps."""
    for names in (["grad-cam"], ["grad-cam", "layer-cam", "own"]):
        assert measured(standin, names, images, measures=("masking",)) <= 1 + 3 * len(names), standin.waits


def test_scores_are_those_of_the_cpu(standin, images):  # noqa: ARG001
    few, classifier = images.subset(range(6)), frozen()
    explainers = {name: made(name, classifier) for name in ("tame", "grad-cam", "rise", "random")}
    options = {"measures": ("masking", "overlap", "sparsity", "insertion"), "steps": 2, "batch_size": 4}
    wanted = scoring.score(explainers, few, **options)
    for explainer in explainers.values():
        on(DEVICE, explainer)
    found = scoring.score(explainers, few, **options)
    assert list(found) == list(wanted)
    numbers = wanted.columns.drop(["explainer", "image"])
    np.testing.assert_allclose(found[numbers], wanted[numbers], atol=1e-4)
    scenes = scoring.side_by_side(explainers["tame"], few, 2, right=False)
    assert {part.device.type for part in scenes} == {"cpu"}
    assert (scoring.cost(explainers, few, count=2, repeats=1).milliseconds > 0).all()


@pytest.mark.slow
def test_a_notebook(standin, home, monkeypatch):  # noqa: ARG001
    """Every cell but the exercises, trainings in this process included, of the smoke profile made smaller still."""

    def trained_here(todo, parallel, options):  # noqa: ARG001
        for _, job in todo:
            jobs.train(job, **options)
        return []

    for module in (loop, sweep, jobs):
        monkeypatch.setattr(module, "best_device", lambda: DEVICE)
    monkeypatch.setattr(sweep, "_run", trained_here)
    monkeypatch.setattr("lficam.plots.pictures.save", lambda *_: None)
    (home / "data").symlink_to(NOTEBOOKS.parent / "data")
    settings = yaml.safe_load((NOTEBOOKS / "profiles" / "smoke" / "04_tame.yaml").read_text())
    settings |= {"train_count": 10, "validation_count": 10, "test_count": 10, "output": str(home / "out")}
    settings |= {"layer_sets": [], "baselines": ["centre"], "scenes": 2}
    code = [cell for cell in plan.cells(NOTEBOOKS / "04_tame.ipynb") if "answer = None" not in cell]
    first, *rest = (cell for cell in code if "exercises" not in cell)
    space = {"display": lambda _: None}
    exec(first, space)
    assert not settings.keys() - space
    space |= settings
    for cell in rest:
        exec(cell, space)
    for model in (next(iter(space["runs"].values())).model, space["model"]):
        assert next(model.mechanism.parameters()).device == model.classifier.normalise.mean.device == DEVICE
    assert json.loads((home / "out" / "record.json").read_text())["results"]["scores"]
