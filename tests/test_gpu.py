"""Does a GPU compute what the CPU and the authors' code do? `python -m pytest -m gpu -rs tests/test_gpu.py` asks it.

What is cheap, and no other test asks of the CPU, runs there too.
"""

import dataclasses

import pytest
import torch
from networks import RECIPE, TinyNet, golden_images, golden_outputs, steps

import lficam
from benchmarks.fast_path import random_images
from lficam.data import datasets, sources
from lficam.losses import classification_loss
from lficam.models import checkpoints
from lficam.numerics import exact
from lficam.training import loop

pytestmark = pytest.mark.filterwarnings("default")  # drivers and compilers warn of what nobody here can mend
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
CLASSIFIERS = ("plain", "abn", "lfi-cam")
SHALLOW = ("lfi_cifar_resnet20", "abn_cifar_resnet20")
DEEP = ("lfi_cifar_resnet110_fill", "abn_cifar_resnet110_fill")
on_the_cpu_too = pytest.mark.parametrize("device", ["cpu", CUDA], indirect=True)


@pytest.fixture(params=[CUDA])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("it needs a GPU, and torch.cuda finds none")
    return torch.device(request.param)


def apart(a, b):
    """The largest absolute difference."""
    return (a.detach().cpu().double() - b.detach().cpu().double()).abs().max().item()


def made(method, device):
    """A small classifier, or an explainer of one, always with the same weights."""
    torch.manual_seed(0)
    model = lficam.create(method if method in CLASSIFIERS else "plain", "resnet-8", 10)
    if method not in CLASSIFIERS:
        model = lficam.attach(model, method, **({"masks": "top"} if method == "t-tame" else {}))
    return model.to(device, memory_format=loop.memory_format(device, 32)).train()


def losses(method, device, recipe=RECIPE, fused=None, compiled=False):
    """Of four steps, always from the same weights."""
    model = made(method, device)
    optimizer = loop.optimiser(model, recipe)
    for group in optimizer.param_groups if fused is not None else ():
        group["fused"] = fused
    loss = loop.compiled_loss(model, recipe) if compiled else None
    return steps(model, optimizer, datasets.place(random_images(64), device), recipe, loss)


def authors(golden, name, device):
    """A model with the authors' weights, and what their code gave."""
    reference, method = golden(name), "abn" if "abn" in name else "lfi-cam"
    model = lficam.create(method, "resnet-110" if name in DEEP else "resnet-20", 10, mean=0, std=1)
    return lficam.load_authors(model, reference["state_dict"]).to(device), reference


@torch.no_grad()
@pytest.mark.parametrize("name", [*SHALLOW, *DEEP])
def test_outputs_are_the_authors(device, golden, name):
    """Those of ResNet-110 are ill-conditioned: in float32 the authors' own error is the measure."""
    model, reference = authors(golden, name, device)
    pixels = reference["x"].to(device)
    with exact():
        single = model.eval()(pixels)
        double = model.double()(pixels.double())
    for what, key in (("logits", "logits"), ("maps", "att")):
        truth = reference["eval64"][key]
        allowed = 5 * apart(reference["eval"][key], truth) if name in DEEP else 5e-4
        assert apart(getattr(single, what), truth) <= allowed
        assert apart(getattr(double, what), truth) <= 1e-8


@pytest.mark.parametrize("name", SHALLOW)
def test_first_steps_are_the_authors(device, golden, name):
    model, reference = authors(golden, name, device)
    pixels, labels, found = reference["x"].to(device), reference["y"].to(device), []
    with exact():
        optimizer = loop.optimiser(model.train(), dataclasses.replace(RECIPE, lr=0.1, momentum=0.9, weight_decay=1e-4))
        for _ in range(3):
            found.append(classification_loss(model(pixels), labels)["total"])
            optimizer.zero_grad()
            found[-1].backward()
            optimizer.step()
    assert [loss.item() for loss in found] == pytest.approx(reference["sgd_losses"][:3], abs=2e-3)


def test_the_first_loss_of_tame_is_the_authors(device):
    reference, network = golden_outputs("tame_tinynet"), TinyNet()
    network.load_state_dict(reference["backbone_state"], strict=False)
    explainer = lficam.attach(network, "tame", ["s1", "s2", "s3"], classifier_mode="eval")
    explainer = lficam.load_authors(explainer, reference["attn_state"]).to(device).train()
    with exact():
        terms, _ = explainer.loss(golden_images().to(device), reference["labels"].to(device))
    expected = reference["eval_mode"]["steps"][0]["losses"]
    assert [term.item() for term in terms.values()] == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("augment", [True, False])
def test_pixels_on_the_device_have_the_cpus_bits(device, augment):
    part = random_images(500).subset(torch.arange(499, -1, -3))
    there, options = datasets.place(part, device), {"shuffle": True, "augment": augment, "seed": 5}
    assert isinstance(there.source, sources.Resident)
    for pair in zip(datasets.batches(there, 64, **options), datasets.batches(part, 64, **options), strict=True):
        assert all(torch.equal(a.cpu(), b) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("method", [*CLASSIFIERS, "l-cam-fm", "l-cam-img", "tame", "t-tame"])
def test_no_step_waits_for_the_host(device, method):
    """By torch's own check; of all operations, and with the place, test_standin_device.py asks it without a GPU."""
    model, images = made(method, device), datasets.place(random_images(64), device)
    optimizer = loop.optimiser(model, RECIPE)
    steps(model, optimizer, images)  # first calls may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps(model, optimizer, images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_the_cpu_too
@pytest.mark.parametrize("method", CLASSIFIERS)
def test_the_first_loss_in_bfloat16_is_near_that_in_float32(device, method):
    half = losses(method, device, dataclasses.replace(RECIPE, precision="bfloat16"))
    assert half[0].item() == pytest.approx(losses(method, device)[0].item(), rel=0.02)


@on_the_cpu_too
@pytest.mark.parametrize("method", CLASSIFIERS)
def test_the_fused_optimiser_is_the_plain_one(device, method):
    with exact():
        assert apart(losses(method, device, fused=True), losses(method, device, fused=False)) <= 2e-3


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_compiled_losses(device, method):
    """The first is the same computation; later ones drift apart, as by any rounding."""
    with exact():
        eager, fast = losses(method, device), losses(method, device, compiled=True)
    assert apart(eager[:1], fast[:1]) <= 1e-4
    assert apart(eager, fast) <= 2e-2


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_a_training_that_was_cut_has_the_bits_of_one_that_was_not(device, method, tmp_path):
    recipe = dataclasses.replace(RECIPE, precision="auto", deterministic=True)
    for name, epochs in {"whole": (2,), "cut": (1, 2)}.items():
        for last in epochs:
            with exact(recipe.seed):
                model = lficam.create(method, "resnet-8", 10)
            part = dataclasses.replace(recipe, epochs=last)
            loop.fit(model, random_images(64), random_images(40), part, tmp_path / name, device=device)
    whole, cut = (checkpoints.read(tmp_path / name / "last.pt")["model"] for name in ("whole", "cut"))
    assert [key for key in whole if not torch.equal(whole[key], cut[key])] == []
