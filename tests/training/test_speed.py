"""Compilation on request, with the same losses; the optimiser's kernel."""

import dataclasses
import shlex

import pytest
import torch
from networks import RECIPE, steps

import lficam
from benchmarks.fast_path import random_images
from lficam.cli import main
from lficam.errors import InputError
from lficam.models import checkpoints
from lficam.training import loop, speed
from lficam.training.jobs import Job, train
from lficam.training.recipes import Recipe


def model_of(method="lfi-cam"):
    torch.manual_seed(0)
    return lficam.create(method, "resnet-8", 10).to(memory_format=torch.channels_last).train()


def losses_of(model, images, recipe, loss=None):
    found = steps(model, loop.sgd(model, recipe), images, recipe, loss)
    return found, {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor itself
def test_compiled_losses_and_names_are_those_of_the_plain_steps():
    recipe = dataclasses.replace(RECIPE, lr=1e-4)  # a large rate would make any rounding grow
    images = random_images(70)  # the last batch has 6 images
    expected, state = losses_of(model_of(), images, recipe)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model = model_of()
    found, _ = losses_of(model, images, recipe, speed.compiled(model, recipe))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert model.state_dict().keys() == state.keys()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # the smaller batch compiled nothing anew


@pytest.fixture
def stand_in(monkeypatch):
    """torch.compile that gives the loss itself, and counts its calls; it fails at those that it is told."""
    told = {"fail": (), "calls": 0}

    def compile(loss, **_):
        def call(pixels, labels):
            told["calls"] += 1
            if told["calls"] in told["fail"]:
                raise RuntimeError("no kernel for this\nand a long story")
            return loss(pixels, labels)

        return call

    monkeypatch.setattr(torch, "compile", compile)
    return told


COMMAND = "train --method plain --backbone resnet-8 --count 72 --batch-size 16 --epochs 2"


@pytest.mark.usefixtures("home")
def test_the_command_compiles_on_request_alone(stand_in, capsys):
    assert main(shlex.split(f"{COMMAND} --compile")) == 0
    assert stand_in["calls"] == 8  # four full batches an epoch
    best = capsys.readouterr().out.split()[-1]
    assert checkpoints.read(best)["settings"]["compile"] is True
    assert main(shlex.split(f"{COMMAND} --fresh")) == 0
    assert stand_in["calls"] == 8
    assert checkpoints.read(best)["settings"]["compile"] is False


@pytest.mark.usefixtures("home")
def test_what_cannot_be_compiled_is_one_sentence(stand_in, capsys):
    stand_in["fail"] = (1,)
    assert main(shlex.split(f"{COMMAND} --compile")) == 2
    assert capsys.readouterr().err == (
        "lficam: compile: failed (RuntimeError: no kernel for this): train without it.\n"
    )


def test_a_later_error_is_not_the_compilers(stand_in):
    stand_in["fail"] = (2,)
    model = model_of("plain")
    with pytest.raises(RuntimeError, match="no kernel for this"):
        losses_of(model, random_images(32), RECIPE, speed.compiled(model, RECIPE))


@pytest.mark.parametrize(
    ("recipe", "method", "why"),
    [
        (dataclasses.replace(RECIPE, deterministic=True), "plain", "the recipe is deterministic"),
        (RECIPE, "tame", "an explainer hooks into its classifier"),
    ],
)
@pytest.mark.usefixtures("stand_in")
def test_what_is_never_compiled(recipe, method, why, capsys):
    model = model_of("plain")
    model = lficam.attach(model, method) if method == "tame" else model
    assert loop.loss_of(model, recipe, True, True) is None
    assert capsys.readouterr().out == f"compile: {why}, so the training is not compiled.\n"


@pytest.mark.usefixtures("home")
def test_compile_is_yes_or_no():
    with pytest.raises(InputError, match="compile: expected True or False, got 'auto'"):
        train(Job("plain", "resnet-8", recipe=Recipe(epochs=1)), compile="auto")


# --- the optimiser's kernel belongs to the device, not to the checkpoint


def test_resume_takes_the_devices_kernel(tmp_path):
    model = model_of("plain")
    optimizer = loop.sgd(model, RECIPE)
    for group in optimizer.param_groups:
        group["fused"] = True  # as on a GPU
    history = [{"epoch": 1, "validation_accuracy": 0.5}]
    checkpoints.keep(model, optimizer, history, tmp_path, None)
    other = model_of("plain")
    resumed = loop.sgd(other, RECIPE)
    assert checkpoints.resume(other, resumed, tmp_path / "last.pt", "cpu") == history
    assert [group["fused"] for group in resumed.param_groups] == [None, None]


def test_a_fused_kernel_that_refuses_is_left(capsys):
    """Whether in the first or in the second group: each is updated once."""

    class Refusing(torch.optim.SGD):
        def step(self):
            for group in self.param_groups:
                if group["fused"] and group["refuses"]:
                    raise RuntimeError("fused kernel: strides differ\nmore")
                for p in group["params"]:
                    p.data -= group["lr"] * p.grad

    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [{"params": [p], "refuses": i == 1} for i, p in enumerate(parameters)]
    optimizer = Refusing(groups, lr=0.1, fused=True)
    for p in parameters:
        p.grad = torch.ones(1)
    loop.update(optimizer)
    assert [p.item() for p in parameters] == pytest.approx([-0.1] * 3)
    assert [group["fused"] for group in optimizer.param_groups] == [None] * 3
    assert capsys.readouterr().out == (
        "The optimiser goes on without its fused kernel (fused kernel: strides differ).\n"
    )
