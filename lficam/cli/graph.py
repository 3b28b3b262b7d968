"""`lficam reproduce` and `plan`: the graph of runs. Nothing heavy is imported before it is needed."""


def add_commands(commands, command):
    """Their paragraphs of the command line; `command` makes one, as the others of cli.py."""
    one = command(commands, reproduce, "reproduce", "run all of a profile: trainings, evaluations, notebooks, report")
    one.add_argument("--profile", default="desk", help="folder of parameter files (default: desk)")
    one.add_argument("--cores", type=int, metavar="N", help="processor cores to use (default: all)")
    one.add_argument("--dry-run", action="store_true", help="print what would run")
    one.add_argument("--wait", action="store_true", help="for another one of this profile to end")
    one.add_argument("snakemake", nargs="*", metavar="-- ARGUMENT", help="for Snakemake, after --")

    one = command(commands, plan, "plan", "print what a profile would run, what it costs and what it lacks")
    one.add_argument("--profile", default="desk", help="folder of parameter files (default: desk)")
    one.add_argument("--tflops", type=float, metavar="X", help="what the processor does, in 10^12 operations a second")
    one.add_argument("--efficiency", type=float, default=0.3, help="share of it that is reached (default: 0.3)")
    one.add_argument("--json", action="store_true", help="as JSON")

    one = commands.add_parser("step")  # what Snakemake calls
    one.set_defaults(call=step)
    one.add_argument("plan")
    one.add_argument("step")
    one.add_argument("--attempt", type=int, default=1)
    one.add_argument("--inside", action="store_true")


def reproduce(arguments):
    """`lficam reproduce`."""
    from ..errors import InputError
    from ..lab.graph.reproduce import reproduce

    if arguments.cores is not None and arguments.cores < 1:
        raise InputError(f"--cores: expected at least 1, got {arguments.cores}.")
    reproduce(arguments.profile, arguments.cores, arguments.dry_run, arguments.wait, arguments.snakemake)


def plan(arguments):
    """`lficam plan`."""
    from ..lab.graph.costs import overview, text

    found = overview(arguments.profile, arguments.tflops, arguments.efficiency)
    if arguments.json:
        import json

        print(json.dumps(found, indent=1))
    else:
        print(text(found))


def step(arguments):
    """`lficam step`, one step of the graph."""
    from ..lab.graph.steps import perform, supervise

    if arguments.inside:
        return perform(arguments.plan, arguments.step)
    return supervise(arguments.plan, arguments.step, arguments.attempt)
