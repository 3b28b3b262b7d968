"""Parameters of a notebook: its own literals, what a profile sets, whether the two agree, and the run they make."""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ... import files
from ...errors import InputError, choose, is_a, reason, wrong_type
from ...files import short
from ..report import values

FILLED = ("profile", "output")  # parameters that the runner gives


def read_defaults(notebook: Path) -> dict[str, Any]:
    """A notebook's parameters and their defaults. Raises `InputError` unless one cell of literals holds them."""
    where = short(notebook)
    try:
        cells = json.loads(notebook.read_bytes())["cells"]
        tagged = {
            tag: [cell for cell in cells if tag in cell["metadata"].get("tags", [])]
            for tag in ("parameters", "injected-parameters")
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where} is not a notebook of format 4: restore the original, or save it anew.") from error
    if tagged["injected-parameters"]:
        raise InputError(
            f"{where} is the output of a run (a cell is tagged 'injected-parameters'): restore the original."
        )
    if len(tagged["parameters"]) != 1:
        found = len(tagged["parameters"]) or "none"
        raise InputError(f"{where}: expected exactly one cell with the tag 'parameters', found {found}.")
    defaults = _literals("".join(tagged["parameters"][0]["source"]), where)
    for name in FILLED:
        if not isinstance(defaults.get(name), str):
            raise InputError(f'{where}: its parameters cell must hold profile = "lab" and output = "".')
    return defaults


def _literals(source: str, where: Path) -> dict[str, Any]:
    """Assignments of literals as a mapping."""
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise InputError(f"{where}: line {error.lineno} of its parameters cell is not Python ({error.msg}).") from None
    values = {}
    for statement in statements:
        try:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value):
                    values[name] = ast.literal_eval(value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    values[name] = ast.literal_eval(value)
                case _:
                    raise ValueError
        except (ValueError, TypeError):
            raise InputError(
                f"{where}: line {statement.lineno} of its parameters cell, `{ast.unparse(statement).splitlines()[0]}`, "
                "is not NAME = a literal; move it into the next cell, where it sees the values of the profile."
            ) from None
    return values


def read_profile(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """A parameter file's values, and the line of each. Raises `InputError` unless it is a flat mapping or empty."""
    try:
        content = path.read_bytes()
        tree, values = yaml.compose(content, Loader=yaml.SafeLoader), yaml.safe_load(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{short(path)}{line}: {getattr(error, 'problem', None) or reason(error)}; expected NAME: VALUE lines."
        ) from None
    if tree is None:
        return {}, {}
    if not isinstance(values, dict):
        line = tree.start_mark.line + 1
        raise InputError(f"{short(path)}, line {line}: expected NAME: VALUE lines, got {type(values).__name__}.")
    lines: dict[str, int] = {}
    for key, _ in tree.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise InputError(f"{short(path)}, line {line}: {key.value} was already set in line {lines[key.value]}.")
        lines[key.value] = line
    return values, lines


def check(name: str, value: Any, defaults: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` unless the notebook has this parameter and its default is of the value's type."""
    if name in FILLED:
        raise InputError(f"{where}: {name} is given by the runner; remove it.")
    try:
        default = choose("parameter", name, {key: value for key, value in defaults.items() if key not in FILLED})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if default is None:
        return
    kind = list if isinstance(default, (list, tuple)) else type(default)
    if not is_a(value, kind):
        raise InputError(f"{where}: {wrong_type(name, kind, value)}")
    kinds = {type(item) for item in default} if kind is list else set()
    item = float if kinds == {int, float} else next(iter(kinds)) if len(kinds) == 1 else object
    for i, entry in enumerate(value if kinds else ()):
        if item is not object and not is_a(entry, item):
            raise InputError(f"{where}: {wrong_type(f'{name}[{i}]', item, entry)}")


@dataclass(frozen=True)
class Prepared:
    """A checked run that has not started."""

    name: str
    profile: str
    source: Path
    defaults: dict[str, Any]
    parameters: dict[str, Any]
    command: str
    timeout: int | None
    seed: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """All parameters, with the notebook's own defaults."""
        return self.defaults | self.parameters

    @property
    def folder(self) -> Path:
        """Where the results go: reports/PROFILE/NAME, or that of a seed, reports/PROFILE/seed-3/NAME."""
        return folder_of(self.profile, self.name, self.seed)

    @property
    def failed(self) -> Path:
        """The partly executed notebook of a failed run, beside the results."""
        return self.folder.with_name(f"{self.name}.failed.ipynb")


def folder_of(profile: str, notebook: str, seed: int | None = None) -> Path:
    """Where the results of a notebook go, as `Prepared.folder`."""
    home = files.root() / "reports" / profile
    return (home if seed is None else home / f"{values.PLACE}{seed}") / notebook
