"""Where things lie, and the one way of writing a file."""

import contextlib
import os
import tempfile
from pathlib import Path

from .errors import InputError

PACKAGE = Path(__file__).resolve().parent  # where lficam itself lies; its tables come with it
PAPERS = ("abn_top1_error", "lfi_top1_accuracy", "lfi_iou_per_model", "lfi_iou_mean", "ad_ic")
TABLES = ("recipes.csv", *(f"papers/{name}.csv" for name in PAPERS))


def table(name):
    """The path of one of `TABLES`, wherever the package is. Raises `InputError` where the installation has lost it."""
    path = PACKAGE / "tables" / name
    if not path.is_file():
        raise InputError(f"{path} is not there, though it belongs to lficam: install lficam again.")
    return path


def root():
    """The project folder: ``$LFICAM_HOME``, else the nearest one upward with notebooks/profiles, else the current."""
    if home := os.environ.get("LFICAM_HOME"):
        return Path(home).resolve()
    here = Path.cwd().resolve()
    return next((p for p in (here, *here.parents) if (p / "notebooks" / "profiles").is_dir()), here)


@contextlib.contextmanager
def atomic(path, mode="wb"):
    """Open a file that appears under its name only when it is whole; an earlier file stays until then.

    Raises `InputError` when the disk refuses (full, read-only); the half-written temporary file is removed.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        kept = "; the earlier file is unchanged" if path.exists() else ""
        raise InputError(
            f"Cannot write {path}: {error.strerror or error}{kept}. Free some space or choose another folder."
        ) from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
