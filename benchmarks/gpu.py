"""All that is to be done on a GPU, in order, a piece at a time; call it again until it is finished.

    python -m benchmarks.gpu --minutes 9                                  # exit code 4: time is over, call again
    while python -m benchmarks.gpu --minutes 9; [ $? -eq 4 ]; do :; done  # all of it
    python -m benchmarks.gpu --device cpu --smoke                         # the same on a CPU, as small as it gets

check      golden outputs, resident images, waiting, precision, resume, compilation (benchmarks/checks.py)
speed      each step of the fast path (benchmarks/fast_path.py), into benchmarks/results.json and README.md
train      plain, ABN and LFI-CAM of notebook 01 in the profile, CIFAR-10 with the authors' recipe; then the notebook
stability  the models of notebook 02 in the profile; then notebooks 02 and 06
publish    what these notebooks left, to figures/
more       the trainings of notebook 01 with further seeds, and on CIFAR-100

A piece runs in a process of its own that ends with the time. A training continues from its last epoch; a notebook,
which only evaluates, begins anew. What is done is noted in reports/gpu, with the record of the machine. Exit code 0:
finished; 1: something failed; 2: wrong input.
"""

import argparse
import csv
import dataclasses
import functools
import io
import json
import multiprocessing
import os
import signal
import sys
import time

import torch

from benchmarks import checks, fast_path, record, timing
from lficam import files
from lficam.errors import InputError
from lficam.lab import stability
from lficam.lab.notebooks import finished, run
from lficam.lab.notebooks.parameters import read_defaults
from lficam.progress import duration, say
from lficam.training import jobs as training
from lficam.training.loop import best_device

OTHER = {"cifar10": "cifar100", "photo-digits": "photo-digits-2"}  # the second data set of "more"
STAGES = ("check", "speed", "train", "stability", "publish", "more")
TIME_OVER = 4


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of work: a function that another process can call, which returns an exit code."""

    stage: str
    name: str
    call: functools.partial
    with_code: bool = False  # whether it is to be done again for another commit or device


def pieces(given):
    """All pieces in order."""
    of_profile = functools.partial(parameters, profile=given.profile, epochs=given.epochs)
    first, second = of_profile("01_train_lficam"), of_profile("02_abn_stability")
    train = functools.partial(train_all, device=given.device)
    notebook = functools.partial(run_notebook, profile=given.profile, epochs=given.epochs)
    plan = [
        Piece("check", "checks", functools.partial(check, given.device, given.smoke), with_code=True),
        Piece("speed", "fast path", functools.partial(speed, given.device, given.smoke), with_code=True),
        Piece("train", "classifiers", functools.partial(train, classifiers(first))),
        Piece("train", "notebook 01", functools.partial(notebook, "01_train_lficam")),
        Piece("stability", "models", functools.partial(train, stability_jobs(second))),
        Piece("stability", "notebook 02", functools.partial(notebook, "02_abn_stability")),
        Piece("stability", "notebook 06", functools.partial(notebook, "06_iou")),
        Piece("publish", "results", functools.partial(publish, given.profile)),
    ]
    seeds = [first | {"seed": first["seed"] + i} for i in (1, 2)]
    seeds += [first | {"dataset": OTHER[first["dataset"]]}] if first["dataset"] in OTHER else []
    for other in seeds:
        name = f"{other['dataset']}, seed {other['seed']}"
        plan.append(Piece("more", name, functools.partial(train, classifiers(other))))
    return [piece for piece in plan if piece.stage in given.only and not (given.smoke and piece.stage == "publish")]


def parameters(name, profile, epochs):
    """A notebook's parameters in the profile: those of its own cell, the profile's and the number of epochs."""
    plan = run.prepare(name, profile, shortened(epochs))
    return read_defaults(plan.source) | plan.parameters


def shortened(epochs):
    """What replaces the profile's epochs and milestones; nothing where `epochs` is 0."""
    return {"epochs": epochs, "milestones": sorted({epochs // 2, epochs * 3 // 4} - {0})} if epochs else {}


def classifiers(values):
    """The trainings of notebook 01 with these parameters."""
    names = ("epochs", "batch_size", "lr", "weight_decay", "milestones", "seed", "deterministic")
    recipe = training.Recipe(**{name: values[name] for name in names})
    options = {name: values[name] for name in ("dataset", "data_root", "size", "train_count", "validation_count")}
    return [training.Job(m, values["backbone"], recipe=recipe, **options) for m in values["methods"]]


def stability_jobs(values):
    """The trainings of notebook 02 with these parameters."""
    recipe = {name: values[name] for name in ("epochs", "milestones")}
    options = {name: values[name] for name in ("data_root", "size", "train_count", "validation_count")}
    backbones = dict.fromkeys(values["methods"], values["backbone"])
    backbones |= {"abn": values["abn_backbone"]} if values["abn_backbone"] and "abn" in backbones else {}
    settings = (values[name] for name in ("batch_sizes", "lrs", "weight_decays"))
    return list(stability.jobs(values["datasets"], backbones, *settings, recipe=recipe, **options).values())


def folder():
    return files.root() / "reports" / "gpu"


def check(device, smoke):
    """Every check of the device; compiling takes too long for a smoke test."""
    names = [name for name in checks.CHECKS if not (smoke and name == "compiled")]
    results = checks.run(names, torch.device(device))
    rows = [{"check": name, "passed": found.passed, **vars(found)} for name, found in results]
    write("checks.json", {"machine": timing.machine(device), "rows": rows})
    failed = sum(not found.passed for _, found in results)
    say(f"{len(results) - failed} of {len(results)} checks passed.")
    return 1 if failed else 0


def speed(device, smoke):
    """The ladder of each method, kept method by method; those measured before on this machine and commit stay."""
    given = fast_path.PARSER.parse_args([*(fast_path.QUICK if smoke else []), "--device", device])
    machine, kept = timing.machine(device), read("fast_path.json")
    same = kept.get("machine") and key(kept["machine"]) == key(machine)
    rows = kept["rows"] if same else {}
    for method in given.method:
        if method not in rows:
            rows[method] = list(fast_path.compare(method, given))
            write("fast_path.json", {"machine": machine, "rows": rows})
        for row in rows[method]:
            say(timing.line(row))
    every = [row for method in given.method for row in rows[method]]
    write_csv("fast_path.csv", every)
    if not smoke:
        record.keep({"benchmark": "fast_path", "machine": machine, "rows": every})
    return 0


def train_all(jobs, device):
    """Train the jobs one after the other; those that are finished are found."""
    for job in jobs:
        training.train(job, device=device)
    return 0


def run_notebook(name, profile, epochs):
    """Execute a notebook, which finds its trainings finished."""
    run.run(name, profile, shortened(epochs))
    return 0


def publish(profile):
    """Copy tables and figures to where they are committed."""
    for path in finished.publish(profile):
        say(str(path))
    return 0


def key(machine):
    """What measurements belong to: the device, the code and the version of torch.

    Not whether files differ from the commit: the tables that this command writes do.
    """
    return [machine[name] for name in ("device", "gpu", "cpu", "commit")] + [machine["versions"]["torch"]]


def read(name):
    path = folder() / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write(name, content):
    with files.atomic(folder() / name, "w") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)


def write_csv(name, rows):
    """Rows of `timing.row` as a table."""
    flat = [
        {"what": row["what"], "peer": row["peer"], "images": row["images"], "rounds": row["rounds"]}
        | {f"ratio_{k}": v for k, v in row["ratio"].items()}
        | {f"seconds_{k}": v for k, v in row["seconds"].items()}
        | row["facts"]
        for row in rows
    ]
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in flat for name in row)))
    table.writeheader()
    table.writerows(flat)
    with files.atomic(folder() / name, "w") as file:
        file.write(text.getvalue())


def limited(call, seconds):
    """The exit code of a call in a process of its own, `TIME_OVER` when it was ended."""
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(call,))
    process.start()
    try:
        process.join(seconds)
        if not process.is_alive():
            return process.exitcode
        os.kill(process.pid, signal.SIGINT)  # a notebook ends its kernel
        process.join(30)
        return TIME_OVER
    finally:
        if process.is_alive():
            process.kill()
            process.join()


def _work(call):
    sys.exit(code_of(call))


def code_of(call):
    """What a call returns, or the exit code of what it raises."""
    try:
        return call()
    except KeyboardInterrupt:
        return 130
    except (InputError, run.RunError) as error:
        say(str(error), sys.stderr)
        return getattr(error, "code", 2)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=str(best_device()))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end in time (default: no limit)")
    parser.add_argument("--profile", default="cifar", help="of the notebooks (default: cifar)")
    parser.add_argument("--epochs", type=int, default=0, help="instead of the profile's")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES, help=f"of {', '.join(STAGES)}")
    parser.add_argument("--smoke", action="store_true", help="the least that shows that it works; profile smoke")
    given = parser.parse_args(arguments)
    given.profile = "smoke" if given.smoke else given.profile
    end = time.monotonic() + 60 * given.minutes
    try:
        return work_off(pieces(given), given, end)
    except KeyboardInterrupt:
        return 130
    except InputError as error:
        say(str(error), sys.stderr)
        return 2


def work_off(plan, given, end):
    """Do what is not done yet, in order, until `end`; returns the exit code."""
    here = key(timing.machine(given.device))
    say(f"{timing.describe(given.device)}; profile {given.profile}")
    for piece in plan:
        done, name = read("done.json"), f"{piece.stage}: {piece.name}"
        settings = [given.profile, given.epochs, *(here if piece.with_code else here[:3])]
        if done.get(name, {}).get("settings") == settings:
            say(f"{name}: done before")
            continue
        left, started = end - time.monotonic(), time.monotonic()
        if left < 1:
            say(f"Time is over before {name}: call again.")
            return TIME_OVER
        say(f"{name} ...")
        code = limited(piece.call, None if left == float("inf") else left)
        if code == TIME_OVER:
            say(f"Time is over in {name}: call again, and it goes on.")
            return TIME_OVER
        if code:
            say(f"{name} failed (exit code {code}).", sys.stderr)
            return code if code in (2, 130) else 1
        took = time.monotonic() - started
        write("done.json", done | {name: {"settings": settings, "machine": timing.machine(given.device)}})
        say(f"{name}: done in {duration(took)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
