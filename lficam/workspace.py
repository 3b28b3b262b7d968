"""Where things lie, the one way of writing a file, alone, and how much of the machine is ours."""

import contextlib
import os
import tempfile
from pathlib import Path

from .errors import InputError

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # a container's: microseconds of all cores together in a period, or "max"
_HELD = set()  # by this process, which its own locks do not keep out


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


@contextlib.contextmanager
def locked(path, todo="wait for it, or give another file"):
    """Nobody else writes the file meanwhile; `InputError` when somebody does (and what `todo`), or the folder refuses.

    The lock, PATH.lock, belongs to the process alone: processes that read images do not keep it when the run is killed.
    """
    path = Path(path).absolute()
    taken = InputError(f"Another run is writing {path}: {todo}.")
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the file to write, as scores.csv.")
    if path in _HELD:
        raise taken
    lock = Path(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _lock(lock)
    except BlockingIOError:
        raise taken from None
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {error.strerror or error}. Free some space or choose another folder."
        ) from error
    _HELD.add(path)
    try:
        yield
    finally:
        _HELD.discard(path)
        lock.unlink(missing_ok=True)
        file.close()


def _lock(path):
    while True:
        file = path.open("a")
        try:
            import fcntl  # not on Windows, where nothing is locked

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.close()
            raise BlockingIOError from error
        except (ImportError, OSError):  # nor on file systems that have no locks
            return file
        with contextlib.suppress(FileNotFoundError):  # the one who had it may just have removed it
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cores():
    """How many processor cores this process may use, as the system, a container's quota and Slurm say."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    limits += [int(os.environ.get("SLURM_CPUS_PER_TASK") or limits[0])]
    with contextlib.suppress(OSError, ValueError):  # no quota, or another system
        quota, period = _QUOTA.read_text().split()
        limits.append(int(quota) // int(period))
    return max(1, min(limits))
