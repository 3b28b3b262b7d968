"""Compilation: decided by measurement, the same losses, and a training that survives whatever goes wrong."""

import dataclasses
import shlex

import pytest
import torch

import lficam
from benchmarks.checks import RECIPE, random_images, steps, trainable
from benchmarks.waits import Waits
from lficam import checkpoints, loop, resident, speed
from lficam.cli import main
from lficam.errors import InputError
from lficam.recipes import Recipe
from lficam.training import Job, train


def model_of(method="lfi-cam"):
    torch.manual_seed(0)
    return lficam.create(method, "resnet-8", 10).to(memory_format=torch.channels_last).train()


def losses_of(model, images, pace, recipe=RECIPE):
    found = steps(model, loop.sgd(model, recipe), images, recipe, pace)
    return found, {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor itself
def test_compiled_losses_and_names_are_those_of_the_plain_steps():
    recipe = dataclasses.replace(RECIPE, lr=1e-4)  # a large rate would make any rounding grow
    images = random_images(70)  # the last batch has 6 images
    plain = model_of()
    expected, state = losses_of(plain, images, speed.Pace(plain, recipe, "off", 4, 5), recipe)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model = model_of()
    pace = speed.Pace(model, recipe, "on", 4, 5)
    assert pace.loss is not None
    found = steps(model, loop.sgd(model, recipe), images, recipe, full_only(pace, recipe.batch_size))
    assert pace.loss is not None, "it was given up"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert model.state_dict().keys() == state.keys()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # the smaller batch compiled nothing anew


def full_only(pace, size):
    """A pace that is told which batches are full, as `train_epoch` tells it."""

    class Told:
        def take(self, step):
            return pace.take(step, full=len(step.args[3]) == size)

    return Told()


@pytest.fixture
def stand_in(monkeypatch):
    """torch.compile that gives the loss itself, slow or failing as told; few steps measured, by a clock of our own."""
    told = {"slow": 0.0, "fail": (), "calls": 0, "clock": 0.0}

    def compile(loss, **_):
        def call(pixels, labels):
            told["calls"] += 1
            told["clock"] += told["slow"]
            found = loss(pixels, labels)
            if told["calls"] in told["fail"]:
                raise RuntimeError("no kernel for this\nand a long story")
            return found

        return call

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(speed.Pace, "_now", lambda _: told["clock"])
    for name, value in {"AUTO": ("cpu",), "LEAST": 0, "WARM": 2, "WINDOW": 2}.items():
        monkeypatch.setattr(speed, name, value)
    return told


@pytest.mark.parametrize(
    ("plain", "compiled", "line"),
    [
        (0.5, 0.25, "kept; 250.0 ms a step compiled and 500.0 ms otherwise, 4 s against 8 s to go"),
        (0.25, 0.5, "not kept; 500.0 ms a step compiled and 250.0 ms otherwise, 8 s against 4 s to go"),
    ],
)
def test_the_faster_way_is_kept(stand_in, capsys, plain, compiled, line):
    """24 steps: two that warm up, two that are timed, three that compile, two that are timed, and 15 as decided."""
    stand_in["slow"] = compiled
    model = model_of("plain")
    pace, real = speed.Pace(model, RECIPE, "auto", 12, 24), model.loss

    def loss(pixels, labels):
        stand_in["clock"] += 0 if pace.loss else plain
        return real(pixels, labels)

    model.loss = loss
    losses_of(model, random_images(24 * 16), pace)
    kept = compiled < plain
    assert (pace.loss is not None) == kept
    assert stand_in["calls"] == (24 - 4 if kept else 3 + 2)
    assert capsys.readouterr().out == f"compile: {line}; compiling took {round(3 * compiled)} s.\n"


def test_measuring_changes_no_bit(stand_in):
    images = random_images(12 * 16)
    models = model_of(), model_of()
    losses, states = zip(
        losses_of(models[0], images, speed.Pace(models[0], RECIPE, "off", 12, 12)),
        losses_of(models[1], images, speed.Pace(models[1], RECIPE, "auto", 12, 12)),
        strict=True,
    )
    assert stand_in["calls"] >= 5
    assert torch.equal(*losses)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("failing", [1, 2, 3, 6])
def test_a_failure_goes_on_without(stand_in, capsys, failing):
    """In the first steps even running statistics and dropout are as if nothing had been tried."""
    stand_in["fail"] = (failing,)
    images = random_images(8 * 16)
    models = model_of(), model_of()
    expected, state = losses_of(models[0], images, speed.Pace(models[0], RECIPE, "off", 8, 8))
    pace = speed.Pace(models[1], RECIPE, "on", 8, 8)
    found, other = losses_of(models[1], images, pace)
    assert pace.loss is None
    assert capsys.readouterr().out.splitlines()[-1] == (
        "compile: failed (RuntimeError: no kernel for this), the training goes on without it."
    )
    assert torch.equal(found, expected)
    if failing <= 3:
        assert all(torch.equal(state[name], other[name]) for name in state)


def test_compile_itself_fails(monkeypatch, capsys):
    def missing(*_, **__):
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(torch, "compile", missing)
    model = model_of("plain")
    pace = speed.Pace(model, RECIPE, "on", 4, 4)
    losses_of(model, random_images(64), pace)
    assert pace.loss is None
    assert "no compiler found" in capsys.readouterr().out


def test_errors_of_plain_steps_are_not_swallowed():
    def broken(_):
        raise InputError("wrong images")

    with pytest.raises(InputError, match="wrong images"):
        speed.Pace(model_of("plain"), RECIPE, "off", 4, 4).take(broken)


def test_little_to_do_is_not_compiled(stand_in, monkeypatch):
    monkeypatch.setattr(speed, "LEAST", 600)
    model = model_of("plain")
    losses_of(model, random_images(8 * 16), speed.Pace(model, RECIPE, "auto", 8, 8))
    assert not stand_in["calls"]


def test_what_lies_between_epochs_is_not_measured(stand_in, capsys):
    """A window that the end of an epoch cuts starts anew, and a smaller batch is never compiled."""
    pace, ways = speed.Pace(model_of("plain"), RECIPE, "auto", 3, 40), []

    def step(loss):
        stand_in["clock"] += 0.01 if loss else 0.02
        ways.append(loss is not None)

    for _ in range(8):
        pace.start_epoch()
        stand_in["clock"] += 100  # validation, checkpoints
        for full in (True, True, True, False):
            pace.take(step, full)
    assert pace.left == 8
    assert not any(ways[3::4])
    assert ways[-4:] == [True, True, True, False]
    assert capsys.readouterr().out.startswith("compile: kept; 10.0 ms a step compiled and 20.0 ms otherwise")


@pytest.mark.parametrize(
    ("mode", "recipe", "method", "line"),
    [
        ("on", dataclasses.replace(RECIPE, deterministic=True), "plain", "the recipe is deterministic"),
        ("on", RECIPE, "tame", "an explainer hooks into its classifier"),
        ("auto", dataclasses.replace(RECIPE, deterministic=True), "plain", ""),
        ("auto", RECIPE, "tame", ""),
        ("off", RECIPE, "plain", ""),
    ],
)
@pytest.mark.usefixtures("stand_in")
def test_what_is_never_compiled(mode, recipe, method, line, capsys):
    model = model_of("plain")
    model = lficam.attach(model, method) if method == "tame" else model
    pace = speed.Pace(model, recipe, mode, 100, 100)
    for _ in range(50):
        pace.take(lambda loss: loss)
        assert pace.loss is None
    said = capsys.readouterr().out
    assert said == (f"compile: {line}, so the training is not compiled.\n" if line else "")


@pytest.mark.usefixtures("home")
def test_unknown_mode_is_one_sentence():
    with pytest.raises(InputError, match="Unknown compile 'yes': choose one of: auto, on, off"):
        train(Job("plain", "resnet-8", train_count=32, validation_count=60, recipe=Recipe(epochs=1)), compile="yes")
    assert main(["train", "--method", "plain", "--backbone", "resnet-8", "--compile", "yes"]) == 2


@pytest.mark.usefixtures("home")
def test_the_command_compiles_on_request(stand_in, capsys):
    command = "train --method plain --backbone resnet-8 --count 64 --batch-size 16 --epochs 2 --compile on"
    assert main(shlex.split(command)) == 0
    assert stand_in["calls"] == 8
    assert "compile: the training's steps are compiled" in capsys.readouterr().out


# --- nothing in a step makes a GPU wait


@pytest.mark.parametrize("method", ["plain", "abn", "lfi-cam", "l-cam-fm", "l-cam-img", "tame", "t-tame"])
def test_no_step_waits(method):
    model, images = trainable(torch.device("cpu"))[method], resident.place(random_images(20), "cpu")
    with Waits() as seen:
        steps(model.train(), loop.sgd(model, RECIPE), images)
    assert seen.found == []


@pytest.mark.parametrize(
    ("call", "operation"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: bool((x > 0).all()), "_local_scalar_dense"),
        (lambda x: x[x > 0], "index"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x.unique(), "_unique2"),
        (lambda x: torch.as_tensor(1.0, dtype=x.dtype), "lift_fresh"),
    ],
)
def test_what_waits_is_found(call, operation):
    with Waits() as seen:
        call(torch.rand(3))
    assert operation in seen.found


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
