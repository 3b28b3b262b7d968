# PYTHON_ARGCOMPLETE_OK
"""`lficam COMMAND ...`. Nothing heavy is imported before a command needs it."""

import argparse
import io
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import InputError, choose

if TYPE_CHECKING:
    from ..data.datasets import Images

LAB = ["IPython", "ipywidgets", "jinja2", "jupyter_client", "nbclient", "nbconvert", "nbformat", "papermill"]
LAB += ["snakemake", "voila"]
Command = Callable[..., argparse.ArgumentParser]  # makes the parser of one command, see `_command`


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 success, 2 wrong input, 130 interrupted, else `RunError.code`."""
    if sys.platform == "win32":
        print("lficam: lficam works on Linux and macOS; on Windows start it in WSL, which is a Linux.", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character must not end a training
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could follow; this answers and ends the process
        import argcomplete

        argcomplete.autocomplete(parser())
    from .models import train_model

    arguments, rest = parser().parse_known_args(argv)
    try:
        _check_rest(arguments, rest)
        if os.environ.get("WORLD_SIZE", "1") != "1" and arguments.call is not train_model:
            raise InputError("Only `lficam train` works in a launcher's processes (see also `lficam score --shard`).")
        return arguments.call(arguments) or 0
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"lficam: {str(error) or 'interrupted.'}", file=sys.stderr)
        return 130
    except Exception as error:
        from ..lab.notebooks.run import RunError
        from ..progress import first

        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in LAB:
            error = InputError(f"{error.name} is not installed, which this needs: `pip install 'lficam[lab]'`.")
        if not isinstance(error, (InputError, RunError)):
            raise
        code = getattr(error, "code", 2)
        if code == 2 and not first():
            time.sleep(20)  # what all processes of a launcher say is said once: it ends this one when the first ended
        print(f"lficam: {error}", file=sys.stderr)
        return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as all of lficam does."""

    def error(self, message: str) -> NoReturn:
        option, _, what = message.removeprefix("argument ").partition(": ")
        kind, _, given = what.removeprefix("invalid ").partition(" value: ")
        if given:
            message = f"{option}: expected a {'whole ' * (kind == 'int')}number, got {given}"
        if what.startswith("invalid choice: "):
            try:
                choose("command", what.split("'")[1], what.split("'")[3::2])
            except InputError as error:
                self.exit(2, f"lficam: {error}\n")
        self.exit(2, f"lficam: {message}; see `{self.prog} --help`.\n")


def _check_rest(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Raise `InputError` for what the command does not know."""
    if rest:
        name, known = rest[0].partition("=")[0], re.findall(r"--[\w-]+", arguments.usage)
        if name.startswith("-"):
            choose("option", name, known)
        raise InputError(f"{rest[0]} is one argument too many: leave it out, or put what holds spaces into quotes.")


def parser() -> argparse.ArgumentParser:
    """The whole command line; a further command is a paragraph and a function in the file of its group."""
    from .. import __version__
    from . import explain, explore, lab, models, score

    top = _Parser(prog="lficam", description="Trainable visual explanations of image classifiers.")
    top.add_argument("--version", action="version", version=f"lficam {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    for part in (lab, models, explain, explore, score):
        part.add_commands(commands, _command)
    for command in commands.choices.values():
        command.set_defaults(usage=command.format_usage())
    return top


def _command(
    commands: argparse._SubParsersAction, call: Callable[[argparse.Namespace], Any], name: str, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(call=call)
    return command


def data_options(one: argparse.ArgumentParser, dataset: str, size: str) -> None:
    """The options that name images, for `images_of`; dataset, size: what they are by default."""
    one.add_argument("--dataset", help=f"default: {dataset}")
    one.add_argument("--data-root", metavar="FOLDER", help="where the data lies, if not built in")
    one.add_argument("--split", default="test", help="train, validation or test (default: test)")
    one.add_argument("--size", type=int, help=f"of the images in pixels{size}")
    one.add_argument("--count", type=int, help="images (default: all)")
    one.add_argument("--workers", type=int, default=0, help="processes that read image files")


def images_of(
    arguments: argparse.Namespace, job: Mapping[str, Any], missing: str, size: int | None = None, **options: Any
) -> "Images":
    """The images that the options name, by default of what was trained on, `job` of a checkpoint's settings.

    missing: what to say where neither names a data set. size: in pixels, if not that of the training. options: further
    ones of `datasets.load`. Raises `InputError`.
    """
    from ..data import datasets

    name = arguments.dataset or job.get("dataset")
    if not name:
        raise InputError(missing)
    trained = job if name == job.get("dataset") else {}
    options |= {"root": arguments.data_root or trained.get("data_root") or None, "count": arguments.count}
    options |= {"size": arguments.size or size or trained.get("size") or None}
    return datasets.load(name, arguments.split, **options)


def values_of(flag: str, texts: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE texts as a mapping, the values read as YAML."""
    import yaml

    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InputError(f"{flag} {text}: expected NAME=VALUE.")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"{flag} {text}: {getattr(error, 'problem', None) or error}.") from None
    return values
