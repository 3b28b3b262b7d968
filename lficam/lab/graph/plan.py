"""The plan of a profile: what its notebooks need, as a graph of steps: trainings -> evaluations -> notebooks -> report.

The notebooks are the only source. Their cells with the tag `jobs` hold settings and `jobs.Job`s alone, in a mapping
`jobs`; executed here with the profile's parameters, they say what is trained. Cells with the tag `evaluate` then leave
files that the notebook finds; they are executed by the evaluation's step.

Every step reads the plan: what takes a while to import is imported only where notebooks are.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import files, record
from ...errors import InputError

if TYPE_CHECKING:
    from ...training.jobs import Job
    from ..notebooks.parameters import Prepared

KINDS = ("train", "evaluate", "notebook", "report")


@dataclasses.dataclass
class Step:
    """One step of a profile. id: a file name with a hash of all settings, so that another setting is another step.

    That of evaluations and notebooks holds lficam's code too, that of trainings does not: they are dear, and their
    folder is known by settings, images and classifier alone.

    needs: ids of the steps before it. threads, gpu: what it takes; 0 threads: all cores. values: what `steps` has to
    know to do it.
    """

    id: str
    kind: str
    title: str
    needs: list[str] = dataclasses.field(default_factory=list)
    threads: int = 1
    gpu: int = 0
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


def collect(profile: str, seeds: Sequence[int] = ()) -> list[Step]:
    """The `Step`s of a profile, in an order in which they can be run; with seeds, of all notebooks for each of them.

    Raises `InputError` for wrong parameters, and for cells that do not give jobs.
    """
    from ..notebooks import run

    found: dict[str, Step] = {}
    names, own = run.of_profile(profile), code()
    for prepared in [run.prepare(name, profile, seed=seed) for seed in seeds or (None,) for name in names]:
        for step in _of_notebook(prepared, own):
            found.setdefault(step.id, step)
    notebooks = [step.id for step in found.values() if step.kind == "notebook"]
    steps = [*found.values(), Step(f"report-{profile}", "report", "the report", notebooks)]
    return sorted(steps, key=lambda step: (KINDS.index(step.kind), bool(step.needs)))  # classifiers before explainers


def _of_notebook(prepared: "Prepared", own: dict[str, str]) -> list[Step]:
    """The steps of one notebook: its trainings, its evaluation if it has one, and itself. own: of `code`."""
    from ...training.jobs import Job
    from ...training.sweep import classifiers_of

    name, seed = prepared.name, prepared.seed
    words = "" if seed is None else f", seed {seed}"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        space = execute(prepared, ("jobs",))
    jobs = space.get("jobs", {})
    if not isinstance(jobs, dict) or not all(isinstance(job, Job) for job in jobs.values()):
        raise InputError(f"{name}: its cells with the tag 'jobs' must leave jobs = {{name: training.Job}}.")
    if space.get("fresh"):
        raise InputError(f"{name}: fresh belongs to a single notebook, `lficam run {name} --set fresh=true`.")
    options = {option: space[option] for option in ("workers", "tensorboard") if space.get(option)}
    steps = [_training(job, options, name + words) for job in classifiers_of(jobs.values())]
    for key, job in jobs.items():
        what = " ".join(map(str, key)) if isinstance(key, tuple) else key
        steps.append(_training(job, options, f"{name}: {what}{words}"))
    before = [step.id for step in steps]
    parameters = {key: space[key] for key in prepared.defaults if key not in ("profile", "output")}
    evaluated, alone = (bool(cells(prepared.source, (tag,))) for tag in ("evaluate", "alone"))
    kinds = [("evaluate", f"evaluation of {name}", ("jobs", "evaluate"))] * evaluated
    for kind, title, tags in [*kinds, ("notebook", f"notebook {name}", ())]:
        step = f"{kind}-{name}-{digest(parameters, own, cells(prepared.source, tags), seed)}"
        threads = 0 if alone and kind == "notebook" else 1  # it measures time
        steps.append(Step(step, kind, title + words, before, threads, values={"notebook": name, "seed": seed}))
        before = [step]
    return steps


def _training(job: "Job", options: dict[str, Any], asked: str) -> Step:
    from ...explainers import learned

    needs = list(dict.fromkeys(_training(one, options, asked).id for one in job.needs.values()))
    settings = record.plain(job)
    if job.explains:  # a default that is spelt out is no other training
        chosen = learned.Settings(job.method, **learned.METHODS[job.method] | job.options)
        settings["options"] = record.plain(chosen)
    name = f"train-{job.dataset}-{job.method}-{job.short.replace('/', '-')}-{digest(settings)}"
    values = {"job": record.plain(job), "options": options}
    return Step(name, "train", f"{job.title} ({asked})", needs, threads=1 + options.get("workers", 0), values=values)


def digest(*values: Any) -> str:
    """Ten hex digits of plain values. Raises `InputError` for others, whose text says too much or too little."""
    try:
        text = json.dumps(values, sort_keys=True)
    except TypeError as error:
        raise InputError(f"Settings have to be numbers, texts, lists and mappings of them: {error}.") from None
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def code() -> dict[str, str]:
    """{file: hash} of lficam's own code and tables: after an update, what they computed is not finished any more."""
    own = sorted(path for path in files.PACKAGE.rglob("*") if path.suffix in (".py", ".csv"))
    return {str(path.relative_to(files.PACKAGE)): hashlib.sha256(path.read_bytes()).hexdigest() for path in own}


def cells(notebook: Path, tags: Sequence[str] = ()) -> list[str]:
    """The sources of a notebook's code cells that have one of the tags, in order; without tags of all."""
    found = [cell for cell in json.loads(notebook.read_bytes())["cells"] if cell["cell_type"] == "code"]
    return ["".join(c["source"]) for c in found if not tags or set(tags) & set(c["metadata"].get("tags", []))]


def execute(prepared: "Prepared", tags: Sequence[str]) -> dict[str, Any]:
    """Execute a notebook's cells of these tags here, after its parameters; returns their variables.

    Raises `InputError` where they ask for what only a notebook has, or something in them goes wrong.
    """
    space = prepared.settings | {"profile": prepared.profile, "output": ""}
    for source in cells(prepared.source, tags):
        first = source.strip().splitlines()[0]
        try:
            exec(compile(source, f"{prepared.name}: {first}", "exec"), space)
        except InputError:
            raise
        except Exception as error:
            told = f"{prepared.name}: its cell `{first}`, with the tag {tags[-1]!r}, failed"
            raise InputError(f"{told}: {type(error).__name__}: {error}.") from error
    return space


def job_of(values: dict[str, Any]) -> "Job":
    """A `jobs.Job` from `record.plain` of it, by way of JSON."""
    from ...training.jobs import Job, Recipe

    needs = {name: job_of(value) for name, value in values.items() if isinstance(value, dict) and "method" in value}
    return Job(**values | needs | {"recipe": Recipe(**values["recipe"])})


# --- What is finished already: a marker for each step, beside the plan


def folder(profile: str) -> Path:
    """reports/PROFILE/.graph: plan.json, STEP.done of what is finished, events.jsonl of what happens."""
    return files.root() / "reports" / profile / ".graph"


def marker(profile: str, step: Step) -> Path:
    """The file that says that a step is finished; JSON."""
    return folder(profile) / f"{step.id}.done"


def mark(profile: str, step: Step, **facts: str) -> None:
    """Write a step's marker."""
    with files.atomic(marker(profile, step), "w") as file:
        json.dump({"step": step.id} | facts, file)


def is_finished(profile: str, step: Step) -> bool:
    """Whether the marker is there, and what it stands for: a training's checkpoints, a notebook's very record."""
    try:
        facts = json.loads(marker(profile, step).read_bytes())
        if step.kind == "train":
            return all((files.root() / facts["folder"] / name).is_file() for name in ("best.pt", "last.pt"))
        if step.kind == "notebook":
            return facts["record"] == record_digest(profile, **step.values)
    except (OSError, ValueError, KeyError):
        return False
    return True


def record_digest(profile: str, notebook: str, seed: int | None = None) -> str:
    """SHA-256 of a finished notebook's record. Raises `ValueError` when it does not hold."""
    from ..notebooks.parameters import folder_of
    from ..report.records import read_record

    place = folder_of(profile, notebook, seed)
    read_record(place)
    return hashlib.sha256((place / "record.json").read_bytes()).hexdigest()


def unfinished(profile: str, steps: Iterable[Step]) -> list[Step]:
    """The steps that are to be run: those without marker, and all that need such a one."""
    todo: dict[str, Step] = {}
    for step in steps:
        if step.kind == "report" or not is_finished(profile, step) or todo.keys() & set(step.needs):
            todo[step.id] = step
    return list(todo.values())


def write(profile: str, steps: Sequence[Step]) -> Path:
    """Write plan.json for Snakemake and every step; markers that stand for nothing any more go. Returns its path."""
    for step in unfinished(profile, steps):
        marker(profile, step).unlink(missing_ok=True)
    path = folder(profile) / "plan.json"
    content = {"profile": profile, "steps": {step.id: dataclasses.asdict(step) for step in steps}}
    with files.atomic(path, "w") as file:
        json.dump(content, file, indent=1)
    return path


def read(path: Path | str) -> tuple[str, dict[str, Step]]:
    """(profile, {id: Step}) of a plan.json. Raises `InputError`."""
    try:
        content = json.loads(Path(path).read_bytes())
        return content["profile"], {name: Step(**values) for name, values in content["steps"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no plan of lficam ({type(error).__name__}): start `lficam reproduce`.") from error
