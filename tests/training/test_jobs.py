"""The training loop: schedule, resume to the bit after a kill, same bits twice, failures that keep what was there."""

import csv
import dataclasses
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lficam
from lficam import files
from lficam.errors import InputError
from lficam.models import checkpoints
from lficam.training import jobs, loop
from lficam.training.jobs import Job, Recipe, train
from lficam.training.loop import fit
from lficam.training.lr_range import lr_range

RECIPE = Recipe(epochs=4, batch_size=32, lr=0.05, milestones=(2,), seed=3, deterministic=True)
JOB = Job("lfi-cam", "resnet-8", train_count=64, validation_count=60, recipe=RECIPE)

SCRIPT = """
import os, torch
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))  # as conftest.py
from lficam.training.jobs import Job, Recipe, train
train(Job("lfi-cam", "resnet-8", train_count=64, validation_count=60,
          recipe=Recipe(epochs=4, batch_size=32, lr=0.05, milestones=(2,), seed=3, deterministic=True)))
"""


def weights(folder, name="last.pt"):
    return checkpoints.read(folder / name)["model"]


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_killed_and_resumed_equals_uncut_to_the_bit(home, monkeypatch, tmp_path):
    uncut = train(JOB)
    assert not uncut.found
    other = tmp_path / "other"
    monkeypatch.setenv("LFICAM_HOME", str(other))
    kill_after_epoch(2, other)
    folder = other / uncut.folder.relative_to(home)
    done = len(jobs.read_history(folder))
    assert 2 <= done < 4
    resumed = train(JOB)
    assert resumed.folder == folder
    assert same_bits(weights(resumed.folder), weights(uncut.folder))
    assert same_bits(weights(resumed.folder, "best.pt"), weights(uncut.folder, "best.pt"))
    drop = "seconds"
    assert [{k: v for k, v in row.items() if k != drop} for row in resumed.history] == [
        {k: v for k, v in row.items() if k != drop} for row in uncut.history
    ]


def kill_after_epoch(epoch, home):
    """Run the job in a process of its own and kill it, no warning given, once that epoch is on disk."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)
    try:
        for _ in range(6000):
            logs = list(home.glob("runs/*/*/log.csv"))
            if logs and len(logs[0].read_text().splitlines()) > epoch:
                break
            assert process.poll() is None, "the training ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("home")
def test_same_seed_same_bits_and_another_seed_others():
    first = train(JOB)
    kept = weights(first.folder)
    again = train(JOB, fresh=True)
    assert not again.found
    assert same_bits(kept, weights(again.folder))
    different = Job(
        "lfi-cam", "resnet-8", train_count=64, validation_count=60, recipe=Recipe(**vars(RECIPE) | {"seed": 4})
    )
    assert not same_bits(kept, weights(train(different).folder))


def test_a_finished_job_is_found_again(home):
    job = Job("plain", "resnet-8", train_count=32, validation_count=60, recipe=Recipe(epochs=1, batch_size=32))
    first, second = train(job), train(job)
    assert (first.found, second.found) == (False, True)
    assert second.folder == first.folder
    assert home in second.folder.parents
    with (second.folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1"]
    assert float(rows[0]["train_loss"]) == pytest.approx(second.history[0]["train_loss"])


def test_a_run_is_known_by_its_images_wherever_they_lie(home):
    folder = home / "photos"
    for split, count in (("train", 4), ("val", 2)):
        for i in range(2 * count):
            path = folder / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (9 * i, 0, 0)).save(path)
    recipe = Recipe(epochs=1, batch_size=4)
    first = train(Job("plain", "resnet-8", dataset="folder", data_root=str(folder), size=16, recipe=recipe))
    moved = folder.rename(home / "elsewhere")
    assert train(Job("plain", "resnet-8", dataset="folder", data_root=str(moved), size=16, recipe=recipe)).found
    assert checkpoints.read(first.folder / "best.pt")["settings"]["precision"] == "float32"


def test_precision_of_a_runs_name_is_what_it_means_on_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    loop.precision_of.cache_clear()
    images = JOB.images("train", 16)
    names = {
        (precision, device): jobs.run_folder(
            dataclasses.replace(JOB, recipe=Recipe(precision=precision)), images, device=device
        ).name
        for precision in ("auto", "float32", "bfloat16")
        for device in ("cpu", "cuda")
    }
    loop.precision_of.cache_clear()
    assert names["auto", "cuda"] == names["bfloat16", "cuda"] == names["bfloat16", "cpu"]
    assert names["auto", "cpu"] != names["auto", "cuda"]
    assert names["float32", "cpu"] == names["float32", "cuda"] != names["bfloat16", "cpu"]


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
        lambda _, images, recipe, home: fit(_, images, images, recipe, home / "run"),
        lambda _, images, recipe, home: lr_range(_, images, recipe, steps=2),  # noqa: ARG005
        lambda *given: train(dataclasses.replace(JOB, train_count=16, recipe=given[2])),
    ],
    ids=["fit", "lr_range", "train"],
)
def test_torch_is_left_as_it_was(call, deterministic, home, monkeypatch):
    """A user who wants determinism and TF32 has both again, and draws on as if nothing had been drawn."""
    images, model = JOB.images("train", 16), lficam.create("plain", "resnet-8", 10)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", deterministic)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = state_of_torch()
        call(model, images, Recipe(epochs=1, batch_size=8, seed=4, deterministic=deterministic), home)
        assert state_of_torch() == before
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_cannot_be_deterministic_is_one_sentence(home):
    model, images = lficam.create("plain", "resnet-8", 10), JOB.images("train", 8)

    def loss(pixels, labels):
        torch.zeros(1).put_(torch.tensor([0]), torch.ones(1))
        return type(model).loss(model, pixels, labels)

    model.loss = loss
    fit(model, images, images, Recipe(epochs=1), home / "may vary")
    with pytest.raises(InputError, match=r"put_ has no deterministic implementation .* deterministic=False"):
        fit(model, images, images, Recipe(epochs=1, deterministic=True), home / "may not")


@pytest.mark.usefixtures("home")
def test_training_learns():
    job = Job(
        "plain",
        "resnet-8",
        train_count=200,
        validation_count=60,
        recipe=Recipe(epochs=5, batch_size=25, lr=0.05, augment=False),
    )
    history = train(job).history
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]


@pytest.mark.usefixtures("home")
def test_tensorboard_on_request():
    job = Job("plain", "resnet-8", train_count=32, validation_count=60, recipe=Recipe(epochs=1, batch_size=32))
    run = train(job, tensorboard=True)
    assert list((run.folder / "tensorboard").glob("events*"))


@pytest.mark.usefixtures("home")
def test_two_runs_of_one_folder():
    """The second one changes nothing, and finds the model when the first one is through."""
    job = dataclasses.replace(JOB, recipe=dataclasses.replace(RECIPE, epochs=1))
    folder = train(job).folder
    before = weights(folder)
    with files.locked(folder / "last.pt"):
        assert train(job).found
        with pytest.raises(InputError, match=r"Another run is writing .*last\.pt: wait for it, then the same command"):
            train(job, fresh=True)
    assert same_bits(before, weights(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["best.pt", "last.pt", "log.csv"]


def test_divergence_stops_and_keeps_the_last_checkpoint(home):
    images, validation = JOB.images("train", 64), JOB.images("validation", 60)
    model = lficam.create("plain", "resnet-8", 10)
    folder = home / "run"
    fit(model, images, validation, Recipe(epochs=1, batch_size=32), folder)
    before = weights(folder)
    with pytest.raises(InputError, match=r"diverged in epoch 2 .*lower lr.*the checkpoint of epoch 1 is kept"):
        fit(model, images, validation, Recipe(epochs=3, batch_size=8, lr=1e30), folder)
    assert same_bits(before, weights(folder))


def test_checkpoint_of_another_model(home):
    images, validation = JOB.images("train", 64), JOB.images("validation", 60)
    recipe = Recipe(epochs=1, batch_size=32)
    fit(lficam.create("plain", "resnet-8", 10), images, validation, recipe, home / "run")
    before = weights(home / "run")
    with pytest.raises(InputError, match=r"holds another model \(plain resnet-8 10 classes\).*abn resnet-8"):
        fit(lficam.create("abn", "resnet-8", 10), images, validation, recipe, home / "run")
    assert same_bits(before, weights(home / "run"))


def test_full_disk_keeps_the_earlier_checkpoint(home, monkeypatch):
    """The disk fills up in epoch 2: one sentence, and epoch 1 can be resumed from."""
    images, validation = JOB.images("train", 64), JOB.images("validation", 60)
    model = lficam.create("plain", "resnet-8", 10)
    folder = home / "run"
    fit(model, images, validation, Recipe(epochs=1, batch_size=32), folder)
    before = weights(folder)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"Cannot write .*No space left on device; the earlier file is unchanged"):
        fit(model, images, validation, Recipe(epochs=2, batch_size=32), folder)
    monkeypatch.undo()
    assert same_bits(before, weights(folder))
    assert sorted(p.name for p in folder.iterdir()) == ["best.pt", "last.pt", "log.csv"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lr": "1e-3"}, r"lr: expected float, got str '1e-3' \(in YAML write 0.001"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"epochs": True}, "epochs: expected int, got bool True"),
        ({"lr": float("nan")}, "lr: expected a number above 0"),
        ({"milestones": [2, "3"]}, "milestones: expected int, got str '3'"),
        ({"milestones": (3, 2)}, "milestones: expected epochs in rising order"),
        ({"precision": "half"}, "Unknown precision 'half': choose one of: auto, float32, bfloat16"),
    ],
)
def test_wrong_settings_are_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        Recipe(**settings)


# Explainers go through the same loop.
CLASSIFIER = Job("plain", "resnet-8", train_count=64, validation_count=60, recipe=dataclasses.replace(RECIPE, epochs=1))
EXPLAINING = Recipe(
    epochs=3, batch_size=16, lr=0.01, schedule="one-cycle", nesterov=True, bias_lr=2.0, bias_decay=False, seed=3
)


def explaining(classifier, method="tame", **options):
    path = classifier.folder / "best.pt"
    return Job(method, path, train_count=48, validation_count=60, recipe=EXPLAINING, **options)


class Cut(Exception):
    """Stands for a kill."""


@pytest.mark.usefixtures("home")
def test_explainer_cut_and_resumed_equals_uncut_to_the_bit(monkeypatch, tmp_path):
    uncut = train(explaining(train(CLASSIFIER)))
    monkeypatch.setenv("LFICAM_HOME", str(tmp_path / "other"))
    job = explaining(train(CLASSIFIER))

    def cut(model, optimizer, history, folder, *rest):
        keep(model, optimizer, history, folder, *rest)
        if len(history) == 2:
            raise Cut

    keep = checkpoints.keep
    monkeypatch.setattr(checkpoints, "keep", cut)
    with pytest.raises(Cut):
        train(job)
    monkeypatch.setattr(checkpoints, "keep", keep)
    resumed = train(job)
    # The same name although the classifier lies elsewhere: its weights are what counts.
    assert resumed.folder.name == uncut.folder.name
    assert same_bits(weights(uncut.folder), weights(resumed.folder))
    for a, b in zip(uncut.history, resumed.history, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


@pytest.mark.usefixtures("home")
def test_explainer_is_the_last_epochs_and_its_file_holds_the_mechanism_alone():
    job = explaining(train(CLASSIFIER))
    run = train(job)
    assert same_bits(weights(run.folder, "best.pt"), weights(run.folder, "last.pt"))
    assert all(name.startswith(("convs.", "norms.", "fuse.")) for name in weights(run.folder, "best.pt"))
    assert {"train_cross_entropy", "train_area", "train_variation", "validation_loss"} <= run.history[0].keys()
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"]
    assert train(job).found
    pixels = torch.rand(2, 3, 32, 32)
    again = lficam.load(run.folder / "best.pt")
    assert torch.equal(again(pixels), run.model(pixels))
    assert again.classifier.classes == tuple("0123456789")
    assert not Path(again.card["backbone"]).is_absolute()
    with pytest.raises(InputError, match="holds an explainer: give the classifier, runs/photo-digits/plain-resnet-8"):
        train(dataclasses.replace(job, backbone=str(run.folder / "best.pt")))


@pytest.mark.usefixtures("home")
def test_a_default_that_is_given_is_the_same_run():
    job = explaining(train(CLASSIFIER))
    images = job.images("train", 48)
    layers = [f"backbone.stages.{i}" for i in range(3)]
    spelt = dataclasses.replace(job, layers=layers, options={"space": "pixels", "masks": "batch"})
    assert jobs.run_folder(spelt, images) == jobs.run_folder(job, images)
    other = dataclasses.replace(job, options={"masks": "own"})
    assert jobs.run_folder(other, images) != jobs.run_folder(job, images)


@pytest.mark.usefixtures("home")
def test_an_explainer_of_a_job_is_that_of_its_checkpoint():
    job = Job("tame", CLASSIFIER, train_count=48, validation_count=60, recipe=EXPLAINING)
    assert job.title == "tame of plain-resnet-8 on photo-digits"
    assert jobs.finished_folder(job) is None
    images = job.images("train", 48)
    folder = jobs.run_folder(job, images)  # trains the classifier
    classifier = jobs.finished_folder(CLASSIFIER)
    by_path = dataclasses.replace(job, backbone=classifier / "best.pt")
    assert jobs.run_folder(by_path, images) == folder
    assert jobs.resolve(job) == by_path
    last_two = jobs.run_folder(dataclasses.replace(job, layers=["last 2"]), images)
    named = dataclasses.replace(by_path, layers=["backbone.stages.1", "backbone.stages.2"])
    assert jobs.run_folder(named, images) == last_two != folder


def test_only_a_classifier_can_be_explained():
    tame = Job("tame", CLASSIFIER)
    for method, backbone in (("tame", tame), ("abn", CLASSIFIER)):
        with pytest.raises(InputError, match=f"backbone: {method} cannot be built on"):
            Job(method, backbone)


@pytest.mark.usefixtures("home")
def test_explainer_learns_what_the_classifier_says():
    classifier = train(CLASSIFIER)
    images = CLASSIFIER.images("train", 48)
    said = jobs.relabelled(lficam.attach(classifier.folder / "best.pt", "tame"), images)
    with torch.no_grad():
        expected = classifier.model(images.pixels(range(48))).logits.argmax(1)
    assert torch.equal(said.labels, expected)
    assert not torch.equal(said.labels, images.labels)
    truth = jobs.relabelled(lficam.attach(classifier.folder / "best.pt", "tame", labels="truth"), images)
    assert truth is images


@pytest.mark.usefixtures("home")
def test_true_labels_need_the_classifiers_classes():
    job = explaining(train(CLASSIFIER), "l-cam-img", dataset="photo-digits-2", options={"labels": "truth"})
    with pytest.raises(InputError, match=r"photo-digits-2 has 2 classes, the classifier 10: .*labels=\"model\""):
        train(job)


@pytest.mark.usefixtures("home")
def test_explainer_that_diverges_says_the_rate():
    job = explaining(train(CLASSIFIER))
    job = dataclasses.replace(job, recipe=dataclasses.replace(EXPLAINING, lr=1e30))
    with pytest.raises(InputError, match=r"tame of plain-resnet-8 on photo-digits diverged in epoch 1 .*lower lr"):
        train(job)
