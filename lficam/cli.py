"""`lficam COMMAND ...`. Nothing heavy is imported before a command needs it."""

import argparse
import contextlib
import sys


def main(argv=None):
    """Run one command and return the exit code: 0 success, 2 wrong input, `RunError.code` for a failed notebook."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character must not end a training
    arguments = parser().parse_args(argv)
    try:
        return arguments.call(arguments) or 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from .errors import InputError
        from .run import RunError

        if not isinstance(error, (InputError, RunError)):
            raise
        print(f"lficam: {error}", file=sys.stderr)
        return getattr(error, "code", 2)


def parser():
    """The whole command line; a further command is one more paragraph here and one function below."""
    from . import __version__

    top = argparse.ArgumentParser(prog="lficam", description="Trainable visual explanations of image classifiers.")
    top.add_argument("--version", action="version", version=f"lficam {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    command = _command(commands, run_notebooks, "run", "execute notebooks and write their report")
    command.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="name of a notebook (default: all)")
    command.add_argument("--profile", default="desk", help="folder of parameter files (default: desk)")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one parameter, in YAML")
    command.add_argument("--timeout", type=int, metavar="SECONDS", help="limit of one cell (default: a day)")
    command.add_argument("--list", action="store_true", help="print profiles and notebooks")

    command = _command(commands, publish_results, "publish", "copy finished results to figures/, to be committed")
    command.add_argument("--profile", default="desk", help="which results (default: desk)")

    command = _command(commands, compare_maps, "iou", "overlap of the attention maps of two models")
    for name in ("base", "target"):
        command.add_argument(name, metavar=name.upper(), help="dump *.npz, or folder of the authors' .npy files")
    command.add_argument("--threshold", type=float, default=100, help="on the scale 0..255 (default: 100)")
    command.add_argument("--protocol", default="authors", help="authors (default) or standard")
    command.add_argument("--size", type=int, help="height and width of the images (default: what the dumps say)")
    command.add_argument("--align", action="store_true", help="match images by id where the order differs")
    return top


def _command(commands, call, name, text):
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(call=call)
    return command


def run_notebooks(arguments):
    """`lficam run`."""
    from .errors import InputError
    from .run import notebooks, profiles, run, run_all

    if arguments.list:
        print("\n".join(["notebooks", *(f"  {name}" for name in notebooks())]))
        for profile, settings in profiles().items():
            print("\n".join([f"profile {profile}", *(f"  {name}" for name in settings)]))
    elif len(arguments.notebooks) == 1:
        run(arguments.notebooks[0], arguments.profile, _overrides(arguments.set), arguments.timeout)
    elif arguments.set:
        raise InputError("--set belongs to one notebook: name it, as in `lficam run 03_lcam --set epochs=1`.")
    else:
        run_all(arguments.notebooks, arguments.profile, arguments.timeout)


def _overrides(texts):
    """NAME=VALUE texts as a mapping, the values read as YAML."""
    import yaml

    from .errors import InputError

    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InputError(f"--set {text}: expected NAME=VALUE.")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {text}: {getattr(error, 'problem', None) or error}.") from None
    return values


def publish_results(arguments):
    """`lficam publish`."""
    from .finished import publish

    for folder in publish(arguments.profile):
        print(folder)


def compare_maps(arguments):
    """`lficam iou`."""
    from .iou import compare
    from .results import average

    options = {name: getattr(arguments, name) for name in ("protocol", "threshold", "size", "align")}
    scores = compare(arguments.base, arguments.target, **options)
    for title, values in (("IoU", scores["iou"]), ("Dice", scores["dice"])):
        mean, low, high, n = average(values).values()
        print(
            f"{title:<5} {mean:.4f}  95 % interval {low:.4f} to {high:.4f}  N = {n}"
            f"  ({arguments.protocol} protocol, threshold {arguments.threshold:g})"
        )


if __name__ == "__main__":
    sys.exit(main())
