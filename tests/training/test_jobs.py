"""Jobs: resumed to the bit after a kill, found again by their settings, trained as explainers."""

import csv
import dataclasses
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from processes import begin

import lficam
from lficam import files, record
from lficam.errors import InputError
from lficam.explainers.learned import Settings
from lficam.models import checkpoints
from lficam.training import jobs, loop
from lficam.training.jobs import Job, Recipe, train

RECIPE = Recipe(epochs=4, batch_size=32, lr=0.05, milestones=(2,), seed=3, deterministic=True)
SMALL = {"train_count": 64, "validation_count": 60}
JOB = Job("lfi-cam", "resnet-8", recipe=RECIPE, **SMALL)


def weights(folder, name="last.pt"):
    return checkpoints.read(folder / name)["model"]


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def timeless(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.mark.slow
def test_killed_and_resumed_equals_uncut_to_the_bit(home, monkeypatch, tmp_path):
    uncut = train(JOB)
    assert not uncut.found
    other = tmp_path / "other"
    monkeypatch.setenv("LFICAM_HOME", str(other))
    kill_after_epoch(2, other)
    folder = other / uncut.folder.relative_to(home)
    assert 2 <= len(jobs.read_history(folder)) < 4
    resumed = train(JOB)
    assert resumed.folder == folder
    assert same_bits(weights(resumed.folder), weights(uncut.folder))
    assert same_bits(weights(resumed.folder, "best.pt"), weights(uncut.folder, "best.pt"))
    assert timeless(resumed.history) == timeless(uncut.history)


def kill_after_epoch(epoch, home):
    """Run the job in a process of its own and kill it, no warning given, once that epoch is on disk."""
    process = begin(train, JOB)
    try:
        for _ in range(6000):
            logs = list(home.glob("runs/*/*/log.csv"))
            if logs and len(logs[0].read_text().splitlines()) > epoch:
                break
            assert process.is_alive(), "the training ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.kill()
        process.join()


@pytest.mark.usefixtures("home")
def test_same_seed_same_bits_and_another_seed_others():
    recipe = dataclasses.replace(RECIPE, epochs=1)
    job = dataclasses.replace(JOB, recipe=recipe)
    first = train(job)
    kept = weights(first.folder)
    again = train(job, fresh=True)
    assert not again.found
    assert same_bits(kept, weights(again.folder))
    different = dataclasses.replace(job, recipe=dataclasses.replace(recipe, seed=4))
    assert not same_bits(kept, weights(train(different).folder))


def test_a_finished_job_is_found_again_and_two_do_not_write_at_once(home):
    job = Job("plain", "resnet-8", recipe=Recipe(epochs=1, batch_size=32), **SMALL)
    first, second = train(job), train(job)
    assert (first.found, second.found) == (False, True)
    assert second.folder == first.folder
    assert home in second.folder.parents
    with (second.folder / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["epoch"] == "1"
    assert float(row["train_loss"]) == pytest.approx(second.history[0]["train_loss"])
    before = weights(first.folder)
    with files.locked(first.folder / "last.pt"):
        assert train(job).found
        with pytest.raises(InputError, match=r"Another run is writing .*last\.pt: wait for it, then the same command"):
            train(job, fresh=True)
    assert same_bits(before, weights(first.folder))
    assert sorted(path.name for path in first.folder.iterdir()) == ["best.pt", "last.pt", "log.csv"]


def test_a_run_is_known_by_its_images_wherever_they_lie(home):
    folder = home / "photos"
    for split, count in (("train", 4), ("val", 2)):
        for i in range(2 * count):
            path = folder / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (9 * i, 0, 0)).save(path)
    job = Job("plain", "resnet-8", "folder", data_root=str(folder), size=16, recipe=Recipe(epochs=1, batch_size=4))
    first = train(job)
    moved = folder.rename(home / "elsewhere")
    assert train(dataclasses.replace(job, data_root=str(moved))).found
    assert checkpoints.read(first.folder / "best.pt")["settings"]["precision"] == "float32"


def test_precision_of_a_runs_name_is_what_it_means_on_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    loop.precision_of.cache_clear()
    images, names = JOB.images("train", 16), {}
    for precision in ("auto", "float32", "bfloat16"):
        job = dataclasses.replace(JOB, recipe=Recipe(precision=precision))
        names |= {(precision, device): jobs.run_folder(job, images, device=device).name for device in ("cpu", "cuda")}
    loop.precision_of.cache_clear()
    assert names["auto", "cuda"] == names["bfloat16", "cuda"] == names["bfloat16", "cpu"]
    assert names["auto", "cpu"] != names["auto", "cuda"]
    assert names["float32", "cpu"] == names["float32", "cuda"] != names["bfloat16", "cpu"]


# Explainers go through the same loop.
CLASSIFIER = Job("plain", "resnet-8", recipe=dataclasses.replace(RECIPE, epochs=1), **SMALL)
EXPLAINING = Recipe(
    epochs=3, batch_size=16, lr=0.01, schedule="one-cycle", nesterov=True, bias_lr=2.0, bias_decay=False, seed=3
)


def explaining(classifier, method="tame", **options):
    path = classifier.folder / "best.pt"
    return Job(method, path, train_count=48, validation_count=60, recipe=EXPLAINING, **options)


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_explainer_cut_and_resumed_equals_uncut_to_the_bit(monkeypatch, tmp_path):
    uncut = train(explaining(train(CLASSIFIER)))
    monkeypatch.setenv("LFICAM_HOME", str(tmp_path / "other"))
    job = explaining(train(CLASSIFIER))

    def cut(model, optimizer, history, *rest):
        keep(model, optimizer, history, *rest)
        if len(history) == 2:
            raise KeyboardInterrupt

    keep = checkpoints.keep
    monkeypatch.setattr(checkpoints, "keep", cut)
    with pytest.raises(KeyboardInterrupt, match="its first 2 of 3 epochs are kept"):
        train(job)
    monkeypatch.setattr(checkpoints, "keep", keep)
    resumed = train(job)
    # The same name although the classifier lies elsewhere: its weights are what counts.
    assert resumed.folder.name == uncut.folder.name
    assert same_bits(weights(uncut.folder), weights(resumed.folder))
    assert timeless(uncut.history) == timeless(resumed.history)


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
    layers = [f"backbone.stages.{i}" for i in range(3)]
    spelt = dataclasses.replace(job, layers=layers, options={"space": "pixels", "masks": "batch"})  # the defaults
    assert jobs.run_folder(spelt, images) == folder
    assert jobs.run_folder(dataclasses.replace(job, options={"masks": "own"}), images) != folder
    last_two = jobs.run_folder(dataclasses.replace(job, layers=["last 2"]), images)
    assert jobs.run_folder(dataclasses.replace(by_path, layers=layers[1:]), images) == last_two != folder


BESIDE = dataclasses.replace(CLASSIFIER, recipe=dataclasses.replace(RECIPE, epochs=1, seed=4))


@pytest.mark.usefixtures("home")
def test_an_auxiliary_classifier_is_trained_first_and_part_of_the_runs_name():
    job = Job("p-tame", CLASSIFIER, train_count=48, validation_count=60, recipe=EXPLAINING, auxiliary=BESIDE)
    assert job.needs == {"backbone": CLASSIFIER, "auxiliary": BESIDE}
    assert jobs.finished_folder(job) is None
    run = train(job)
    assert train(job).found
    assert jobs.finished_folder(job) == run.folder
    paths = [jobs.finished_folder(one) / "best.pt" for one in (CLASSIFIER, BESIDE)]
    by_path = dataclasses.replace(job, backbone=paths[0], auxiliary=paths[1])
    assert jobs.resolve(job) == by_path
    assert train(by_path).folder == run.folder
    digests = [lficam.load(path).state_dict() for path in paths]
    assert run.model.classifier.digest == checkpoints.digest(digests[0])
    assert run.model.auxiliary.digest == checkpoints.digest(digests[1])
    images = job.images("train", 48)
    other = dataclasses.replace(job, auxiliary=CLASSIFIER)
    assert jobs.run_folder(other, images) != run.folder
    moved = paths[1].rename(paths[1].with_name("elsewhere.pt"))
    assert jobs.run_folder(dataclasses.replace(by_path, auxiliary=moved), images) == run.folder


def test_settings_that_came_later_do_not_change_the_names_of_runs():
    """Of jobs that do not have them; the names are of runs before there were auxiliary classifiers and AdamW."""
    images = JOB.images("train", 64)
    assert jobs.run_folder(JOB, images, device="cpu").name == "lfi-cam-resnet-8-e8a56e192c"
    adamw = dataclasses.replace(JOB, recipe=dataclasses.replace(RECIPE, optimiser="adamw"))
    assert jobs.run_folder(adamw, images, device="cpu").name != jobs.run_folder(JOB, images, device="cpu").name
    tame, ptame = Job("tame", "vgg16"), Job("p-tame", "vgg16", auxiliary="resnet18", options={"power": 0.5})
    assert not {"auxiliary", "optimiser"} & (record.plain(tame).keys() | record.plain(tame)["recipe"].keys())
    assert record.plain(ptame)["auxiliary"] == "resnet18"
    assert "power" not in record.plain(Settings("tame"))
    assert record.plain(Settings("p-tame", power=0.5))["power"] == 0.5


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "plain"}, "auxiliary: plain looks by no other classifier: leave it out, or train p-tame"),
        (
            {"auxiliary": Job("tame", CLASSIFIER)},
            "cannot look by tame of plain-resnet-8 on .*: give the job of a class",
        ),
        ({"options": {"auxiliary": "resnet18"}}, "it stands beside the options, not among them: auxiliary=, --aux"),
    ],
)
def test_auxiliary_classifiers_that_cannot_be(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        Job(**{"method": "p-tame", "backbone": "resnet-8", "auxiliary": BESIDE} | settings)


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
    job = explaining(classifier, "l-cam-img", dataset="photo-digits-2", options={"labels": "truth"})
    with pytest.raises(InputError, match=r"photo-digits-2 has 2 classes, the classifier 10: .*labels=\"model\""):
        train(job)


def test_no_classifier_is_built_on_a_trained_one():
    with pytest.raises(InputError, match="backbone: abn cannot be built on"):
        Job("abn", CLASSIFIER)


def test_trained_with_deletions_is_another_training_of_the_same_name_without():
    """Images in training lack cells, in validation none; a job without deletions is the one that it was."""
    whole, deleted = JOB, dataclasses.replace(JOB, deletions=True)
    images = [job.images("train", 64) for job in (whole, deleted)]
    assert not torch.equal(*(own.pixels(range(64)) for own in images))
    assert torch.equal(*(job.images("validation", 60).pixels(range(60)) for job in (whole, deleted)))
    assert len({jobs.run_folder(job, own) for job, own in zip((whole, deleted), images, strict=True)}) == 2
    with pytest.raises(InputError, match="deletions: classifiers are trained with them, and tame is an explainer"):
        Job("tame", JOB, deletions=True)
