"""What the pages say is so: snippets run, commands parse and run, links lead somewhere, generated parts are current."""

import errno
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest import mock
from urllib.parse import urlsplit

import pytest
import torch
import yaml
from PIL import Image
from torchvision import models

import lficam
from lficam import cli, files
from lficam.data import datasets, sources
from lficam.explainers import convert, mechanism, registry
from lficam.lab.notebooks import kernel, run
from lficam.metrics import evaluation, measures
from lficam.models import attention, checkpoints
from lficam.models.registry import builder
from lficam.training import jobs, recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [
    *PAGES,
    ROOT / "CHANGELOG.md",
    *(ROOT / p / "README.md" for p in ("benchmarks", "lficam/data/tables/papers", "tests/golden")),
]

# Commands that are checked but not run, and why; on a page, `<!-- not run: REASON -->` before a block says the same.
NOT_RUN = {
    r"^make ": "minutes to hours; here a dry run, and CI runs `make test`",
    r"^lficam run \w": "a kernel for minutes; tests/lab/test_notebooks.py runs every notebook with the profile smoke",
    r"^lficam reproduce (?!.*--dry-run)": "minutes to days; tests/lab/test_reproduce.py runs graphs of its own",
    r"^lficam explore": "a page until Ctrl+C; tests/lab/test_explorer.py and test_explorer_page.py open it",
    r"^lficam plan --profile (cifar|paper)": "a minute; tests/lab/test_plan.py reads every profile",
    r"imagenet|cifar10|stl10|catdog": "that data set is not in the repository",
    r"0123456789": "stands for a training of the reader",
    r"^lficam convert ": "their files are not in the repository; tests/explainers/test_convert.py has their like",
    r"^lficam explain .*--classifier resnet50": "would download weights",
}


def blocks(page, *kinds):
    """(text, reason not to run it or "") of the fenced blocks of these kinds."""
    pattern = r"(?:<!-- not run: ([^>]+?) -->\n)?^```(\w+)\n(.*?)^```$"
    found = re.findall(pattern, page.read_text(encoding="utf-8"), re.S | re.M)
    return [(text, reason) for reason, kind, text in found if kind in kinds]


def commands():
    """(page, command from `lficam` or `make` on, reason not to run it or "") of every shell block."""
    for page in PAGES:
        for text, reason in blocks(page, "bash", "sh", "shell", "console"):
            for line in text.replace("\\\n", " ").splitlines():
                words = [Path(w).name if w.endswith("/lficam") else w for w in shlex.split(line, comments=True)]
                start = next((i for i, w in enumerate(words) if w in ("lficam", "make")), None)
                if start is not None:
                    end = next((i for i, w in enumerate(words) if i > start and set(w) <= set("&|;<>")), None)
                    command = shlex.join(words[start:end])
                    listed = next((why for what, why in NOT_RUN.items() if re.search(what, command)), "")
                    yield pytest.param(page, command, reason or listed, id=f"{page.stem}: {command}")


def test_the_readme_names_both_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make reproduce" in text
    assert "make test" in text


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_no_reason_is_left_over(pattern):
    assert any(re.search(pattern, case.values[1]) for case in commands())


def furnish(folder):
    """What the pages take for granted: the notebooks, photos, class folders and a list of the reader."""
    (folder / "notebooks").symlink_to(ROOT / "notebooks")
    (folder / "list.txt").write_text("train/cats/1.jpg 0\ntrain/dogs/1.jpg 1\n")
    names = [
        f"my_photos/{part}/{kind}/{i}.jpg" for part in ("train", "val") for kind in ("cats", "dogs") for i in "123"
    ]
    for i, name in enumerate(["cat.jpg", "holiday/beach.jpg", *names]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((80, 70), 10 + i).convert("RGB").save(path)


def train_hardly(folder):
    """Two explainers of one classifier, the classifier itself, their maps and scores, as files."""
    torch.manual_seed(0)
    settings = {"job": {"dataset": "photo-digits", "size": 0}, "classes": [str(i) for i in range(10)]}

    def save(name, model):
        checkpoints.save(folder / name, {"card": model.card, "model": model.state_dict(), "settings": settings})
        return str(folder / name)

    classifier = save("classifier.pt", lficam.create("plain", "resnet-8", 10))
    save("best.pt", lficam.attach(classifier, "tame"))
    save("other.pt", lficam.attach(classifier, "l-cam-img"))
    torch.save(models.resnet18(num_classes=3).state_dict(), folder / "my.pth")
    images = datasets.load("photo-digits", "test", count=20)
    model = lficam.load(classifier)
    for name in ("maps", "other"):
        evaluation.dump(evaluation.predict(model, images), images, folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The folder of a reader who follows the pages."""
    folder = tmp_path_factory.mktemp("reader")
    furnish(folder)
    train_hardly(folder)
    return folder


@pytest.fixture
def limit():
    """A minute of the processor, on however busy a machine, is enough for any command or page."""

    def stop(*_):
        raise TimeoutError("More than a minute: mark it with <!-- not run: REASON -->.")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, 60)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize(("page", "command", "reason"), list(commands()))
def test_commands(page, command, reason, reader, limit, monkeypatch):  # noqa: ARG001 - the page is for its name
    words = shlex.split(command)
    if words[0] == "make":
        check_make(words)
    else:
        check_names(cli.parser().parse_args(words[1:]))
    if not reason:
        monkeypatch.chdir(reader)
        monkeypatch.setenv("LFICAM_HOME", str(reader))
        assert cli.main(words[1:]) == 0


def check_make(words):
    """The target exists, and so does the profile."""
    for name, _, value in (word.partition("=") for word in words[1:]):
        assert name != "PROFILE" or value in run.profiles()
    if shutil.which("make"):
        subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def check_names(arguments):
    """What argparse does not know: names of methods, data sets, profiles, notebooks and their parameters."""
    known = {
        "method": {*jobs.METHODS, *registry.METHODS},
        "baseline": registry.METHODS,
        "dataset": datasets.NAMES,
        "split": datasets.SPLITS,
        "measures": measures.MEASURES,
        "precision": measures.PRECISIONS,
        "protocol": ("authors", "standard"),
        "profile": run.profiles(),
    }
    for option, names in known.items():
        value = getattr(arguments, option, None) or []
        assert set(value if isinstance(value, list) else [value]) <= set(names), option
    backbone = getattr(arguments, "backbone", None)
    if backbone and not backbone.endswith(".pt") and not backbone.startswith("timm/"):
        assert builder(backbone) or backbone in models.list_models(module=models)
    if arguments.call is cli.lab.run_notebooks:
        for name in arguments.notebooks:
            run.prepare(name, arguments.profile, cli.values_of("--set", arguments.set))
    if arguments.call in (cli.models.train_model, cli.models.find_lr):
        assert cli.models.job_of(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_the_text_exist(page):
    """`lficam explain --method` within a sentence: the command and its options, perhaps without values."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    choices = next(action.choices for action in cli.parser()._actions if action.choices)
    for span in re.findall(r"`(?:\.venv/bin/)?(lficam [^`]+)`", text):
        name, *words = span.split()[1:]
        if name != "...":
            known = {option for action in choices[name]._actions for option in action.option_strings}
            assert {word for word in words if word.startswith("--")} <= known, span
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make (\w+)[^`]*`", text)) <= targets


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_snippets_run(page, tmp_path, monkeypatch, limit):  # noqa: ARG001
    """All of a page in one namespace, in a folder of its own."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LFICAM_HOME", str(tmp_path))
    space = {"__name__": page.stem}
    for text, reason in blocks(page, "python"):
        code = compile(text, page.name, "exec")
        if not reason:
            exec(code, space)


def anchors(page):
    """The anchors of a page's headings, as code-hosting pages make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if urlsplit(target).scheme:
            continue
        assert (page.parent / path).exists(), target
        if anchor:
            assert anchor in anchors((page.parent / path) if path else page), target
    for path in re.findall(r"`((?:lficam|data|docs|tests|notebooks|tools|benchmarks|workflow)/[\w./-]+)`", text):
        assert "NN" in path or path.startswith("data/cache") or (ROOT / path).exists(), path
    for url in re.findall(r"https?://[^\s)>`\"]+", page.read_text(encoding="utf-8")):
        host = urlsplit(url).hostname or ""
        assert re.fullmatch(r"[\w-]+(\.[\w-]+)*\.[a-z]{2,}", host), f"{url}: no public address"
        assert not host.endswith((".local", ".lan", ".internal", ".corp", ".intranet", ".localdomain")), url


def test_the_index_lists_every_page():
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert not [p.name for p in (ROOT / "docs").glob("*.md") if p.name != "README.md" and f"({p.name})" not in text]


def generator():
    spec = importlib.util.spec_from_file_location("docs_generator", ROOT / "tools" / "docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_generated_parts_are_current(page):
    text = page.read_text(encoding="utf-8")
    assert generator().fill(text) == text, "run `python tools/docs.py`"


def test_the_reference_has_the_public_names(tmp_path):
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in lficam.__all__:
        assert f"\n### {name}\n" in text
    made = generator().fill("<!-- api: maps.span -->\nold\n<!-- end -->")
    assert "lficam.maps.span(x: Tensor)\n    Maximum minus minimum" in made
    assert "old" not in made
    (tmp_path / "smoke" / "01").mkdir(parents=True)
    (tmp_path / "smoke" / "01" / "a.csv").write_text("method|s,reproduced\n|x|,-0.5\ny,\n")
    (tmp_path / "smoke" / "01" / "record.json").write_text(
        '{"tables": [{"file": "a.csv", "digits": {"reproduced": 2}}]}'
    )
    page = generator().fill("<!-- smoke:01/a.csv -->\n<!-- end -->", tmp_path)
    assert page.split("\n")[1:-1] == [r"| method\|s | reproduced |", "| --- | --- |", r"| \|x\| | −0.50 |"]
    assert "Frozen(network: nn.Module, mean: Scale, " in generator().entry("explainers.frozen.Frozen")


def test_parameters_by_the_formulas_of_the_methods_page():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    widths, classes = (256, 512, 512), 1000
    branches = sum(c**2 for c in widths) + 3 * sum(widths)
    assert count(mechanism.TAME(widths, classes)) == branches + classes * (1 + sum(widths))
    assert count(mechanism.LCAM((512,), classes)) == classes * (512 + 1)
    assert count(attention.FeatureImportanceNetwork(64)) == 36 * 64**2 + 8 * 64


def test_the_citation_is_of_this_version_and_the_five_papers():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == lficam.__version__
    assert f"## {lficam.__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    papers = {entry["identifiers"][0]["value"].removeprefix("arXiv:") for entry in cited["references"]}
    assert papers == {"2105.00937", "1812.10025", "2209.11189", "2301.07407", "2403.04523"}
    assert all(entry["title"] and entry["authors"] for entry in [cited, *cited["references"]])


def killed(home):  # noqa: ARG001
    """The runner's part of it; that the kernel's death is noticed is tested in test_run.py."""

    def dies(self, prepared, folder):
        shutil.copy(prepared.source, folder)
        self.process = SimpleNamespace(poll=lambda: -signal.SIGKILL)
        raise RuntimeError("Kernel died")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel.Kernel, "execute", dies)
        run.run("04_tame", "desk")


def output_of_a_run(home):
    (home / "notebooks").unlink()
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    path = home / "notebooks" / "01_train_lficam.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace('"parameters"', '"injected-parameters"'))
    run.prepare("01_train_lficam", "desk")


def diverged(home):  # noqa: ARG001
    recipe = jobs.Recipe(epochs=2, batch_size=10, lr=1e9)
    jobs.train(jobs.Job("plain", "resnet-8", train_count=20, validation_count=10, recipe=recipe))


def of_another(home):  # noqa: ARG001
    explainer = lficam.attach(lficam.create("plain", "resnet-8", 4), "l-cam-img")
    checkpoints.save("best.pt", {"card": explainer.card, "model": explainer.state_dict()})
    lficam.load("best.pt", classifier=lficam.create("plain", "resnet-8", 4))


def damaged(home):  # noqa: ARG001
    checkpoints.save("last.pt", {"card": {}, "model": {"w": torch.ones(1000)}})
    with Path("last.pt").open("r+b") as file:
        file.seek(1000)
        file.write(bytes(200))
    checkpoints.read("last.pt")


def holds_code(home):  # noqa: ARG001
    torch.save({"state_dict": {}, "arguments": SimpleNamespace()}, "model.pth.tar")
    convert.convert("model.pth.tar", "out", "plain", "resnet-8")


def unreadable(home):  # noqa: ARG001
    Path("photo.jpg").write_text("no image")
    sources.open_rgb("photo.jpg")


def full(home):  # noqa: ARG001
    Path("scores.csv").write_text("earlier")
    refusal = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch.object(os, "fsync", side_effect=refusal), files.atomic("scores.csv", "w"):
        pass


def taken(home):
    path, todo = home / "runs" / "last.pt", "wait for it, then the same command finds the model"
    with files.locked(path, todo), files.locked(path, todo):
        pass


def out_of_range(home):  # noqa: ARG001
    lficam.create("plain", "resnet-8", 3).eval()(torch.arange(256.0).expand(1, 3, 256, 256))


FAILURES = {
    "no CIFAR": lambda _: datasets.load("cifar10", "train"),
    "no ImageNet": lambda _: datasets.load("imagenet", "train"),
    "misspelt": lambda _: run.prepare("01_train_lficam", "desk", {"example": 3}),
    "type": lambda _: recipes.find("desk", "plain", "photo-digits", "resnet-14", lr="1e-3"),
    "output of a run": output_of_a_run,
    "killed": killed,
    "diverged": diverged,
    "another classifier": of_another,
    "out of range": out_of_range,
    "damaged": damaged,
    "holds code": holds_code,
    "unreadable": unreadable,
    "disk full": full,
    "another run": taken,
}


def sentences():
    return [text.strip() for text, _ in blocks(ROOT / "docs" / "troubleshooting.md", "text")]


@pytest.mark.parametrize("failure", FAILURES)
def test_troubleshooting_quotes_what_is_printed(failure, home, monkeypatch):
    monkeypatch.chdir(home)
    (home / "notebooks").symlink_to(ROOT / "notebooks")
    with pytest.raises((lficam.InputError, run.RunError)) as caught:
        FAILURES[failure](home)
    assert "lficam: " + str(caught.value).replace(str(home), "~/lficam") in sentences()


def test_troubleshooting_quotes_the_warning():
    predicted = torch.zeros(40, dtype=torch.long)
    assert evaluation.one_class(predicted, torch.arange(40) % 2, ("cat", "dog")) in sentences()


def test_troubleshooting_quotes_nothing_else():
    assert sum(text.startswith("lficam: ") for text in sentences()) == len(FAILURES)
