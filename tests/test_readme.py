"""Every command and snippet of the README is real."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from lficam import cli, run

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines() if line]


def starting_with(prefix):
    return [command for command in COMMANDS if command.startswith(prefix)]


@pytest.mark.parametrize("block", [block for kind, block in BLOCKS if kind == "python"])
def test_python_snippets_run(block):
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("command", starting_with(".venv/bin/lficam run 01"))
def test_notebook_commands_are_accepted(command):
    """All that can be checked without a kernel: names, types, profiles."""
    arguments = cli.parser().parse_args(shlex.split(command)[1:])
    plan = run.prepare(arguments.notebooks[0], arguments.profile, cli._values("--set", arguments.set))
    assert plan.command in command


@pytest.mark.parametrize("command", starting_with(".venv/bin/lficam "))
def test_commands_are_parsed(command):
    assert callable(cli.parser().parse_args(shlex.split(command)[1:]).call)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("command", starting_with("make"))
def test_make_targets_exist(command):
    subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_list_command(capsys):
    assert cli.main(["run", "--list"]) == 0
    assert "01_train_lficam" in capsys.readouterr().out


def test_the_readme_names_both_commands():
    assert starting_with("make") == ["make reproduce", "make test"]
