"""What the benchmarks share: contestants timed in turn, ratios with their range, the machine, tables.

A benchmark is a module with PARSER, its options; QUICK, options of a run that only shows that it works; and
`rows(given)`, which yields a `row` per ratio. `python -m benchmarks` runs them all and keeps the rows.
"""

import argparse
import datetime
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from lficam.record import provenance
from lficam.training.loop import best_device


def parser(name, document, model=None, rounds=3, **numbers):
    """The options that benchmarks share: a model instead of the table's (`model` names its parts), rounds, numbers."""
    options = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=document.splitlines()[0])
    if model:
        options.add_argument("model", nargs="*", metavar=model, help="one model instead of the table's")
    options.add_argument("--device", default=str(best_device()))
    options.add_argument("--rounds", type=int, default=rounds)
    for key, value in numbers.items():
        options.add_argument(f"--{key}", type=int, default=value, help=f"default: {value}")
    return options


def chosen(given, models, *extra):
    """The models of the table, or the one on the command line: (method, network, *extra)."""
    if not given.model:
        return models
    if len(given.model) != 2:
        raise SystemExit("Give a method and a network, or neither.")
    return [(*given.model, *extra)]


def seconds(call, device):
    """Wall time of one call, the device idle before and after."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def in_turn(calls, rounds, device):
    """{name: seconds of each round} of {name: call}, taken in turn after a round that does not count."""
    times = {name: [] for name in calls}
    for i in range(rounds + 1):
        for name, call in calls.items():
            taken = seconds(call, device)
            times[name] += [taken] if i else []
    return times


def row(what, peer, times, images, ours="ours", other="reference", **facts):
    """One ratio: how many times faster than the peer, of each round, as median, least and most.

    times: as of `in_turn`; images: in one call; facts: what else belongs into the table, as text or number.
    """
    ratios = [b / a for a, b in zip(times[ours], times[other], strict=True)]
    return {
        "what": what,
        "peer": peer,
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "seconds": {"ours": statistics.median(times[ours]), "peer": statistics.median(times[other])},
        "images": images,
        "rounds": len(ratios),
        "facts": facts,
    }


def line(found):
    """A row for the terminal."""
    ratio, taken = found["ratio"], found["seconds"]
    return (
        f"{found['what']:48} {found['peer']:28} {ratio['median']:6.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}]  "
        f"{taken['ours']:.4g} s, {taken['peer']:.4g} s  {_facts(found)}"
    )


def _facts(found):
    shown = ((k, f"{v:.2g}" if isinstance(v, float) else v) for k, v in found["facts"].items())
    return ", ".join(f"{k} {v}" for k, v in shown)


def table(rows):
    """Rows as a Markdown table."""
    head = ["what", "against", "ours, images/s", "theirs, images/s", "ratio [least, most]", "rounds", ""]
    lines = [head, ["---"] * len(head)]
    for found in rows:
        ratio = found["ratio"]
        speeds = [f"{found['images'] / found['seconds'][side]:.4g}" for side in ("ours", "peer")]
        between = f"{ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}]"
        lines.append([found["what"], found["peer"], *speeds, between, str(found["rounds"]), _facts(found)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def describe(device):
    """The machine in a line."""
    facts = machine(device)
    threads = f"{facts['threads']} threads of {facts['cores']} cores"
    return f"{facts['gpu'] or facts['cpu']}, {threads}, torch {facts['versions']['torch']}"


def machine(device):
    """What the numbers were measured on, by which command, of which code, when."""
    device = torch.device(device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "device": device.type,
        "gpu": gpu,
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **provenance(),
    }


def processor():
    """The CPU's name; where the system does not tell, its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def main(rows, options):
    """Run one benchmark from the command line."""
    given = options.parse_args()
    print(f"{describe(given.device)}, {given.rounds} rounds\nwhat, against whom, ratio, seconds of both, facts")
    for found in rows(given):
        print(line(found), flush=True)
