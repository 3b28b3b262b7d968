"""Where things lie, the one way of writing a file or a folder, alone, and how much of the machine is ours."""

import contextlib
import errno
import io
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import InputError

PACKAGE = Path(__file__).resolve().parent  # where lficam itself lies; its tables come with it
ABN = ("abn_top1_error", "abn_best_and_last", "abn_training_logs")
LFI = ("lfi_top1_accuracy", "lfi_iou_per_model", "lfi_iou_mean")
PAPERS = (*ABN, *LFI, "ad_ic", "attention_parameters", "forward_passes")
TABLES = ("recipes.csv", "claims.csv", *(f"papers/{name}.csv" for name in PAPERS))
FULL = errno.ENOSPC, errno.EDQUOT
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # a container's: microseconds of all cores together in a period, or "max"
_OURS = secrets.token_hex(4)  # an earlier process may have had this one's number
_HELD: set[Path] = set()  # by this process, which its own locks do not keep out


def root() -> Path:
    """The project folder: ``$LFICAM_HOME``, else the nearest one upward with notebooks/profiles, else the current."""
    if home := os.environ.get("LFICAM_HOME"):
        return Path(home).resolve()
    here = Path.cwd().resolve()
    return next((p for p in (here, *here.parents) if (p / "notebooks" / "profiles").is_dir()), here)


def short(path: Path) -> Path:
    """A path for reading: below the project where it is."""
    return path.relative_to(root()) if path.is_relative_to(root()) else path


def table(name: str) -> Path:
    """The path of one of `TABLES`, wherever the package is. Raises `InputError` where the installation has lost it."""
    path = PACKAGE / "data" / "tables" / name
    if not path.is_file():
        raise InputError(f"{path} is not there, though it belongs to lficam: install lficam again.")
    return path


class _File(io.FileIO):
    """A new file that remembers whether a write was refused: errors of other files are none of its own."""

    refused = False

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            self.refused = True
            raise


@contextlib.contextmanager
def atomic(path: Path | str, mode: str = "wb") -> Iterator[IO]:
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


def refused(path: Path | str, error: OSError) -> InputError:
    """The `InputError` for an `OSError` of writing to `path`."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        file = next((above for above in Path(path).parents if above.is_file()), path)
        return InputError(f"Cannot write {path}: {file} is a file, where a folder is expected. Choose another folder.")
    kept = "; the earlier file is unchanged" if os.path.exists(path) else ""
    return InputError(f"Cannot write {path}: {error.strerror or error}{kept}. {advice(error)}")


def advice(error: OSError) -> str:
    """What to do about an `OSError` of writing: room helps against a full disk alone."""
    if error.errno in FULL:
        return "Free some space or choose another folder."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Get the permission to write there or choose another folder."
    return "Choose another folder."


@contextlib.contextmanager
def locked(path: Path | str, todo: str = "wait for it, or give another file") -> Iterator[None]:
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
        raise refused(path, error) from error
    _HELD.add(path)
    try:
        yield
    finally:
        _HELD.discard(path)
        lock.unlink(missing_ok=True)
        file.close()


def _lock(path: Path) -> IO:
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


def staging(folder: Path) -> Path:
    """The name of a folder beside `folder` that belongs to this process on this machine."""
    return folder.with_name(f".{folder.name}.{_host()}.{os.getpid()}-{_OURS}")


def swap(new: Path, folder: Path) -> None:
    """Put the folder `new` in the place of `folder`; whatever happens, one of the two stands there."""
    old = Path(f"{staging(folder)}.old")
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove from `folder` what dead processes of this machine left, and finish a swap that was cut."""
    for path in folder.glob(".*"):
        match = re.fullmatch(rf"\.(.+)\.{_host()}\.(\d+)(?:-(\w+))?(\.old)?", path.name)
        if not match or (match[3] == _OURS if int(match[2]) == os.getpid() else _alive(int(match[2]))):
            continue
        if match[4] and not (folder / match[1]).exists():
            path.rename(folder / match[1])
        else:
            shutil.rmtree(path, ignore_errors=True)


def _host() -> str:
    return re.sub(r"[^\w-]", "_", platform.node()) or "host"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def cores() -> int:
    """How many processor cores this process may use, as the system, a container's quota and Slurm say."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    limits += [int(os.environ.get("SLURM_CPUS_PER_TASK") or limits[0])]
    with contextlib.suppress(OSError, ValueError):  # no quota, or another system
        quota, period = _QUOTA.read_text().split()
        limits.append(int(quota) // int(period))
    return max(1, min(limits))
