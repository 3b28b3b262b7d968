"""What a profile's notebooks declare, as steps; what they cost; and that every command of docs/reproduce.md is real."""

import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import toys
from test_reproduce import toy
from torch.utils.flop_counter import FlopCounterMode

from lficam import cli, files, record
from lficam.errors import InputError
from lficam.explainers import frozen, learned
from lficam.lab.graph import costs, plan
from lficam.lab.notebooks import run
from lficam.models.registry import create
from lficam.training.jobs import Job, Recipe

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "reproduce.md").read_text()
ROWS = [line.split(" | ") for line in DOCS.splitlines() if line.count("`lficam ") == 1 and line.startswith("| ")]
ITEMS = {
    "LFI-CAM": ["accuracy comparison", "example attention maps", "stability examples", "stability figure (a), (b)"],
    "ABN": ["top-1 error table"],
    "L-CAM": ["superimposed comparison", "loss ablation", "loss ablation, VGG-16 7x7", "AD/IC table"],
    "TAME": ["learning-rate test", "AD/IC comparison table", "ablation: attention architecture", "ablation: layers"],
    "T-TAME": ["ViT-B/16, the mechanism", "ViT-B/16, ROAD curves"],
}
ITEMS["LFI-CAM"] += ["IoU protocol"]
ITEMS["TAME"] += ["class-specific maps"]


@pytest.fixture
def copied(home):
    """The project's notebooks and profiles in a home of the test's own, and nothing else."""
    shutil.copytree(ROOT / "notebooks", home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return home


@pytest.fixture(scope="module")
def smoke():
    return plan.collect("smoke")


def test_seeds_are_runs_of_their_own_in_one_graph(smoke):
    """Seed 1 trains what a run without seeds does; another seed shares nothing with it but the report."""
    steps = plan.collect("smoke", [1, 2])
    trainings = {step.id for step in steps if step.kind == "train"}
    single = {step.id for step in smoke if step.kind == "train"}
    assert single < trainings
    assert len(trainings) == 2 * len(single)
    notebooks = [step for step in steps if step.kind == "notebook"]
    assert sorted((step.values["notebook"], step.values["seed"]) for step in notebooks) == [
        (name, seed) for name in run.of_profile("smoke") for seed in (1, 2)
    ]
    for step in notebooks:
        assert run.prepare(profile="smoke", **step.values).folder.parent.name == f"seed-{step.values['seed']}"
        others = trainings - single if step.values["seed"] == 1 else single
        assert not others & set(step.needs)


def test_steps_come_after_what_they_need(smoke):
    seen = set()
    for step in smoke:
        assert set(step.needs) <= seen
        seen.add(step.id)
    kinds = [step.kind for step in smoke]
    assert {kind: kinds.count(kind) for kind in plan.KINDS} == {
        "train": 27, "evaluate": 3, "notebook": 7, "report": 1
    }  # fmt: skip
    assert [step.values["notebook"] for step in smoke if not step.threads] == ["05_ad_ic"]  # it measures time
    by_id = {step.id: step for step in smoke}
    for step in smoke:
        if step.kind == "train":
            job = plan.job_of(json.loads(json.dumps(step.values["job"])))
            assert [by_id[n].values["job"] for n in step.needs] == [record.plain(what) for what in job.needs.values()]
    shared = next(step for step in smoke if step.id.startswith("evaluate-06"))
    assert shared.needs == next(s for s in smoke if s.id.startswith("notebook-02")).needs


SPLIT = """
from lficam.training import jobs as training
jobs = {"one": training.Job("plain", "resnet-8", recipe=training.Recipe(lr=lr))}
"""


def test_what_a_step_depends_on_is_in_its_name(home, monkeypatch, tmp_path_factory):
    """Parameters, cells and the package's own code and tables; what was trained stays trained after an update."""
    package = tmp_path_factory.mktemp("installed") / "lficam"
    shutil.copytree(ROOT / "lficam", package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(files, "PACKAGE", package)
    toy(home, "01_toy", "x = 1", jobs=SPLIT, evaluate="y = 1")
    before = plan.collect("smoke")
    assert plan.collect("smoke") == before
    kinds = [step.kind for step in before]
    assert kinds == list(plan.KINDS)

    def renamed():
        nonlocal before
        again = plan.collect("smoke")
        found = {step.kind for step, old in zip(again, before, strict=True) if step.id != old.id}
        before = again
        return found

    toy(home, "01_toy", "x = 2", jobs=SPLIT, evaluate="y = 1")
    assert renamed() == {"notebook"}
    toy(home, "01_toy", "x = 2", jobs=SPLIT, evaluate="y = 2")
    assert renamed() == {"evaluate", "notebook"}
    toy(home, "01_toy", "x = 2", jobs=SPLIT + "# noted", evaluate="y = 2")
    assert renamed() == {"evaluate", "notebook"}  # the job is the same
    (home / "notebooks" / "profiles" / "smoke" / "01_toy.yaml").write_text("lr: 0.2")
    assert renamed() == {"train", "evaluate", "notebook"}
    for changed in ("maps.py", "data/tables/papers/ad_ic.csv"):
        with (package / changed).open("a") as file:
            file.write("\n")
        assert renamed() == {"evaluate", "notebook"}


def test_a_default_that_is_spelt_out_is_the_same_step():
    job = Job("tame", Job("plain", "resnet-8"), recipe=Recipe())
    spelt = dataclasses.replace(job, options={"space": "pixels"})
    assert plan._training(job, {}, "").id == plan._training(spelt, {}, "").id
    other = dataclasses.replace(job, options={"space": "normalised"})
    assert plan._training(job, {}, "").id != plan._training(other, {}, "").id
    with pytest.raises(InputError, match=r"Settings have to be numbers, texts, lists and mappings of them: .*Recipe"):
        plan.digest({"recipe": Recipe()})  # which has no text of its own


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("dataset: cifar1", "Unknown data set 'cifar1': did you mean 'cifar10'"),
        ("classifier: resnet5\npretrained: true", "Unknown classifier 'resnet5': did you mean"),
    ],
)
def test_unknown_names_in_a_profile_are_one_sentence(home, settings, sentence):
    parameters = 'dataset = "photo-digits"\nclassifier = "resnet18"\npretrained = False\nprofile = "lab"\noutput = ""'
    toys.toy(home, "01_toy", parameters=parameters, settings=settings)
    with pytest.raises(InputError, match=sentence):
        costs.missing("smoke")


def test_fresh_and_wrong_cells_are_one_sentence(copied):
    settings = copied / "notebooks" / "profiles" / "smoke" / "03_lcam.yaml"
    given = settings.read_text()
    settings.write_text(given + "\nfresh: true\n")
    with pytest.raises(InputError, match="fresh belongs to a single notebook"):
        plan.collect("smoke")
    settings.write_text(given)
    book = copied / "notebooks" / "03_lcam.ipynb"
    text = book.read_text()
    book.write_text(text.replace("recipes.find(", "recipes.fund("))
    cell = "from lficam.training import recipes, sweep"
    with pytest.raises(InputError, match=rf"03_lcam: its cell `{cell}`, .* failed: AttributeE"):
        plan.collect("smoke")


def test_a_marker_counts_only_while_it_stands_for_something(copied, smoke):
    step = next(step for step in smoke if step.kind == "train")
    folder = copied / "runs" / "x"
    folder.mkdir(parents=True)
    for name in ("best.pt", "last.pt"):
        (folder / name).touch()
    plan.mark("smoke", step, folder="runs/x")
    assert plan.is_finished("smoke", step)
    (folder / "last.pt").unlink()
    assert not plan.is_finished("smoke", step)
    plan.write("smoke", smoke)
    assert not plan.marker("smoke", step).exists()


# --- costs


NONE = ["", "", {}]  # no auxiliary classifier


def test_operations_are_those_of_a_real_batch():
    cost = costs._count(json.dumps(["tame", ["plain", "resnet-8", {}], NONE, {}, []]), 10, 32)
    model = learned.attach(frozen.freeze(create("plain", "resnet-8", 10), size=32), "tame").train()
    with FlopCounterMode(display=False) as counter:
        model.loss(torch.rand(4, 3, 32, 32), torch.tensor([1, 2, 3, 4]))[0]["total"].backward()
    # Masks are made of all labels of a batch, and fused for each: a little more with four.
    assert counter.get_total_flops() / 4 == pytest.approx(cost.train, rel=0.01)
    assert cost.disk == 12 * sum(p.numel() for p in model.mechanism.parameters())


def test_an_auxiliary_classifier_costs_its_forward_pass():
    """Of two numbers: TAME's features, mechanism and masked image, and here the whole image classified as well."""
    own = ["plain", "resnet-8", {}]
    tame, ptame = (costs._count(json.dumps([m, own, b, {}, []]), 10, 32) for m, b in (("tame", NONE), ("p-tame", own)))
    forward = costs._count(json.dumps(["plain", own, NONE, {}, []]), 10, 32).validation
    assert ptame.validation - tame.validation == pytest.approx(forward, rel=0.05)
    default = costs._of_training(Job("p-tame", "resnet18", size=64, train_count=32, validation_count=32), None)
    assert default["operations"] > 0  # without the weights of the network by which it looks


def test_one_layer_by_hand():
    """ResNet-8's stem and three stages; multiplication and addition are two, the backward pass is about twice."""
    cost = costs._count(json.dumps(["plain", ["", "resnet-8", {}], NONE, {}, []]), 10, 32)
    stem, first = 27 * 16 * 32**2, 2 * 144 * 16 * 32**2
    later = [(9 * c * 2 * c + 9 * (2 * c) ** 2) * (32 // s) ** 2 for c, s in ((16, 2), (32, 4))]
    by_hand = 2 * (stem + first + sum(later) + 64 * 10)
    assert by_hand <= cost.validation <= 1.1 * by_hand  # shortcuts are the rest
    assert 2.7 < cost.train / cost.validation < 3.1


@pytest.mark.slow
def test_overview_estimates_only_what_it_was_given(copied, capsys):
    assert cli.main(["plan", "--profile", "cifar-cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = [row for row in found["steps"] if row["kind"] == "train"]
    assert {row["basis"] for row in rows} == {"unknown"}
    assert all(row["operations"] > 0 and row["seconds"] is None and not row["finished"] for row in rows)
    (entry,) = found["missing"]
    assert str(copied / "data" / "cache") in entry["what"]
    assert "download=True" in entry["how"]
    first = plan.job_of(next(step for step in plan.collect("cifar-cpu") if step.kind == "train").values["job"])
    estimated = costs._of_training(first, 30e12)
    assert estimated["seconds"] == pytest.approx(rows[0]["operations"] / 30e12)
    assert estimated["basis"] == "estimate"
    assert cli.main(["plan", "--profile", "cifar-cpu", "--tflops", "-1"]) == 2


# --- docs/reproduce.md


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0].strip('| ')} {row[1]}")
def test_commands_of_the_document_are_accepted(row):
    command = re.search(r"`(lficam [^`]+)`", " | ".join(row))[1]
    arguments = cli.parser().parse_args(shlex.split(command)[1:])
    if command.startswith("lficam run"):
        prepared = run.prepare(arguments.notebooks[0], arguments.profile, cli.values_of("--set", arguments.set))
        assert prepared.name.startswith(row[2])
        assert plan.execute(prepared, ("jobs",))["jobs"]
    else:
        assert cli.models.job_of(arguments).recipe.epochs == 8


def test_every_item_of_the_papers_has_a_command():
    there = [(row[0].strip("| "), row[1]) for row in ROWS]
    for paper, items in ITEMS.items():
        for item in items:
            assert any(p == paper and text.startswith(item) for p, text in there), f"{paper}: {item}"
    data = {"cifar10", "cifar100", "stl10", "catdog", "imagenet"}
    accuracy = {row[4].strip(" |") for row in ROWS if row[1].startswith("accuracy")}
    assert accuracy == data
