"""The strict notebook runner: all is checked before a kernel starts, and success is the result record alone.

run("03_lcam", profile="smoke", overrides={"seed": 2})    # -> reports/smoke/03_lcam/record.json
"""

import json
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ... import files
from ...errors import InputError, choose, is_a
from ...files import short
from ...progress import duration, say
from ..report import values
from ..report.page import write_index
from ..report.records import read_record
from .kernel import ANSWER, Kernel, without_grammar
from .parameters import Prepared, check, read_defaults, read_profile


class RunError(Exception):
    """A notebook did not succeed.

    code: 1 a cell raised, 3 the kernel died, 4 time-out, 5 no valid result record, 130 interrupted.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def run(
    notebook: str, profile: str = "desk", overrides: Mapping[str, Any] | None = None, timeout: int | None = None
) -> Path:
    """Execute one notebook under a profile and return the path of its record.json.

    overrides: parameters that go before the profile's. timeout: seconds per cell (none without).
    Raises `InputError` for anything wrong in what was given, `RunError` when the notebook does not succeed; the
    report of an earlier run then stays as it was.
    """
    found = execute(prepare(notebook, profile, overrides, timeout))
    report(found.parents[1])
    return found


def run_all(notebooks: Sequence[str] | None = None, profile: str = "desk", timeout: int | None = None) -> list[Path]:
    """Execute several notebooks in numbered order (None: all of the profile); all are checked before the first starts.

    A failure does not keep the others from running. Returns the paths of the records. Raises `InputError` or
    `RunError` at the end, with the code of the first failure.
    """
    names = {_stem(name) for name in notebooks or of_profile(profile)}
    todo = [prepare(name, profile, timeout=timeout) for name in sorted(names)]
    records, failures = [], {}
    for prepared in todo:
        try:
            records.append(execute(prepared))
        except (InputError, RunError) as error:
            failures[prepared.name] = getattr(error, "code", 2)
            say(f"Failed: {error}", sys.stderr)
            if failures[prepared.name] == 130:
                break
    report(todo[0].folder.parent)
    say(f"Report: {short(todo[0].folder.with_name('index.html'))}")
    if failures:
        text = f"{len(records)} of {len(todo)} notebooks finished, failed: {', '.join(failures)}."
        code = next(iter(failures.values()))
        raise InputError(text) if code == 2 else RunError(text, code)
    return records


def notebooks() -> dict[str, Path]:
    """The notebooks of this project in numbered order: {name: path}. Raises `InputError` when there is none."""
    folder = files.root() / "notebooks"
    return {path.stem: path for path in sorted(folder.glob("*.ipynb"))} or _nothing(f"No notebook in {folder}.")


def profiles() -> dict[str, dict[str, Path]]:
    """Every profile with its parameter files: {profile: {notebook: path}}. Raises `InputError` when there is none."""
    home = files.root() / "notebooks" / "profiles"
    folders = sorted(path for path in home.glob("[!.]*") if path.is_dir()) or _nothing(f"No profile in {home}.")
    return {folder.name: {path.stem: path for path in sorted(folder.glob("*.yaml"))} for folder in folders}


def of_profile(profile: str) -> dict[str, Path]:
    """The notebooks of a profile with their parameter files. Raises `InputError` where there is none."""
    settings = choose("profile", profile, profiles())
    if not settings:
        raise InputError(f"Profile {profile!r} is empty: add notebooks/profiles/{profile}/NOTEBOOK.yaml.")
    return settings


def _nothing(text: str) -> NoReturn:
    raise InputError(f"{text} Start inside the project folder, or set LFICAM_HOME to it.")


def _stem(notebook: str) -> str:
    return Path(notebook).name.removesuffix(".ipynb")


def prepare(
    notebook: str,
    profile: str = "desk",
    overrides: Mapping[str, Any] | None = None,
    timeout: int | None = None,
    seed: int | None = None,
) -> Prepared:
    """Check everything that can be checked without a kernel. Raises `InputError`.

    seed: of one of several runs that differ in nothing else, each with results of its own.
    """
    name, overrides = _stem(notebook), dict(overrides or {}) | ({} if seed is None else {"seed": seed})
    for table in files.TABLES:  # what the notebook reads after hours of training
        files.table(table)
    source = choose("notebook", name, notebooks())
    settings = choose("profile", profile, profiles())
    if name not in settings:
        hint = f"add notebooks/profiles/{profile}/{name}.yaml (it may be empty)"
        raise InputError(f"Profile {profile!r} has no parameters for {name}: {hint}.")
    if timeout is not None and not (is_a(timeout, int) and timeout > 0):
        raise InputError(f"timeout: expected whole seconds above 0, got {timeout!r}.")
    defaults = read_defaults(source)
    given, lines = read_profile(settings[name])
    for key, value in given.items():
        check(key, value, defaults, f"{short(settings[name])}, line {lines.get(key, '?')}")
    for key, value in overrides.items():
        check(key, value, defaults, f"{name} --set {key}")
    command = ["lficam", "run", name, "--profile", profile]
    command += [part for key, value in overrides.items() for part in ("--set", f"{key}={_as_yaml(value)}")]
    command += ["--timeout", str(timeout)] if timeout else []
    return Prepared(name, profile, source, defaults, given | overrides, shlex.join(command), timeout, seed)


def _as_yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()


def execute(prepared: Prepared) -> Path:
    """Run in a staging folder, which takes its place when its record holds. Raises `InputError` or `RunError`."""
    with without_grammar():
        import papermill  # noqa: F401 - where it is not installed, nothing is begun

    started, folder, kernel = time.monotonic(), files.staging(prepared.folder), Kernel()
    home = folder.parent
    try:
        files.sweep(home)
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"Cannot write in {home}: {error.strerror}. Choose another folder.") from None
    say(f"{prepared.name} (profile {prepared.profile}) ...")
    try:
        with kernel.dies_with_us():
            kernel.execute(prepared, folder)
            _check_record(prepared, folder)
            _write_html(folder / f"{prepared.name}.ipynb")
            files.swap(folder, prepared.folder)
        prepared.failed.unlink(missing_ok=True)
    except BaseException as error:
        code, reason = diagnose(error, prepared, folder, kernel)
        kept = keep(prepared, folder, code, reason)
        if code is None:
            raise
        text = reason.rstrip(".") + (f"; see {short(prepared.failed)}." if kept else ".")
        raise (InputError(text) if code == 2 else RunError(text, code)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        page(home)
    say(f"{prepared.name} finished in {duration(time.monotonic() - started)}: {short(prepared.folder)}")
    return prepared.folder / "record.json"


def report(folder: Path) -> Path | None:
    """Write values.csv and the pages of reports/PROFILE, of its seeds too; returns the path of the first page.

    As `page` does, it tells what does not work.
    """
    try:
        found = values.collect(folder)
        if found.runs:
            values.write(found, folder)
    except (InputError, OSError, ValueError, KeyError) as error:
        say(f"lficam: {short(folder / 'values.csv')} is not up to date: {error}", sys.stderr)
    for place in set(values.places(folder)) - {folder}:
        page(place)
    return page(folder)


def page(folder: Path) -> Path | None:
    """Write the page of reports/PROFILE and return its path.

    Where that does not work it is only told (None): it must neither hide a failure nor cost a finished run.
    """
    try:
        return write_index(folder)
    except Exception as error:
        told = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        say(f"lficam: The page of {short(folder)} is not up to date: {told}", sys.stderr)
        return None


def _check_record(prepared: Prepared, folder: Path) -> None:
    try:
        record = read_record(folder, prepared.name)
        if record.get("profile") != prepared.profile:
            raise ValueError(f"its record.json names profile {record.get('profile')!r} instead of {prepared.profile!r}")
    except ValueError as error:
        raise RunError(f"{prepared.name} ran to its end without a valid result: {error}.", 5) from None


def _write_html(notebook: Path) -> None:
    """Export the executed notebook. An exporter that is not well must not cost a finished run, so it is only told."""
    from nbconvert import HTMLExporter

    try:
        body, _ = HTMLExporter().from_filename(str(notebook))
        with files.atomic(notebook.with_suffix(".html"), "w") as file:
            file.write(body)
    except Exception as error:
        say(f"{notebook.stem}: no HTML written ({type(error).__name__}: {error}).", sys.stderr)


def diagnose(error: BaseException, prepared: Prepared, folder: Path, kernel: Kernel) -> tuple[int | None, str]:
    """The exit code (None: not foreseen) and the sentence of a failure."""
    from nbclient.exceptions import CellTimeoutError
    from papermill.exceptions import PapermillExecutionError

    cell = _last_cell(folder / prepared.source.name)
    where = f"{prepared.name}, {cell}" if cell else prepared.name
    if kernel.interrupted or isinstance(error, KeyboardInterrupt):
        return 130, f"{where}: interrupted"
    if isinstance(error, RunError):
        return error.code, str(error)
    if isinstance(error, PapermillExecutionError):
        told = " ".join(error.evalue.split())
        if error.ename == "InputError":
            return 2, f"{told.rstrip('.')} ({where})"
        return 1, f"{where}: {error.ename}: {told}"
    if isinstance(error, CellTimeoutError):
        limit = f"not finished within {prepared.timeout} s, or its" if prepared.timeout else "its"
        return 4, f"{where}: {limit} output took over {ANSWER} s to arrive"
    cause = kernel.cause_of_death()
    if isinstance(error, RuntimeError) and (cause or "kernel" in str(error).lower()):
        return 3, f"{where}: " + (f"the kernel died; {cause}" if cause else f"the kernel does not answer; {error}")
    if isinstance(error, OSError):
        ours = str(folder.parent) in str(error.filename) or error.errno in files.FULL
        what = f"cannot write in {folder.parent}" if ours else error.filename or type(error).__name__
        return 2, f"{where}: {what}: {error.strerror or error}"
    return None, f"{where}: {type(error).__name__}: {error}"


def _started(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["metadata"].get("papermill", {}).get("start_time")]


def _last_cell(path: Path) -> str:
    """The code cell that was started last, by the number that Jupyter shows; "" without one."""
    try:
        cells = _started(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return ""
    sources = ["".join(cell["source"]).strip() for cell in cells if cell["cell_type"] == "code"]
    sources = [source for source in sources if source]
    return f"cell [{len(sources)}] `{sources[-1].splitlines()[0]}`" if sources else ""


def keep(prepared: Prepared, folder: Path, code: int | None, reason: str) -> bool:
    """Keep the partly executed notebook of a failed run, with the reason on top. Returns whether there was one.

    papermill calls all cells completed when a kernel is gone; here only those are that were.
    """
    try:
        notebook = json.loads((folder / prepared.source.name).read_bytes())
    except (OSError, ValueError):
        return False
    started = _started(notebook)
    for cell in notebook["cells"]:
        if "papermill" in cell["metadata"] and cell not in started:
            cell["metadata"]["papermill"]["status"] = "pending"
    if started and code != 5:  # then all cells did run
        started[-1]["metadata"]["papermill"]["status"] = "failed"
    note = {"cell_type": "markdown", "id": "failure", "metadata": {}, "source": f"**This run failed.** {reason}"}
    notebook["cells"].insert(0, note)
    notebook["metadata"]["lficam"] = {"failure": reason}
    try:
        with files.atomic(prepared.failed, "w") as file:
            json.dump(notebook, file, indent=1, ensure_ascii=False)
    except InputError as error:  # which must not hide the failure
        say(f"lficam: {error}", sys.stderr)
        return False
    return True
