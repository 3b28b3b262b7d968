"""Where things lie, and the one way of writing a file."""

import contextlib
import errno
import io
import os
import secrets
from pathlib import Path

from .errors import InputError

FULL = errno.ENOSPC, errno.EDQUOT


def root():
    """The project folder: ``$LFICAM_HOME``, else the nearest one upward with notebooks/profiles, else the current."""
    if home := os.environ.get("LFICAM_HOME"):
        return Path(home).resolve()
    here = Path.cwd().resolve()
    return next((p for p in (here, *here.parents) if (p / "notebooks" / "profiles").is_dir()), here)


class _File(io.FileIO):
    """A new file that remembers whether a write was refused: errors of other files are none of its own."""

    refused = False

    def write(self, data):
        try:
            return super().write(data)
        except OSError:
            self.refused = True
            raise


@contextlib.contextmanager
def atomic(path, mode="wb"):
    """Open a file that appears under its name only when it is whole; an earlier file stays until then.

    Raises `InputError` when the file cannot be opened, written or put in place; any other error of the body passes
    unchanged. In both cases the half-written temporary file is removed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = _File(temporary, "x")
    except OSError as error:
        raise refused(path, error) from error
    buffered, inside = io.BufferedWriter(raw), True
    try:
        with buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8") as file:
            yield file
            inside = False
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if inside and not raw.refused:
            raise
        raise refused(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def refused(path, error):
    """The `InputError` for an `OSError` of writing to `path`."""
    kept = "; the earlier file is unchanged" if os.path.exists(path) else ""
    return InputError(f"Cannot write {path}: {error.strerror or error}{kept}. {advice(error)}")


def advice(error):
    """What to do about an `OSError` of writing: room helps against a full disk alone."""
    if error.errno in FULL:
        return "Free some space or choose another folder."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Get the permission to write there or choose another folder."
    return "Choose another folder."
