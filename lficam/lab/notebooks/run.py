"""The strict notebook runner: all is checked before a kernel starts, and success is the result record alone.

run("03_lcam", profile="smoke", overrides={"seed": 2})    # -> reports/smoke/03_lcam/record.json
"""

import json
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from ... import files
from ...errors import InputError, choose, is_a
from ...progress import duration, say
from ..report.page import write_index
from .finished import read_record, staging, swap, sweep
from .kernel import PATIENCE, Kernel
from .parameters import check, read_defaults, read_profile, short


class RunError(Exception):
    """A notebook did not succeed.

    code: 1 a cell raised, 3 the kernel died, 4 time-out, 5 no valid result record, 130 interrupted.
    """

    def __init__(self, text, code):
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Plan:
    """A checked run that has not started."""

    name: str
    profile: str
    source: Path
    parameters: dict
    command: str
    timeout: int | None
    folder: Path  # reports/PROFILE

    @property
    def failed(self):
        return self.folder / f"{self.name}.failed.ipynb"


def run(notebook, profile="desk", overrides=None, timeout=None, reports=None):
    """Execute one notebook under a profile and return the path of its record.json.

    overrides: parameters that go before the profile's. timeout: seconds per cell (none without). reports: folder for
    the results, by default reports/ of the project.
    Raises `InputError` for anything wrong in what was given, `RunError` when the notebook does not succeed; the
    report of an earlier run then stays as it was.
    """
    return execute(prepare(notebook, profile, overrides, timeout, reports))


def run_all(notebooks=None, profile="desk", timeout=None, reports=None):
    """Execute several notebooks in numbered order (None: all of the profile); all are checked before the first starts.

    A failure does not keep the others from running. Returns the paths of the records. Raises `InputError` or
    `RunError` at the end, with the code of the first failure.
    """
    names = notebooks or choose("profile", profile, profiles())
    if not names:
        raise InputError(f"Profile {profile!r} is empty: add notebooks/profiles/{profile}/NOTEBOOK.yaml.")
    plans = [prepare(name, profile, None, timeout, reports) for name in sorted({_stem(name) for name in names})]
    records, failures = [], {}
    for plan in plans:
        try:
            records.append(execute(plan))
        except (InputError, RunError) as error:
            failures[plan.name] = error
            say(f"Failed: {error}", sys.stderr)
            if getattr(error, "code", 2) == 130:
                break
    say(f"Report: {short(plans[0].folder / 'index.html')}")
    if failures:
        text = f"{len(records)} of {len(plans)} notebooks finished, failed: {', '.join(failures)}"
        code = getattr(next(iter(failures.values())), "code", 2)
        raise InputError(f"{text}.") if code == 2 else RunError(f"{text}.", code)
    return records


def notebooks():
    """The notebooks of this project in numbered order: {name: path}. Raises `InputError` when there is none."""
    folder = files.root() / "notebooks"
    return {path.stem: path for path in sorted(folder.glob("*.ipynb"))} or _nothing(f"No notebook in {folder}.")


def profiles():
    """Every profile with its parameter files: {profile: {notebook: path}}. Raises `InputError` when there is none."""
    home = files.root() / "notebooks" / "profiles"
    folders = sorted(path for path in home.glob("[!.]*") if path.is_dir()) or _nothing(f"No profile in {home}.")
    return {folder.name: {path.stem: path for path in sorted(folder.glob("*.yaml"))} for folder in folders}


def _nothing(text):
    raise InputError(f"{text} Start inside the project folder, or set LFICAM_HOME to it.")


def _stem(notebook):
    return Path(notebook).name.removesuffix(".ipynb")


def prepare(notebook, profile="desk", overrides=None, timeout=None, reports=None):
    """Check everything that can be checked without a kernel. Raises `InputError`."""
    name, overrides = _stem(notebook), dict(overrides or {})
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
    folder = Path(reports or files.root() / "reports").resolve() / profile
    return Plan(name, profile, source, given | overrides, shlex.join(command), timeout, folder)


def _as_yaml(value):
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()


def execute(plan):
    """Run a plan in a staging folder and put that in place when its record holds. Raises `InputError` or `RunError`."""
    import papermill  # noqa: F401 - where it is not installed, nothing is begun

    started, folder, kernel = time.monotonic(), staging(plan.folder, plan.name), Kernel()
    try:
        sweep(plan.folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"Cannot write in {plan.folder}: {error.strerror}. Choose another folder.") from None
    say(f"{plan.name} (profile {plan.profile}) ...")
    try:
        with kernel.dies_with_us():
            kernel.execute(plan, folder)
            _check_record(plan, folder)
            _write_html(folder / f"{plan.name}.ipynb")
            swap(folder, plan.folder / plan.name)
        plan.failed.unlink(missing_ok=True)
    except BaseException as error:
        code, reason = explain(error, plan, folder, kernel)
        kept = keep(plan, folder, code, reason)
        if code is None:
            raise
        text = reason.rstrip(".") + (f"; see {short(plan.failed)}." if kept else ".")
        raise (InputError(text) if code == 2 else RunError(text, code)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        page(plan.folder)
    say(f"{plan.name} finished in {duration(time.monotonic() - started)}: {short(plan.folder / plan.name)}")
    return plan.folder / plan.name / "record.json"


def page(folder):
    """Write the page of reports/PROFILE and return its path.

    Where that does not work it is only told (None): it must neither hide a failure nor cost a finished run.
    """
    try:
        return write_index(folder)
    except Exception as error:
        told = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        say(f"lficam: The page of {short(folder)} is not up to date: {told}", sys.stderr)


def _check_record(plan, folder):
    try:
        record = read_record(folder, plan.name)
        if record.get("profile") != plan.profile:
            raise ValueError(f"its record.json names profile {record.get('profile')!r} instead of {plan.profile!r}")
    except ValueError as error:
        raise RunError(f"{plan.name} ran to its end without a valid result: {error}.", 5) from None


def _write_html(notebook):
    """Export the executed notebook. An exporter that is not well must not cost a finished run, so it is only told."""
    from nbconvert import HTMLExporter

    try:
        body, _ = HTMLExporter().from_filename(str(notebook))
        with files.atomic(notebook.with_suffix(".html"), "w") as file:
            file.write(body)
    except Exception as error:
        say(f"{notebook.stem}: no HTML written ({type(error).__name__}: {error}).", sys.stderr)


def explain(error, plan, folder, kernel):
    """The exit code (None: not foreseen) and the sentence of a failure."""
    from nbclient.exceptions import CellTimeoutError
    from papermill.exceptions import PapermillExecutionError

    cell = _last_cell(folder / plan.source.name)
    where = f"{plan.name}, {cell}" if cell else plan.name
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
        limit = f"not finished within {plan.timeout} s, or its" if plan.timeout else "its"
        return 4, f"{where}: {limit} output took over {PATIENCE} s to arrive"
    cause = kernel.cause_of_death()
    if isinstance(error, RuntimeError) and (cause or "kernel" in str(error).lower()):
        return 3, f"{where}: " + (f"the kernel died; {cause}" if cause else f"the kernel does not answer; {error}")
    if isinstance(error, OSError):
        ours = str(plan.folder) in str(error.filename) or error.errno in files.FULL
        what = f"cannot write in {plan.folder}" if ours else error.filename or type(error).__name__
        return 2, f"{where}: {what}: {error.strerror or error}"
    return None, f"{where}: {type(error).__name__}: {error}"


def _started(notebook):
    return [cell for cell in notebook["cells"] if cell["metadata"].get("papermill", {}).get("start_time")]


def _last_cell(path):
    """The code cell that was started last, by the number that Jupyter shows; "" without one."""
    try:
        cells = _started(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return ""
    sources = ["".join(cell["source"]).strip() for cell in cells if cell["cell_type"] == "code"]
    sources = [source for source in sources if source]
    return f"cell [{len(sources)}] `{sources[-1].splitlines()[0]}`" if sources else ""


def keep(plan, folder, code, reason):
    """Keep the partly executed notebook of a failed run, with the reason on top. Returns whether there was one.

    papermill calls all cells completed when a kernel is gone; here only those are that were.
    """
    try:
        notebook = json.loads((folder / plan.source.name).read_bytes())
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
        with files.atomic(plan.failed, "w") as file:
            json.dump(notebook, file, indent=1, ensure_ascii=False)
    except InputError as error:  # which must not hide the failure
        say(f"lficam: {error}", sys.stderr)
        return False
    return True
