"""`lficam explore`: the explorer as a page of this machine. Nothing heavy is imported before it is needed."""

import contextlib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

IDLE = 1800  # seconds after which the kernel of a page that nobody has open any more, and its models, are ended


def add_commands(commands: Any, command: Callable[..., ArgumentParser]) -> None:
    """Its paragraph of the command line; `command` makes one, as the others of cli.py."""
    one = command(commands, explore, "explore", "look at explanations in the browser: image, class, method, how much")
    one.add_argument("photos", nargs="*", metavar="PHOTO", help="an image file, or a folder (default: test images)")
    one.add_argument("--checkpoint", nargs="+", default=[], metavar="BEST.pt", help="trained (default: the newest)")
    one.add_argument("--classifier", metavar="NAME|PATH", help="what is explained (default: what the checkpoint says)")
    one.add_argument("--weights", metavar="NAME|FILE", help="of a classifier given by name (default: the papers')")
    one.add_argument("--method", help="that needs no training, as rise, to begin with; all others can be chosen")
    one.add_argument("--size", type=int, help="of the image that the classifier sees (default: as it was trained)")
    one.add_argument("--port", type=int, default=0, help="of 127.0.0.1 (default: a free one)")
    one.add_argument("--no-browser", action="store_true", help="only print the address")


def explore(arguments: Namespace) -> None:
    """`lficam explore`: serves until it is interrupted."""
    from ..errors import InputError, check_numbers
    from ..explainers import learned
    from ..lab.explore.session import open_session

    if arguments.method in {*learned.METHODS, "plain", "abn", "lfi-cam"}:
        raise InputError(f"{arguments.method} is trained: give its best.pt as --checkpoint.")
    check_numbers(size=arguments.size)
    paths, options = _asked(arguments)
    with _without_gpus():
        session = open_session(*paths, **options)  # what is wrong is said here, not in the page
        session.look(session.photos[0], session.methods[0])
        del session
    _serve(_notebook(paths, options), _free_port(arguments.port), not arguments.no_browser)


@contextlib.contextmanager
def _without_gpus() -> Iterator[None]:
    """No GPU is seen meanwhile: what this process takes there it would keep for as long as it serves."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _asked(arguments: Namespace) -> tuple[tuple[list[str], list[str]], dict[str, Any]]:
    """The arguments of `session.open_session`, with nothing relative to this folder."""

    def absolute(path: str) -> str:
        return os.path.abspath(path) if os.path.exists(path) else path

    options = {name: getattr(arguments, name) for name in ("classifier", "weights", "size")}
    options = {name: absolute(value) if isinstance(value, str) else value for name, value in options.items()}
    paths = [absolute(path) for path in arguments.checkpoint], [absolute(path) for path in arguments.photos]
    return paths, options | {"first": arguments.method}


def _notebook(paths: tuple[list[str], list[str]], options: dict[str, Any]) -> str:
    """The notebook that the page is, as JSON text."""
    import nbformat.v4

    source = "import logging\n\nfrom lficam.lab.explore.explorer import Panel, open_session\n\n"
    source += "logging.disable()  # when a page is closed, nobody wants to read what its kernel still notes\n"
    source += f"Panel(open_session(*{paths!r}, **{options!r}))"
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=metadata))


def _free_port(port: int) -> int:
    """The port, or a free one for 0. Raises `InputError` where it is taken, not allowed or none."""
    import socket

    from ..errors import InputError

    if not 0 <= port < 2**16:
        raise InputError(f"--port {port}: expected a number from 0 (a free one) to 65535.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(f"--port {port}: {error.strerror}; choose another one, or leave it out.") from None
        return probe.getsockname()[1]


def _serve(notebook: str, port: int, browser: bool) -> None:
    """Serve the notebook through Voilà to who knows the token, and to this machine only, until an interrupt."""
    import secrets
    import tempfile
    import webbrowser

    from tornado.ioloop import IOLoop

    from .. import files
    from ..progress import say

    os.environ["LFICAM_HOME"] = str(files.root())  # the kernel runs elsewhere
    os.environ.pop("LFICAM_HEADLESS", None)
    token = secrets.token_hex(24)
    address = f"http://127.0.0.1:{port}/?token={token}"
    with tempfile.TemporaryDirectory(prefix="lficam-explore-") as folder:
        path = Path(folder) / "lficam explorer.ipynb"
        path.write_text(notebook, encoding="utf-8")

        def tell(door: Path) -> None:
            say(f"The explorer is at {address} (Ctrl+C ends it).")
            if browser and not webbrowser.open(door.as_uri()):
                say("No browser was found here: open that address in one.")

        with _door(address) as door:
            IOLoop.current().add_callback(tell, door)
            _voila(path, port, token).start()


@contextlib.contextmanager
def _door(address: str) -> Iterator[Path]:
    """A file that leads a browser to the address, so that no list of processes tells the token, and this user alone.

    In the project: browsers in a sandbox (Snap) see nothing of the temporary folder.
    """
    import tempfile

    from .. import files
    from ..errors import InputError

    folder = files.root() / "reports"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(".html", "explorer-", folder)
    except OSError as error:
        raise InputError(f"Cannot write in {folder}: {error.strerror}. LFICAM_HOME takes another folder.") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f'<meta http-equiv="refresh" content="0; url={address}">')
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _voila(path: Path, port: int, token: str) -> Any:
    """Voilà's application, of this interpreter, without the user's settings of Voilà."""
    import logging

    from jupyter_client.kernelspec import KernelSpecManager
    from voila.app import Voila

    from ..lab.notebooks.kernel import own_spec

    for name in ("tornado", "asyncio"):  # a default of Jupyter's at every visit, pages that were closed
        logging.getLogger(name).setLevel(logging.CRITICAL)

    class OwnKernel(KernelSpecManager):
        def get_kernel_spec(self, _):
            return own_spec()

    page = Voila(config_file_paths=[], open_browser=False, log_level="ERROR", port_retries=0, token=token)
    idle = [f"--MappingKernelManager.cull_idle_timeout={IDLE}", "--MappingKernelManager.cull_interval=60"]
    page.initialize([str(path), "--Voila.ip=127.0.0.1", f"--port={port}", *idle])
    page.voila_configuration.kernel_spec_manager_class = OwnKernel
    return page
