"""The command line: exit codes, sentences, and a help that does not wait."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from processes import begin, command, execute, finish
from toys import toy

import lficam
from lficam import cli, progress
from lficam.cli import main
from lficam.lab.notebooks import run
from lficam.lab.notebooks.run import RunError
from lficam.models import checkpoints
from lficam.training.recipes import Recipe, explainer_recipe, photos_recipe


def test_help_imports_nothing_heavy():
    code = "import sys, lficam.cli; lficam.cli.parser(); print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "yaml", "nbformat", "papermill"} & set(done.stdout.split())


def test_the_package_is_the_command():
    command = [sys.executable, "-m", "lficam", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"lficam {lficam.__version__}\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [("lficam tr", {"train"}), ("lficam train --cla", {"--classifier"}), ("lficam re", {"report", "reproduce"})],
)
def test_shells_complete_commands_and_options(line, words, tmp_path):
    """As `register-python-argcomplete lficam` lets a shell ask."""
    answer = tmp_path / "answer"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n"}
    asked |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    subprocess.run([sys.executable, "-m", "lficam"], env=os.environ | asked, check=True)
    assert {word.strip() for word in answer.read_text().split("\n")} == words


def test_other_systems_are_told_at_once(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["run", "--list"]) == 2
    assert capsys.readouterr().err == (
        "lficam: lficam works on Linux and macOS; on Windows start it in WSL, which is a Linux.\n"
    )


def test_a_rank_without_a_launcher_is_no_other_process(home, monkeypatch, capsys):
    """A cluster may set RANK for other reasons: nothing is held back, and nobody is waited for."""
    toy(home, "01_toy")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("lficam.cli.time.sleep", lambda _: pytest.fail("waited"))
    assert main(["run", "nothing", "--profile", "smoke"]) == 2
    progress.say("heard")
    assert capsys.readouterr().out == "heard\n"


def test_runs(home, capsys, monkeypatch):
    """What is listed, what goes together, and the exit code of what fails."""
    toy(home, "01_toy")
    toy(home, "02_toy")
    assert main(["run", "--list"]) == 0
    assert capsys.readouterr().out == "notebooks\n  01_toy\n  02_toy\nprofile smoke\n  01_toy\n  02_toy\n"
    for names in ([], ["01_toy", "02_toy"]):
        assert main(["run", "--profile", "smoke", *names, "--set", "lr=1"]) == 2
        assert "--set belongs to one notebook" in capsys.readouterr().err
    assert main(["run", "--profile", "smoke", "01_toy", "--set", "lr=[1"]) == 2
    assert "--set lr=[1: " in capsys.readouterr().err
    asked = []

    def execute(prepared):
        asked.append((prepared.name, prepared.parameters, prepared.timeout))
        raise RunError(f"{prepared.name}: the kernel died", 3)

    monkeypatch.setattr(run, "execute", execute)
    assert main(["run", "01_toy", "--profile", "smoke", "--set", "lr=0.5", "--timeout", "60"]) == 3
    assert asked == [("01_toy", {"lr": 0.5}, 60)]
    assert capsys.readouterr().err == "lficam: 01_toy: the kernel died\n"
    monkeypatch.setattr(run, "execute", lambda _: 1 / 0)  # what is not foreseen keeps its traceback
    with pytest.raises(ZeroDivisionError):
        main(["run", "--profile", "smoke"])


@pytest.mark.slow
def test_train_evaluate_dump_and_compare(home, capsys):
    """The life of a model on the command line; the second training is found."""
    train = ["train", "--method", "lfi-cam", "--backbone", "resnet-8", "--epochs", "1", "--milestones", "--lr", "0.01"]
    train += ["--seed", "2", "--count", "64"]
    assert main(train) == 0
    best = capsys.readouterr().out.split()[-1]
    assert main([*train, "--resume"]) == 0
    assert "found finished" in capsys.readouterr().out
    dump = home / "maps.safetensors"
    evaluate = ["evaluate", best, "--count", "40", "--perturbation", "0.05", "--dump", str(dump)]
    assert main(evaluate) == 0
    out = capsys.readouterr().out
    assert "N = 40  (photo-digits, test)" in out
    assert "under FGSM 0.05" in out
    assert main(["iou", str(dump), str(dump), "--protocol", "standard"]) == 0
    assert "IoU   1.0000" in capsys.readouterr().out


@pytest.fixture
def animals(tmp_path):
    """Photos of two colours in class folders, 12 each."""
    for name, colour in {"cat": (250, 200, 0), "dog": (0, 50, 250)}.items():
        (tmp_path / "animals" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (20, 20), colour).save(tmp_path / "animals" / name / f"{i}.png")
    return tmp_path / "animals"


TRAIN = ["train", "--method", "plain", "--backbone", "resnet-8"]


@pytest.mark.usefixtures("home")
def test_one_class_folder_is_named(capsys, animals):
    shutil.rmtree(animals / "dog")
    assert main([*TRAIN, "--dataset", "folder", "--data-root", str(animals), "--size", "32"]) == 2
    assert "lficam: folder has one class only, the folder 'cat': a classifier needs" in capsys.readouterr().err


def test_recipes_of_the_command_line():
    """Own photos have a recipe of their own; what is given replaces it; milestones need the schedule that has them."""

    def recipe(*more, method="lfi-cam"):
        what = ["--classifier", "resnet18"] if method == "tame" else ["--backbone", "resnet18"]
        return cli.models.job_of(cli.parser().parse_args(["train", "--method", method, *what, *more])).recipe

    own = ["--dataset", "folder"]
    assert recipe() == Recipe()
    assert recipe(*own) == photos_recipe()
    assert recipe(*own, "--lr", "0.02", "--epochs", "5") == photos_recipe(lr=0.02, epochs=5)
    assert recipe(*own, method="tame") == explainer_recipe()
    assert recipe(*own, "--milestones", "3", "9") == photos_recipe(schedule="step", milestones=(3, 9))
    assert recipe(*own, "--gamma", "0.5", method="tame").schedule == "step"


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_a_classifier_of_one_class_is_told(capsys, animals, tmp_path):
    """By training, evaluation and scores, also by those that were finished before."""
    where = ["--dataset", "folder", "--data-root", str(animals), "--size", "32"]
    assert main([*TRAIN, *where, "--epochs", "1", "--lr", "1e-9"]) == 0
    out = capsys.readouterr().out
    assert out.count("WARNING: all 2 images are predicted as one class, '") == 1
    best = out.split()[-1]
    assert main(["evaluate", best, "--split", "train"]) == 0
    assert "WARNING: all 20 images are predicted as one class, '" in capsys.readouterr().out
    explained = ["--classifier", best, "--baseline", "centre", "--out", str(tmp_path / "scores.csv")]
    for _ in range(2):
        assert main(["score", *explained, *where]) == 0
        assert capsys.readouterr().out.count("WARNING: all 2 images are predicted as one class, '") == 1
    explainer = ["train", "--method", "l-cam-img", "--classifier", best, *where, "--epochs", "1"]
    assert main([*explainer, "--option", "labels=model"]) == 0
    assert capsys.readouterr().out.count("WARNING: all 2 images are predicted as one class, '") == 1


@pytest.mark.slow
def test_train_an_explainer_and_find_its_rate(home, capsys, tmp_path):
    small = ["--count", "32", "--epochs", "1", "--batch-size", "16"]
    assert main(["train", "--method", "plain", "--backbone", "resnet-8", *small]) == 0
    path = capsys.readouterr().out.strip().split(": ")[-1]
    given = ["--method", "tame", "--classifier", path, "--layers", "backbone.stages.1", "backbone.stages.2"]
    plot = tmp_path / "plots" / "lr.png"
    assert main(["lr-find", *given, "--count", "32", "--batch-size", "8", "--steps", "12", "--plot", str(plot)]) == 0
    assert "try --lr " in capsys.readouterr().out
    assert plot.stat().st_size > 5000
    assert main(["train", *given, *small, "--option", "masks=own"]) == 0
    out = capsys.readouterr().out
    assert "masked images still of their class" in out
    card = checkpoints.read(out.strip().split(": ")[-1])["card"]
    assert card["layers"] == ["backbone.stages.1", "backbone.stages.2"]
    assert card["options"]["masks"] == "own"
    history = next((home / "runs").glob("*/tame-plain-resnet-8-*/log.csv")).read_text()
    assert "train_area" in history
    beside = ["train", "--method", "p-tame", "--classifier", path, "--auxiliary", path, *small]
    assert main([*beside, "--option", "power=0.5"]) == 0
    card = checkpoints.read(capsys.readouterr().out.strip().split(": ")[-1])["card"]
    assert card["auxiliary"] == card["classifier"]
    assert card["options"]["power"] == 0.5


def test_the_authors_recipe_has_their_options_too():
    def job(method, classifier, *options):
        given = [
            "train",
            "--method",
            method,
            "--classifier",
            classifier,
            "--dataset",
            "imagenet",
            "--authors",
            *options,
        ]
        return cli.models.job_of(cli.parser().parse_args(given))

    found = job("p-tame", "resnet50", "--option", "area=0.5", "--auxiliary", "resnet18")
    assert found.options["cross_entropy"] == 0.16142940055382465
    assert (found.options["area"], found.options["variation"], found.auxiliary) == (0.5, 0, "resnet18")
    assert (found.recipe.optimiser, found.recipe.weight_decay) == ("adamw", 0.00024266552933845608)
    assert job("t-tame", "vit_b_16").options == {"classifier_mode": "train", "space": "normalised"}


@pytest.mark.usefixtures("home")
def test_authors_mechanisms_are_converted(capsys, tmp_path):
    torch.manual_seed(0)
    classifier = lficam.create("plain", "resnet-8", 10)
    path = tmp_path / "classifier.pt"
    checkpoints.save(path, {"card": classifier.card, "model": classifier.state_dict()})
    weight, bias = torch.rand(10, 64, 1, 1), torch.rand(10)
    whole = {"attnM.op.weight": weight, "attnM.op.bias": bias, "layer1.0.conv1.weight": torch.rand(3)}
    torch.save({"state_dict": whole, "epoch": 7}, tmp_path / "imagenet_epoch_7.pth.tar")
    options = ["--method", "l-cam-img", "--backbone", str(path)]
    assert main(["convert", str(tmp_path / "imagenet_epoch_7.pth.tar"), *options]) == 0
    target = capsys.readouterr().out.strip()
    assert target.endswith("imagenet_epoch_7.safetensors")
    explainer = lficam.load(target)
    assert torch.equal(explainer.mechanism.fuse.weight, weight)
    assert explainer(torch.rand(2, 3, 32, 32)).shape == (2, 8, 8)


def interrupted(home, arguments, begun):
    """What a command says last when Ctrl-C is pressed once it has begun."""
    process = begin(command, arguments, output=home / "said.txt")
    while not begun():
        assert process.is_alive(), (home / "said.txt").read_text()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == 130
    said = (home / "said.txt").read_text()
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.slow
def test_an_interrupted_training_says_what_is_kept(home):
    train = ["train", "--method", "plain", "--backbone", "resnet-8", "--count", "64", "--batch-size", "16"]
    logs = home.glob
    error = interrupted(
        home, [*train, "--epochs", "500"], lambda: any(len(p.read_text().split()) > 3 for p in logs("*/*/*/log.csv"))
    )
    (last,) = home.glob("runs/*/*/last.pt")
    done = len(checkpoints.read(last)["history"])
    assert error == (
        f"lficam: plain resnet-8 on photo-digits was interrupted: its first {done} of 500 epochs are kept in "
        f"{last.parent}, and the same command continues after them (not with fresh, --fresh)."
    )
    assert not list(home.glob("runs/*/*/*.lock"))


@pytest.mark.slow
def test_interrupted_scores_say_what_is_kept(home):
    network = lficam.create("plain", "resnet-8", 10)
    checkpoints.save(home / "best.pt", {"card": network.card, "model": network.state_dict()})
    score = ["score", "--baseline", "score-cam", "--classifier", str(home / "best.pt"), "--dataset", "photo-digits"]
    parts = home / "scores.csv.parts"
    error = interrupted(
        home,
        [*score, "--batch-size", "4", "--out", str(home / "scores.csv")],
        lambda: len(list(parts.glob("*/0*"))) > 1,
    )
    done = len(list(parts.glob("*/0*")))
    assert error == (
        f"lficam: scoring was interrupted: {done} of 250 batches are kept in {parts}, and the same command "
        "continues after them (not with fresh, --fresh)."
    )


@pytest.mark.parametrize(
    ("command", "step", "sentence"),
    [
        ("train", "training.jobs.fit", "plain resnet-8 on photo-digits was interrupted: no epoch is kept, and "),
        ("lr-find", "training.lr_range.train_step", "the learning-rate test was interrupted: it keeps nothing, and "),
        ("train", "data.datasets.load", ""),
    ],
)
def test_interrupted_before_there_is_anything(command, step, sentence, home, monkeypatch, capsys):
    def press(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(home)
    monkeypatch.setattr(f"lficam.{step}", press)
    assert main([command, "--method", "plain", "--backbone", "resnet-8", "--count", "32"]) == 130
    expected = f"{sentence}the same command starts it again." if sentence else "interrupted."
    assert capsys.readouterr().err == f"lficam: {expected}\n"
    assert not list(home.glob("*.png"))


LIBRARY = """
import sys
sys.modules |= dict.fromkeys({hidden})  # as if they were not installed, for imports and for whoever looks for them
from lficam.cli import main
from lficam.lab.notebooks import run
from lficam.lab.notebooks.run import RunError
import lficam, torch
model = lficam.create("plain", "resnet-8", 2)
images = lficam.images(torch.rand(4, 3, 32, 32), [0, 1, 0, 1], classes=("a", "b"))
made = {"tame": lficam.attach(model, "tame"), "grad-cam": lficam.baseline(model, "grad-cam")}
assert len(lficam.score(made, images)) == 8
few = ["--dataset", "photo-digits", "--count", "32", "--epochs", "1", "--size", "32"]
assert main(["train", "--method", "plain", "--backbone", "resnet-8", *few]) == 0
(best,) = map(str, __import__("pathlib").Path("runs").glob("*/*/best.pt"))
score = ["score", "--classifier", best, "--baseline", "centre", "grad-cam", "--dataset", "photo-digits", "--count", "4"]
assert main([*score, "--out", "scores.csv"]) == 0
assert main(["explain", "photo.png", "--classifier", best, "--method", "grad-cam", "--size", "32"]) == 0
print(*(main(command.split()) for command in sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_library_works_without_the_laboratory(home, pytestconfig, monkeypatch):
    """All of the extra `lab` is hidden; what needs it says in one sentence what to install."""
    hidden = {"IPython", "ipykernel", "ipywidgets", "jinja2", "jupyter_client", "jupyterlab", "nbclient", "nbconvert"}
    hidden |= {"nbformat", "papermill", "seaborn", "snakemake", "voila"}
    shutil.copytree(pytestconfig.rootpath / "notebooks", home / "notebooks")
    Image.new("RGB", (40, 40), "red").save(home / "photo.png")
    code, commands = LIBRARY.replace("{hidden}", repr(hidden)), ["run 06_iou --profile smoke", "reproduce"]
    monkeypatch.chdir(home)
    assert finish(begin(execute, code, *commands, output=home / "said.txt")) == 0
    said = (home / "said.txt").read_text().splitlines()
    assert said[-1] == "2 2"
    told = [line for line in said if line.startswith("lficam: ")]
    assert len(told) == 2
    for line in told:
        assert "is not installed" in line
        assert "`pip install 'lficam[lab]'`" in line
