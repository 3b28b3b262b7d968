"""The training loop: what fails keeps what was there, torch is left as it was, compilation, the optimiser's kernel."""

import dataclasses
import errno
import os
import shlex

import numpy as np
import pytest
import torch
from networks import RECIPE, steps

import lficam
from benchmarks.fast_path import random_images
from lficam.cli import main
from lficam.errors import InputError
from lficam.models import checkpoints
from lficam.training import loop
from lficam.training.jobs import Job, train
from lficam.training.loop import fit
from lficam.training.lr_range import lr_range


def model_of(method="plain"):
    torch.manual_seed(0)
    return lficam.create(method, "resnet-8", 10).to(memory_format=torch.channels_last).train()


def recipe_of(**changes):
    return dataclasses.replace(RECIPE, **{"epochs": 1} | changes)


@pytest.mark.parametrize(
    ("change", "method", "sentence"),
    [
        ({"lr": 1e30}, "plain", r"diverged in epoch 2 .*lower lr.*the checkpoint of epoch 1 is kept"),
        ({}, "abn", r"holds another model \(plain resnet-8 10 classes\).*abn resnet-8"),
        ({}, "full disk", r"Cannot write .*No space left on device; the earlier file is unchanged"),
    ],
)
def test_what_fails_keeps_the_last_checkpoint(change, method, sentence, tmp_path, monkeypatch):
    """The disk fills up in epoch 2, say: one sentence, and epoch 1 can be resumed from."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    images = random_images(40)
    fit(model_of(), images, images, recipe_of(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if method == "full disk":
        monkeypatch.setattr(os, "fsync", full)
    model = model_of("abn" if method == "abn" else "plain")
    with pytest.raises(InputError, match=sentence):
        fit(model, images, images, recipe_of(epochs=3, **change), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert before.keys() == {"best.pt", "last.pt", "log.csv"}


def state_of_torch():
    """All that is global and that a training sets."""
    switches = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    switches += torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    switches += torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    return switches, torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        lambda model, images, recipe, home: fit(model, images, images, recipe, home / "run"),
        lambda model, images, recipe, _: lr_range(model, images, recipe, steps=2),
        lambda _, __, recipe, ___: train(Job("plain", "resnet-8", train_count=16, validation_count=8, recipe=recipe)),
    ],
    ids=["fit", "lr_range", "train"],
)
def test_torch_is_left_as_it_was(call, deterministic, home, monkeypatch):
    """A user who wants determinism and TF32 has both again, and draws on as if nothing had been drawn."""
    images, model = random_images(16), model_of()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", deterministic)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = state_of_torch()
        call(model, images, recipe_of(batch_size=8, deterministic=deterministic), home)
        assert state_of_torch() == before
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_cannot_be_deterministic_is_one_sentence(tmp_path):
    model, images = model_of(), random_images(8)

    def loss(pixels, labels):
        torch.zeros(1).put_(torch.tensor([0]), torch.ones(1))
        return type(model).loss(model, pixels, labels)

    model.loss = loss
    fit(model, images, images, recipe_of(), tmp_path / "may vary")
    with pytest.raises(InputError, match=r"put_ has no deterministic implementation .* deterministic=False"):
        fit(model, images, images, recipe_of(deterministic=True), tmp_path / "may not")


def test_tensorboard_on_request(tmp_path):
    images = random_images(16)
    fit(model_of(), images, images, recipe_of(), tmp_path, tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events*"))


# --- AdamW


def test_adamw_decays_all_parameters_and_cycles_its_first_beta():
    """Without gradients a step is the decay alone: by 1 - rate x weight decay."""
    recipe, model = recipe_of(optimiser="adamw", schedule="one-cycle", lr=0.1, weight_decay=0.5), model_of()
    optimizer, betas = loop.optimiser(model, recipe), []
    for step in range(10):
        loop.set_rates(optimizer, *recipe.rates(step, 10))
        assert all(
            group["amsgrad"] and group["betas"] == (group["betas"][0], 0.999) for group in optimizer.param_groups
        )
        betas += [group["betas"][0] for group in optimizer.param_groups]
    assert (betas[0], min(betas), betas[-1]) == pytest.approx((0.95, 0.85, 0.95))
    assert betas[::2] == betas[1::2]
    before = [p.detach().clone() for p in model.parameters()]
    loop.set_rates(optimizer, 0.1, 0.9)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    loop.update(optimizer)
    for p, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), 0.95 * old)


def test_adamw_cut_and_resumed_has_the_bits_of_uncut(tmp_path):
    images, recipe = random_images(40), recipe_of(epochs=2, optimiser="adamw", schedule="one-cycle", momentum=0.9)
    fit(uncut := model_of(), images, images, recipe, tmp_path / "uncut")
    keep = checkpoints.keep

    def cut(*values):
        keep(*values)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "keep", cut)
        with pytest.raises(KeyboardInterrupt):
            fit(model_of(), images, images, recipe, tmp_path / "cut")
    fit(resumed := model_of(), images, images, recipe, tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(uncut.parameters(), resumed.parameters(), strict=True))
    sgd = model_of()
    fit(sgd, images, images, dataclasses.replace(recipe, optimiser="sgd"), tmp_path / "sgd")
    assert not torch.equal(next(sgd.parameters()), next(uncut.parameters()))


# --- compiled


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor itself
def test_compiled_losses_and_names_are_those_of_the_plain_steps():
    recipe = recipe_of(lr=1e-4)  # a large rate would make any rounding grow
    images, models = random_images(70), [model_of("lfi-cam") for _ in range(2)]  # the last batch has 6 images
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    losses = [None, loop.compiled_loss(models[1], recipe)]
    expected, found = (
        steps(m, loop.optimiser(m, recipe), images, recipe, loss) for m, loss in zip(models, losses, strict=True)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
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


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_the_command_compiles_on_request_alone(stand_in, capsys):
    command = "train --method plain --backbone resnet-8 --count 40 --batch-size 16 --epochs 1"
    assert main(shlex.split(f"{command} --compile")) == 0
    assert stand_in["calls"] == 2  # the full batches
    best = capsys.readouterr().out.split()[-1]
    assert checkpoints.read(best)["settings"]["compile"] is True
    assert main(shlex.split(f"{command} --fresh")) == 0
    assert stand_in["calls"] == 2
    assert checkpoints.read(best)["settings"]["compile"] is False
    stand_in["fail"] = (3,)
    assert main(shlex.split(f"{command} --compile --fresh")) == 2
    error = capsys.readouterr().err
    assert error == "lficam: compile: failed (RuntimeError: no kernel for this): train without it.\n"


def test_a_later_error_is_not_the_compilers(stand_in):
    stand_in["fail"] = (2,)
    model = model_of()
    with pytest.raises(RuntimeError, match="no kernel for this"):
        steps(model, loop.optimiser(model, RECIPE), random_images(32), RECIPE, loop.compiled_loss(model, RECIPE))


@pytest.mark.parametrize(
    ("changes", "method", "why"),
    [
        ({"deterministic": True}, "plain", "the recipe is deterministic"),
        ({}, "tame", "an explainer hooks into its classifier"),
    ],
)
@pytest.mark.usefixtures("stand_in")
def test_what_is_never_compiled(changes, method, why, capsys):
    model = lficam.attach(model_of(), method) if method == "tame" else model_of()
    assert loop.compiled_loss(model, recipe_of(**changes)) is None
    assert capsys.readouterr().out == f"compile: {why}, so the training is not compiled.\n"


# --- the optimiser's kernel belongs to the device, not to the checkpoint


def test_resume_takes_the_devices_kernel(tmp_path):
    optimizers = []
    for fused in (True, None):  # as on a GPU, and on a CPU
        model = model_of()
        optimizers.append(loop.optimiser(model, RECIPE))
        for group in optimizers[-1].param_groups:
            group["fused"] = fused
        history = checkpoints.resume(model, optimizers[-1], tmp_path / "last.pt", "cpu")
        checkpoints.keep(model, optimizers[-1], [*history, {"epoch": 1, "validation_accuracy": 0.5}], tmp_path, None)
    assert len(history) == 1
    assert [group["fused"] for group in optimizers[1].param_groups] == [None, None]


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
    told = "The optimiser goes on without its fused kernel (fused kernel: strides differ).\n"
    assert capsys.readouterr().out == told
