"""What a profile's notebooks need, as a graph of steps: trainings -> evaluations -> notebooks -> report.

The notebooks are the only source. Their cells with the tag `jobs` hold settings and `jobs.Job`s alone, in a mapping
`jobs`; executed here with the profile's parameters, they say what is trained. Cells with the tag `evaluate` then leave
files that the notebook finds; they are executed by the evaluation's step.

Every step reads the plan: torch is imported only where notebooks are.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path

from ... import files as workspace
from ...errors import InputError, choose
from ..notebooks import run
from ..notebooks.finished import read_record
from ..notebooks.parameters import read_defaults

KINDS = ("train", "evaluate", "notebook", "report")


@dataclasses.dataclass
class Step:
    """One step of a profile. id: a file name with a hash of all settings, so that another setting is another step.

    That of evaluations and notebooks holds lficam's code too, that of trainings does not: they are dear, and their
    folder is known by settings, images and classifier alone.

    needs: ids of the steps before it. threads, gpu: what it takes. values: what `steps` has to know to do it.
    """

    id: str
    kind: str
    title: str
    needs: list = dataclasses.field(default_factory=list)
    threads: int = 1
    gpu: int = 0
    values: dict = dataclasses.field(default_factory=dict)


def collect(profile, overrides=None):
    """The `Step`s of a profile, in an order in which they can be run.

    overrides: {notebook: {parameter: value}}, which go before the profile's.
    Raises `InputError` for wrong parameters, and for cells that do not give jobs.
    """
    names, overrides = choose("profile", profile, run.profiles()), overrides or {}
    plans = [run.prepare(name, profile, overrides.get(name)) for name in names]
    if not plans:
        raise InputError(f"Profile {profile!r} is empty: add notebooks/profiles/{profile}/NOTEBOOK.yaml.")
    steps = {}
    for plan in plans:
        for step in _of_notebook(plan, overrides.get(plan.name) or {}):
            steps.setdefault(step.id, step)
    last = Step(f"report-{profile}", "report", "the report", [s.id for s in steps.values() if s.kind == "notebook"])
    ordered = sorted([*steps.values(), last], key=lambda step: KINDS.index(step.kind))
    return _classifiers_first(ordered)


def _classifiers_first(steps):
    """Within the trainings, those that others need come first."""
    return sorted(steps, key=lambda step: (KINDS.index(step.kind), bool(step.needs)))


def _of_notebook(plan, overrides):
    """The steps of one notebook: its trainings, its evaluation if it has one, and itself."""
    from ...training.jobs import Job
    from ...training.sweep import classifiers_of

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        space = execute(plan, ("jobs",))
    jobs = space.get("jobs", {})
    if not isinstance(jobs, dict) or not all(isinstance(job, Job) for job in jobs.values()):
        raise InputError(f"{plan.name}: its cells with the tag 'jobs' must leave jobs = {{name: training.Job}}.")
    if space.get("fresh"):
        raise InputError(f"{plan.name}: fresh belongs to a single notebook, `lficam run {plan.name} --set fresh=true`.")
    options = {name: space[name] for name in ("workers", "tensorboard") if space.get(name)}
    trainings = [_training(job, options, plan.name) for job in classifiers_of(jobs.values())]
    trainings += [_training(job, options, f"{plan.name}: {_words(key)}") for key, job in jobs.items()]
    parameters = {name: space[name] for name in read_defaults(plan.source) if name not in ("profile", "output")}
    values = {"notebook": plan.name, "profile": plan.profile, "overrides": overrides}
    before = [step.id for step in trainings]
    found = list(trainings)
    if cells(plan.source, ("evaluate",)):
        name = f"evaluate-{plan.name}-{digest(parameters, code(), cells(plan.source, ('jobs', 'evaluate')))}"
        found.append(Step(name, "evaluate", f"evaluation of {plan.name}", before, values=values))
        before = [name]
    name = f"notebook-{plan.name}-{digest(parameters, code(), cells(plan.source))}"
    return [*found, Step(name, "notebook", f"notebook {plan.name}", before, values=values)]


def _words(key):
    return " ".join(map(str, key)) if isinstance(key, tuple) else key


def _training(job, options, asked):
    from ...explainers import learned

    needs = [_training(job.classifier, options, asked).id] if job.classifier else []
    settings = dataclasses.asdict(job)
    if job.explains:  # a default that is spelt out is no other training
        chosen = learned.Settings(job.method, **learned.METHODS[job.method] | job.options)
        settings["options"] = dataclasses.asdict(chosen)
    name = f"train-{job.dataset}-{job.method}-{job.short.replace('/', '-')}-{digest(settings)}"
    values = {"job": dataclasses.asdict(job), "options": options}
    return Step(name, "train", f"{job.title} ({asked})", needs, threads=1 + options.get("workers", 0), values=values)


def digest(*values):
    """Ten hex digits of plain values. Raises `InputError` for others, whose text says too much or too little."""
    try:
        text = json.dumps(values, sort_keys=True)
    except TypeError as error:
        raise InputError(f"Settings have to be numbers, texts, lists and mappings of them: {error}.") from None
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def code():
    """{file: hash} of lficam's own code and tables: after an update, what they computed is not finished any more."""
    files = sorted(path for path in workspace.PACKAGE.rglob("*") if path.suffix in (".py", ".csv"))
    return {str(path.relative_to(workspace.PACKAGE)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def cells(notebook, tags=()):
    """The sources of a notebook's code cells that have one of the tags, in order; without tags of all."""
    found = [cell for cell in json.loads(Path(notebook).read_bytes())["cells"] if cell["cell_type"] == "code"]
    return ["".join(c["source"]) for c in found if not tags or set(tags) & set(c["metadata"].get("tags", []))]


def execute(plan, tags):
    """Execute a checked run's cells of these tags here, after its parameters; returns their variables.

    Raises `InputError` where they ask for what only a notebook has, or something in them goes wrong.
    """
    space = read_defaults(plan.source) | plan.parameters | {"profile": plan.profile, "output": ""}
    for source in cells(plan.source, tags):
        first = source.strip().splitlines()[0]
        try:
            exec(compile(source, f"{plan.name}: {first}", "exec"), space)
        except InputError:
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise InputError(f"{plan.name}: its cell `{first}`, with the tag {tags[-1]!r}, failed: {told}.") from error
    return space


def job_of(values):
    """A `jobs.Job` from `dataclasses.asdict` of it, by way of JSON."""
    from ...training.jobs import Job, Recipe

    backbone = values["backbone"]
    backbone = job_of(backbone) if isinstance(backbone, dict) else backbone
    return Job(**values | {"backbone": backbone, "recipe": Recipe(**values["recipe"])})


# --- What is finished already


def folder(profile):
    """reports/PROFILE/.graph, where markers and the state of a run lie."""
    return workspace.root() / "reports" / profile / ".graph"


def marker(profile, step):
    """The file that says that a step is finished; JSON."""
    return folder(profile) / f"{step.id}.done"


def mark(profile, step, **facts):
    """Write a step's marker."""
    with workspace.atomic(marker(profile, step), "w") as file:
        json.dump({"step": step.id} | facts, file)


def is_finished(profile, step):
    """Whether the marker is there, and what it stands for: a training's checkpoints, a notebook's very record."""
    try:
        facts = json.loads(marker(profile, step).read_bytes())
        if step.kind == "train":
            return all((workspace.root() / facts["folder"] / name).is_file() for name in ("best.pt", "last.pt"))
        if step.kind == "notebook":
            return facts["record"] == record_digest(profile, step.values["notebook"])
    except (OSError, ValueError, KeyError):
        return False
    return True


def record_digest(profile, notebook):
    """SHA-256 of a finished notebook's record. Raises `ValueError` when it does not hold."""
    place = folder(profile).parent / notebook
    read_record(place, notebook)
    return hashlib.sha256((place / "record.json").read_bytes()).hexdigest()


def unfinished(profile, steps):
    """The steps that are to be run: those without marker, and all that need such a one."""
    todo = set()
    for step in steps:
        if step.kind == "report" or not is_finished(profile, step) or todo & set(step.needs):
            todo.add(step.id)
    return [step for step in steps if step.id in todo]


# --- The file that Snakemake and every step read


def write(profile, steps):
    """Write reports/PROFILE/.graph/plan.json; markers that stand for nothing any more are removed. Returns its path."""
    for step in unfinished(profile, steps):
        marker(profile, step).unlink(missing_ok=True)
    path = folder(profile) / "plan.json"
    content = {"profile": profile, "steps": {step.id: dataclasses.asdict(step) for step in steps}}
    with workspace.atomic(path, "w") as file:
        json.dump(content, file, indent=1)
    return path


@functools.lru_cache(maxsize=1)
def read(path):
    """(profile, {id: Step}) of a plan.json. Raises `InputError`."""
    try:
        content = json.loads(Path(path).read_bytes())
        return content["profile"], {name: Step(**values) for name, values in content["steps"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no plan of lficam ({type(error).__name__}): start `lficam reproduce`.") from error
