"""`lficam explore`: the explorer as a page of this machine. Nothing heavy is imported before it is needed."""


def add_commands(commands, command):
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


def explore(arguments):
    """`lficam explore`: serves until it is interrupted."""
    from ..errors import InputError, check_numbers
    from ..explainers import learned
    from ..lab.explore.exploring import open_session

    if arguments.method in {*learned.METHODS, "plain", "abn", "lfi-cam"}:
        raise InputError(f"{arguments.method} is trained: give its best.pt as --checkpoint.")
    check_numbers(size=arguments.size)
    paths, options = _asked(arguments)
    session = open_session(*paths, **options)  # what is wrong is said here, not in the page
    session.look(session.photos[0], session.methods[0])
    del session
    _serve(_notebook(paths, options), _free_port(arguments.port), not arguments.no_browser)


def _asked(arguments):
    """The arguments of `exploring.open_session`, with nothing relative to this folder."""
    import os

    def absolute(path):
        return os.path.abspath(path) if os.path.exists(path) else path

    options = {name: getattr(arguments, name) for name in ("classifier", "weights", "size")}
    options = {name: absolute(value) if isinstance(value, str) else value for name, value in options.items()}
    paths = [absolute(path) for path in arguments.checkpoint], [absolute(path) for path in arguments.photos]
    return paths, options | {"first": arguments.method}


def _notebook(paths, options):
    """The notebook that the page is, as JSON text."""
    import nbformat.v4

    source = "from lficam import explorer, exploring\n\n"
    source += f"explorer.Panel(exploring.open_session(*{paths!r}, **{options!r}))"
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=metadata))


def _free_port(port):
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


def _serve(notebook, port, browser):
    """Serve the notebook through Voilà to who knows the token, and to this machine only, until an interrupt."""
    import os
    import secrets
    import tempfile
    import webbrowser
    from pathlib import Path

    from tornado.ioloop import IOLoop

    from .. import files
    from ..progress import say

    os.environ["LFICAM_HOME"] = str(files.root())  # the kernel runs elsewhere
    os.environ.pop("LFICAM_HEADLESS", None)
    token = secrets.token_hex(24)
    address = f"http://127.0.0.1:{port}/?token={token}"
    with tempfile.TemporaryDirectory(prefix="lficam-explore-") as folder:
        path, door = Path(folder) / "lficam explorer.ipynb", Path(folder) / "open.html"
        path.write_text(notebook, encoding="utf-8")
        door.write_text(f'<meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")

        def tell():
            say(f"The explorer is at {address} (Ctrl+C ends it).")
            if browser and not webbrowser.open(door.as_uri()):  # a file, so that no list of processes tells the token
                say("No browser was found here: open that address in one.")

        IOLoop.current().add_callback(tell)
        _voila(path, port, token).start()


def _voila(path, port, token):
    """Voilà's application, of this interpreter, without the user's settings of Voilà."""
    import logging

    from jupyter_client.kernelspec import KernelSpecManager
    from voila.app import Voila

    from ..lab.notebooks.kernel import own_spec

    logging.getLogger("tornado").setLevel(logging.ERROR)  # else it notes a default of Jupyter's at every visit

    class OwnKernel(KernelSpecManager):
        def get_kernel_spec(self, _):
            return own_spec()

    page = Voila(config_file_paths=[], open_browser=False, log_level="ERROR", port_retries=0, token=token)
    page.initialize([str(path), "--Voila.ip=127.0.0.1", f"--port={port}"])
    page.voila_configuration.kernel_spec_manager_class = OwnKernel
    return page
