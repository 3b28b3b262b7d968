"""`lficam report` and `publish`. Nothing heavy is imported before it is needed."""


def add_commands(commands, command):
    """Their paragraphs of the command line; `command` makes one, as the others of cli.py."""
    one = command(commands, report, "report", "write the page of the results: one file that opens anywhere")
    one.add_argument("--profile", default="desk", help="which results (default: desk)")
    one.add_argument("--published", action="store_true", help="those of figures/, which come with the project")
    one.add_argument("--open", action="store_true", help="show it in the browser")

    one = command(commands, publish_results, "publish", "copy finished results to figures/, to be committed")
    one.add_argument("--profile", default="desk", help="which results (default: desk)")


def report(arguments):
    """`lficam report`: prints the page's path and size."""
    import contextlib
    import os
    import webbrowser

    from .. import files
    from ..errors import InputError, choose
    from ..lab.notebooks.parameters import short
    from ..lab.report.page import write_index

    home = files.root() / ("figures" if arguments.published else "reports")
    folder, profile = home / arguments.profile, arguments.profile
    if folder.parent != home or not folder.is_dir() or folder.samefile(home.parent):
        with contextlib.suppress(FileNotFoundError):
            choose("profile", profile, os.listdir(files.root() / "notebooks" / "profiles"))
        first = f"lficam {'publish' if arguments.published else 'run'} --profile {profile}"
        there = sorted(path.name for path in home.glob("[!.]*") if path.is_dir())
        known = f"; there is {', '.join(there)}" if there else ""
        raise InputError(f"No results of a profile {profile!r} in {short(home)}{known}. `{first}` makes them.")
    path = write_index(folder)
    print(f"{short(path)}  {path.stat().st_size / 1e6:.1f} MB")
    if arguments.open and not webbrowser.open(path.as_uri()):
        raise InputError(f"No browser to open {path} with: open it yourself.")
    return 0


def publish_results(arguments):
    """`lficam publish`."""
    from ..lab.notebooks.finished import publish

    for folder in publish(arguments.profile):
        print(folder)
