"""`lficam run`, `reproduce`, `plan`, `report`, `publish`: notebooks and results. Nothing heavy is imported early."""

from argparse import Namespace, _SubParsersAction

from ..errors import InputError
from . import Command, values_of


def add_commands(commands: _SubParsersAction, command: Command) -> None:
    """Their paragraphs of the command line."""
    one = command(commands, run_notebooks, "run", "execute notebooks and write their report")
    one.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="name of a notebook (default: all)")
    one.add_argument("--profile", default="desk", help="folder of parameter files (default: desk)")
    one.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one parameter, in YAML")
    one.add_argument("--timeout", type=int, metavar="SECONDS", help="limit of one cell (default: none)")
    one.add_argument("--list", action="store_true", help="print profiles and notebooks")

    one = command(commands, reproduce, "reproduce", "run all of a profile: trainings, evaluations, notebooks, report")
    one.add_argument("--profile", default="desk", help="folder of parameter files (default: desk)")
    one.add_argument("--cores", type=int, metavar="N", help="processor cores to use (default: all)")
    one.add_argument("--seeds", metavar="1-5", help="several runs that differ in the seed, each with its own results")
    one.add_argument("--dry-run", action="store_true", help="print what would run")
    one.add_argument("--wait", action="store_true", help="for another one of this profile to end")
    one.add_argument("snakemake", nargs="*", metavar="-- ARGUMENT", help="for Snakemake, after --")

    one = command(commands, verify, "verify", "judge whether the results agree with the reference, number by number")
    one.add_argument("--profile", default="desk", help="which results (default: desk)")
    one.add_argument("--reference", metavar="FOLDER", help="with values.csv (default: figures/PROFILE)")

    one = command(commands, plan, "plan", "print what a profile would run, what it costs and what it lacks")
    one.add_argument("--profile", default="desk", help="folder of parameter files (default: desk)")
    one.add_argument("--tflops", type=float, metavar="X", help="what the processor does, in 10^12 operations a second")
    one.add_argument("--efficiency", type=float, default=0.3, help="share of it that is reached (default: 0.3)")
    one.add_argument("--json", action="store_true", help="as JSON")

    one = commands.add_parser("step")  # what Snakemake calls
    one.set_defaults(call=step)
    one.add_argument("plan")
    one.add_argument("step")
    one.add_argument("--inside", action="store_true")

    one = command(commands, report, "report", "write the page of the results: one file that opens anywhere")
    one.add_argument("--profile", default="desk", help="which results (default: desk)")
    one.add_argument("--published", action="store_true", help="those of figures/, which come with the project")
    one.add_argument("--open", action="store_true", help="show it in the browser")

    one = command(commands, publish_results, "publish", "copy finished results to figures/, to be committed")
    one.add_argument("--profile", default="desk", help="which results (default: desk)")


def run_notebooks(arguments: Namespace) -> None:
    """`lficam run`."""
    from ..lab.notebooks.run import notebooks, profiles, run, run_all

    if arguments.list:
        print("\n".join(["notebooks", *(f"  {name}" for name in notebooks())]))
        for profile, settings in profiles().items():
            print("\n".join([f"profile {profile}", *(f"  {name}" for name in settings)]))
    elif len(arguments.notebooks) == 1:
        run(arguments.notebooks[0], arguments.profile, values_of("--set", arguments.set), arguments.timeout)
    elif arguments.set:
        raise InputError("--set belongs to one notebook: name it, as in `lficam run 03_lcam --set seed=2`.")
    else:
        run_all(arguments.notebooks, arguments.profile, arguments.timeout)


def reproduce(arguments: Namespace) -> None:
    """`lficam reproduce`."""
    from ..lab.graph.reproduce import reproduce, seeds_of

    seeds = seeds_of(arguments.seeds) if arguments.seeds else ()
    reproduce(arguments.profile, arguments.cores, arguments.dry_run, arguments.wait, arguments.snakemake, seeds)


def verify(arguments: Namespace) -> int:
    """`lficam verify`: exit code 0 where the results agree, 1 where they differ (2: nothing can be judged)."""
    from ..lab.report.page import results_of
    from ..lab.report.verify import text, verify

    results_of(arguments.profile)
    found, reference = verify(arguments.profile, arguments.reference)
    print(text(found, reference, arguments.profile))
    return int(not all(one.agrees for one in found))


def plan(arguments: Namespace) -> None:
    """`lficam plan`."""
    import json

    from ..lab.graph.costs import overview, text

    found = overview(arguments.profile, arguments.tflops, arguments.efficiency)
    print(json.dumps(found, indent=1) if arguments.json else text(found))


def step(arguments: Namespace) -> int | None:
    """`lficam step`, one step of the graph."""
    from ..lab.graph.steps import perform, supervise

    return (perform if arguments.inside else supervise)(arguments.plan, arguments.step)


def report(arguments: Namespace) -> None:
    """`lficam report`: prints the page's path and size."""
    import webbrowser

    from ..files import short
    from ..lab.report.page import results_of, write_index

    path = write_index(results_of(arguments.profile, arguments.published))
    print(f"{short(path)}  {path.stat().st_size / 1e6:.1f} MB")
    if arguments.open and not webbrowser.open(path.as_uri()):
        raise InputError(f"No browser to open {path} with: open it yourself.")


def publish_results(arguments: Namespace) -> None:
    """`lficam publish`."""
    from ..lab.report.publish import publish

    for folder in publish(arguments.profile):
        print(folder)
