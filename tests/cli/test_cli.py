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
from torchvision import models
from toys import finished, toy

import lficam
from lficam import cli, progress
from lficam.cli import main
from lficam.models import checkpoints
from lficam.training.recipes import Recipe, explainer_recipe, photos_recipe


def test_help_is_quick():
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "lficam", "--help"], capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 2  # 0.1 s on an idle machine; importing torch alone takes longer
    assert "publish" in done.stdout


def test_help_imports_nothing_heavy():
    code = "import sys, lficam.cli; lficam.cli.parser(); print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "yaml", "nbformat", "papermill"} & set(done.stdout.split())


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("lficam 0")


def test_the_package_is_the_command():
    command = [sys.executable, "-m", "lficam", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"lficam {lficam.__version__}\n"
    )


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


def test_list(home, capsys):
    toy(home, "01_toy")
    assert main(["run", "--list"]) == 0
    assert capsys.readouterr().out == "notebooks\n  01_toy\nprofile smoke\n  01_toy\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["01_toy", "--set", "epohs=1"], "did you mean 'epochs'"),
        (["01_toy", "--set", "lr=1e-3"], "in YAML write 0.001"),
        (["01_toy", "--set", "lr"], "expected NAME=VALUE"),
        (["01_toy", "--set", "lr=[1"], "--set lr=[1: "),
        (["--set", "lr=1"], "--set belongs to one notebook"),
        (["01_toy", "02_toy", "--set", "lr=1"], "--set belongs to one notebook"),
        (["nothing"], "Unknown notebook"),
    ],
)
def test_wrong_input(home, capsys, arguments, words):
    toy(home, "01_toy")
    toy(home, "02_toy")
    assert main(["run", "--profile", "smoke", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lficam: ")
    assert error.count("\n") == 1
    assert words in error


def test_exit_codes_of_runs(home, capsys):
    toy(home, "01_good")
    toy(home, "02_exit", cells=["import os; os._exit(7)"])
    assert main(["run", "01_good", "--profile", "smoke", "--set", "lr=0.5", "--timeout", "60"]) == 0
    assert "01_good finished in" in capsys.readouterr().out
    assert main(["run", "--profile", "smoke"]) == 3
    assert "exited with status 7" in capsys.readouterr().err
    assert main(["publish", "--profile", "smoke"]) == 0
    assert (home / "figures" / "smoke" / "01_good" / "record.json").is_file()


def test_an_unexpected_exception_keeps_its_traceback(home, monkeypatch):
    finished(home, "01_toy")
    monkeypatch.setattr("lficam.lab.notebooks.finished.publish", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["publish", "--profile", "smoke"])


def test_train_evaluate_dump_and_compare(home, capsys):
    """The life of a model on the command line; the second training is found."""
    train = ["train", "--method", "lfi-cam", "--backbone", "resnet-8", "--epochs", "1", "--milestones", "--lr", "0.01"]
    assert main([*train, "--seed", "2", "--batch-size", "256"]) == 0
    best = capsys.readouterr().out.split()[-1]
    assert main([*train, "--seed", "2", "--batch-size", "256", "--resume"]) == 0
    assert "found finished" in capsys.readouterr().out
    dump = home / "maps.npz"
    evaluate = ["evaluate", best, "--count", "40", "--perturbation", "0.05", "--dump", str(dump)]
    assert main(evaluate) == 0
    out = capsys.readouterr().out
    assert "N = 40  (photo-digits, test)" in out
    assert "under FGSM 0.05" in out
    assert main(["iou", str(dump), str(dump), "--protocol", "standard"]) == 0
    assert "IoU   1.0000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--method", "abn", "--backbone", "resnet-9"], "6n+2"),
        (["train", "--method", "abn", "--backbone", "resnet-8", "--dataset", "cifar"], "did you mean 'cifar10'"),
        (
            ["train", "--method", "abn", "--backbone", "resnet-8", "--authors"],
            "No authors' recipe for abn on photo-digits",
        ),
        (["train", "--method", "abn", "--backbone", "resnet-8", "--lr", "-1"], "lr: expected a number above 0"),
        (["evaluate", "nowhere.pt"], "No checkpoint nowhere.pt"),
        (["convert", "nowhere.pth.tar", "--method", "abn", "--backbone", "resnet-20"], "No checkpoint nowhere.pth.tar"),
    ],
)
@pytest.mark.usefixtures("home")
def test_wrong_input_is_one_sentence_and_exit_code_2(capsys, arguments, sentence):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert error.startswith("lficam: ")


@pytest.fixture
def animals(tmp_path):
    """Photos of two colours in class folders, 12 each."""
    for name, colour in {"cat": (250, 200, 0), "dog": (0, 50, 250)}.items():
        (tmp_path / "animals" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (20, 20), colour).save(tmp_path / "animals" / name / f"{i}.png")
    return tmp_path / "animals"


TRAIN = ["train", "--method", "plain", "--backbone", "resnet-8"]
SCORE = ["score", "--classifier", "resnet18", "--weights", "random", "--baseline", "centre"]


@pytest.mark.parametrize(
    "command",
    [
        TRAIN,
        ["lr-find", *TRAIN[1:]],
        ["evaluate", "BEST"],
        SCORE,
        ["explain", "PHOTO", "--method", "centre", *SCORE[1:5]],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize(
    ("option", "value", "limits"),
    [
        ("size", "0", "from 16 to 4096"),
        ("size", "-5", "from 16 to 4096"),
        ("size", "10000", "from 16 to 4096"),
        ("count", "0", "of at least 1"),
        ("count", "-1", "of at least 1"),
        ("workers", "-1", "of at least 0"),
    ],
)
@pytest.mark.usefixtures("home")
def test_impossible_numbers_are_one_sentence(capsys, animals, tmp_path, command, option, value, limits):
    if command[0] == "explain" and option != "size":
        pytest.skip("no such option")
    model = lficam.create("plain", "resnet-8", 2)
    settings = {"job": {"dataset": "folder", "data_root": str(animals), "size": 32}}
    checkpoints.save(tmp_path / "best.pt", {"card": model.card, "model": model.state_dict(), "settings": settings})
    files = {"BEST": str(tmp_path / "best.pt"), "PHOTO": str(animals / "cat" / "1.png")}
    given = [] if command[0] in ("explain", "evaluate") else ["--dataset", "folder", "--data-root", str(animals)]
    assert main([*(files.get(part, part) for part in command), *given, f"--{option}", value]) == 2
    assert capsys.readouterr().err == f"lficam: {option} must be a whole number {limits}, not {value}.\n"


@pytest.mark.usefixtures("home")
def test_a_list_with_a_label_that_the_classifier_lacks(capsys, animals, tmp_path):
    torch.save(models.resnet18(num_classes=3).state_dict(), tmp_path / "three.pth")
    (tmp_path / "list.txt").write_text("cat/1.png 0\ndog/1.png 9\n")
    files = ["--dataset", "folder", "--data-root", str(animals), "--list-file", str(tmp_path / "list.txt")]
    three = ["--weights", str(tmp_path / "three.pth")]
    assert main([*SCORE[:3], *three, *SCORE[5:], *files, "--size", "32"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lficam: ")
    assert "list.txt:2: dog/1.png has label 9, but with 3 classes the labels are 0 to 2: correct the list." in error


@pytest.mark.usefixtures("home")
def test_one_class_folder_is_named(capsys, animals):
    shutil.rmtree(animals / "dog")
    assert main([*TRAIN, "--dataset", "folder", "--data-root", str(animals), "--size", "32"]) == 2
    sentence = (
        "lficam: folder has one class only, the folder 'cat': a classifier needs at least two; give the folder that "
    )
    assert capsys.readouterr().err.startswith(sentence)


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "tame", "--classifier", "resnet5"], "Unknown classifier 'resnet5': did you mean"),
        (["--method", "tame", "--classifier", "nowhere/best.pt"], "No checkpoint nowhere/best.pt"),
        (["--method", "tam", "--classifier", "resnet50"], "Unknown method 'tam': did you mean 'tame'"),
        (["--method", "tame", "--classifier", "resnet18", "--weights", "random", "--layers", "layer5"], "near ones"),
    ],
)
@pytest.mark.usefixtures("home")
def test_wrong_explainers_are_one_sentence(capsys, arguments, words):
    assert main(["train", *arguments, "--count", "8", "--size", "32"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lficam: ")
    assert error.count("\n") == 1
    assert words in error


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


# The tests themselves may run in the background, where a shell has SIGINT ignored.
COMMAND = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
COMMAND += "from lficam.cli import main; sys.exit(main(sys.argv[1:]))"


def interrupted(arguments, begun):
    """What a command says, in all, when Ctrl-C is pressed once it has begun."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], **pipes) as process:
        try:
            while not begun():
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            error = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert error.count("\n") == 1, error
    return error


def test_an_interrupted_training_says_what_is_kept(home):
    train = ["train", "--method", "plain", "--backbone", "resnet-8", "--count", "64", "--batch-size", "16"]
    logs = home.glob
    error = interrupted(
        [*train, "--epochs", "500"], lambda: any(len(p.read_text().split()) > 3 for p in logs("*/*/*/log.csv"))
    )
    (last,) = home.glob("runs/*/*/last.pt")
    done = len(checkpoints.read(last)["history"])
    assert error == (
        f"lficam: plain resnet-8 on photo-digits was interrupted: its first {done} of 500 epochs are kept in "
        f"{last.parent}, and the same command continues after them (not with fresh, --fresh).\n"
    )
    assert not list(home.glob("runs/*/*/*.lock"))


def test_interrupted_scores_say_what_is_kept(home):
    network = lficam.create("plain", "resnet-8", 10)
    checkpoints.save(home / "best.pt", {"card": network.card, "model": network.state_dict()})
    score = ["score", "--baseline", "score-cam", "--classifier", str(home / "best.pt"), "--dataset", "photo-digits"]
    part = home / "scores.csv.part"
    error = interrupted(
        [*score, "--batch-size", "4", "--out", str(home / "scores.csv")],
        lambda: part.exists() and part.read_bytes().count(b"\n") > 2,
    )
    done = part.read_bytes().count(b"\n") - 1
    assert error == (
        f"lficam: scoring was interrupted: {done} batches of 4 images are kept in {part}, and the same command "
        "continues after them (not with fresh, --fresh).\n"
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


def test_the_library_works_without_the_laboratory(tmp_path, pytestconfig):
    """All of the extra `lab` is hidden; what needs it says in one sentence what to install."""
    hidden = {"IPython", "ipykernel", "ipywidgets", "jinja2", "jupyter_client", "jupyterlab", "nbclient", "nbconvert"}
    hidden |= {"nbformat", "papermill", "seaborn", "snakemake", "voila"}
    shutil.copytree(pytestconfig.rootpath / "notebooks", tmp_path / "notebooks")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "photo.png")
    code, commands = LIBRARY.replace("{hidden}", repr(hidden)), ["run 06_iou --profile smoke", "reproduce"]
    environment = os.environ | {"LFICAM_HOME": str(tmp_path), "PYTHONPATH": str(pytestconfig.rootpath)}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code, *commands], **options)
    assert done.stdout.endswith("2 2\n"), done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("lficam: ")]
    assert len(told) == 2
    for line in told:
        assert "is not installed" in line
        assert "`pip install 'lficam[lab]'`" in line
