"""All benchmarks in turn: the ratios go to benchmarks/results.json, and from there into benchmarks/README.md.

    python -m benchmarks                              # everything: hours on two cores
    python -m benchmarks --only attention evaluation
    python -m benchmarks --quick                      # that every benchmark runs; its numbers are not kept

A benchmark that fails costs neither the others nor its earlier numbers; the exit code is then 1.
"""

import argparse
import importlib
import sys

from benchmarks import timing
from benchmarks.record import NAMES, keep
from lficam.training.loop import best_device


def measure(name, machine, quick=False):
    """A benchmark's rows with the machine that they are of."""
    module = importlib.import_module(f"benchmarks.{name}")
    given = module.PARSER.parse_args(module.QUICK if quick else [])
    rows = []
    for row in module.rows(given):
        rows.append(row)
        print(timing.line(row), flush=True)
    return {"benchmark": name, "machine": machine, "rows": rows}


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="the least that shows that it works; nothing is kept")
    given = parser.parse_args(arguments)
    failed, machine = [], timing.machine(best_device())  # before the tables differ from what is committed
    for name in given.only:
        print(f"--- {name}", flush=True)
        try:
            run = measure(name, machine, given.quick)
            if not given.quick:
                keep(run)
        except (Exception, SystemExit) as error:
            failed.append(name)
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
