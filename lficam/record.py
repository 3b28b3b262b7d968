"""What a reader needs to repeat a run: its settings, command, commit, versions and processor."""

import copy
import dataclasses
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, files

if TYPE_CHECKING:
    import torch


def plain(settings: Any) -> dict[str, Any]:
    """`dataclasses.asdict`, without settings of the tuple `added` of their class that are at their default.

    These came when there were runs whose names are hashes of the others, and which are to be found again.

    >>> added = {"added": ("b",)}
    >>> Settings = dataclasses.make_dataclass("Settings", [("a", int, 1), ("b", int, 2)], namespace=added)
    >>> plain(Settings()), plain(Settings(b=3))
    ({'a': 1}, {'a': 1, 'b': 3})
    """
    found, added = {}, getattr(settings, "added", ())
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        if each.name not in added or value != each.default:
            found[each.name] = plain(value) if dataclasses.is_dataclass(value) else copy.deepcopy(value)
    return found


def provenance() -> dict[str, Any]:
    """Command, commit, whether files differ from it, and versions: what a reader needs to repeat a run."""
    script = Path(sys.argv[0])
    started = f"python -m {script.parent.name}" if script.name == "__main__.py" else script.name
    return {
        "command": os.environ.get("LFICAM_COMMAND") or " ".join([started, *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version(), "lficam": __version__}
        | {name: _version(name) for name in ("torch", "torchvision", "numpy", "pillow", "scikit-image", "mlxtend")},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _git(*command: str) -> str:
    """What git says of the checkout that this code is; "" where it is none, even if some other one is around it."""
    home = files.PACKAGE.parent
    options: Any = {"cwd": home, "capture_output": True, "text": True, "timeout": 20, "check": True}
    try:
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], **options).stdout.removesuffix("\n")
        return subprocess.run(["git", *command], **options).stdout.strip() if Path(top).samefile(home) else ""
    except (OSError, subprocess.SubprocessError):
        return ""


def describe(device: "torch.device | str") -> str:
    """The processor by name, with the number of threads for a CPU."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
