"""The files around the code hold together: dependencies, pins, conda, notebooks, size of modules."""

import ast
import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from lficam.lab.notebooks import run
from lficam.lab.notebooks.parameters import read_defaults
from lficam.lab.report.records import read_record

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
PINS = {name.lower().replace("_", "-"): version for name, version in PINS.items()}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def requirements():
    lines = PROJECT["dependencies"] + [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    return [r for r in map(Requirement, lines) if r.name != "lficam"]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_dependency_is_pinned_within_its_range(requirement):
    assert requirement.name in PINS
    assert requirement.specifier.contains(Version(PINS[requirement.name]))


def test_constraints_name_no_host():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==\S+", line) for line in lines)
    assert not re.search(r"https?:|@|--index|--find", "\n".join(lines))


def test_environment_installs_the_same_package_and_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python="))
    assert Requirement("x" + PROJECT["requires-python"]).specifier.contains(Version(python.partition("=")[2]))
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["--constraint constraints.txt", "--editable .[dev]"]
    assert "--constraint constraints.txt --editable '.[dev]'" in (ROOT / "Makefile").read_text()


def test_ci_calls_the_test_command_of_the_readme():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def test_the_wheel_has_all_that_is_read_and_building_it_leaves_nothing_untracked(tmp_path):
    """In a copy: every file of the package but caches, and whatever else appears is ignored by git."""
    files = [path for path in (ROOT / "lficam").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for path in [*files, *(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"))]:
        target = tmp_path / "copy" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    before = set((tmp_path / "copy").iterdir())
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", tmp_path]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", *options, tmp_path / "copy"]
    subprocess.run(command, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("lficam-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name}
    assert packed == {path.relative_to(ROOT).as_posix() for path in files}
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    new = {path.name for path in set((tmp_path / "copy").iterdir()) - before}
    assert not [name for name in new if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)]


def test_version_is_one():
    assert f'__version__ = "{PROJECT["version"]}"' in (ROOT / "lficam" / "__init__.py").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_committed_clean_and_thin(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert 3 * (len(cells) - len(code)) >= 2 * len(code)  # as much to read as to run
    assert len(read_defaults(path)) <= 25  # what belongs together has a name, as a recipe has
    for cell in code:
        assert not cell["outputs"]
        assert cell["execution_count"] is None
        source = "".join(cell["source"])
        tree = ast.parse(source)
        assert not [n for n in ast.walk(tree) if isinstance(n, (ast.ClassDef, ast.FunctionDef, ast.While))]
        if "parameters" not in cell["metadata"].get("tags", []):
            assert len(source.splitlines()) <= 15


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_load_their_test_images_before_they_train(path):
    """What is not there is said before hours of training, not after."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    assert (
        re.search(r'"test"|jobs\[methods\[0\]\]\.images', code).start()
        < re.search(r"train_all\(|sweep\.frozen\(", code).start()
    )


def test_imports_run_one_way():
    """The contracts in pyproject.toml: the order of the rooms, and that the library knows no notebook."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


def public_functions(body):
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)
        if isinstance(node, ast.FunctionDef) and (node.name in ("__init__", "__call__") or node.name[0] != "_"):
            yield node


def test_every_public_function_is_typed():
    """`make lint` checks that the hints are right."""
    bare = []
    for path in (ROOT / "lficam").rglob("*.py"):
        for function in public_functions(ast.parse(path.read_text()).body):
            given = function.args
            named = [a for a in [*given.posonlyargs, *given.args, *given.kwonlyargs] if a.arg not in ("self", "cls")]
            untold = function.returns is None and function.name != "__init__"  # None, of course
            if untold or any(a.annotation is None for a in named):
                bare.append(f"{path.relative_to(ROOT)}:{function.lineno} {function.name}")
    assert not bare


def test_published_results_are_complete():
    records = sorted((ROOT / "figures").glob("*/*/record.json"))
    assert records
    for path in records:
        record = read_record(path.parent)
        assert record["profile"] == path.parents[1].name
        assert record["commit"] != "unknown"


@pytest.mark.parametrize("profile", sorted(p.name for p in (ROOT / "notebooks" / "profiles").iterdir()))
def test_every_profile_fits_its_notebooks(profile):
    """All that can be checked without running: names and types, and that 06 asks for the models of 02."""
    plans = {name: run.prepare(name, profile) for name in run.profiles()[profile]}
    assert plans
    shared = [dict(plans[n].parameters) for n in ("02_abn_stability", "06_iou") if n in plans]
    for parameters in shared:
        parameters.pop("examples", None)
    assert len(shared) in (0, 2)
    assert not shared or shared[0] == shared[1]
