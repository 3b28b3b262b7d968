"""Files that appear whole or not at all, and what a record says of the code that wrote it."""

import contextlib
import errno
import importlib.metadata
import os
import re
import subprocess

import pytest

import lficam
from lficam import files
from lficam.errors import InputError
from lficam.record import provenance


def test_a_plain_checkout_has_a_record_too(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    versions = provenance()["versions"]
    assert versions["lficam"] == lficam.__version__
    assert versions["torch"] == "unknown"


@pytest.mark.parametrize(("place", "known"), [("", True), (".venv/lib", False)])
def test_the_commit_is_that_of_this_code(tmp_path, monkeypatch, place, known):
    """Installed below a repository of somebody else's it has none; the project folder has nothing to do with it."""
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / place / "lficam").mkdir(parents=True)
    monkeypatch.setattr(files, "PACKAGE", tmp_path / place / "lficam")
    commit = provenance()["commit"]
    assert bool(re.fullmatch("[0-9a-f]{40}", commit)) == known
    assert known or commit == "unknown"


def test_atomic_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with contextlib.suppress(RuntimeError), files.atomic(path, "w") as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_blames_the_disk_for_the_file_alone(tmp_path):
    """An error of what happens meanwhile passes as it is, be it of the same kind."""
    path = tmp_path / "a.txt"
    for error in (FileNotFoundError(errno.ENOENT, "No such file"), OSError(errno.ENOSPC, "of another disk"), OSError()):
        with pytest.raises(OSError) as caught, files.atomic(path):  # noqa: PT011
            raise error
        assert caught.value is error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("step", "number", "todo"),
    [
        ("fsync", errno.ENOSPC, "Free some space or choose another folder"),
        ("replace", errno.EDQUOT, "Free some space or choose another folder"),
        ("fsync", errno.EACCES, "Get the permission to write there or choose another folder"),
        ("replace", errno.EIO, "Choose another folder"),
    ],
)
def test_atomic_says_what_helps(tmp_path, monkeypatch, step, number, todo):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, step, refuse)
    sentence = rf"^Cannot write .*a\.txt: {os.strerror(number)}\. {todo}\.$"
    with pytest.raises(InputError, match=sentence), files.atomic(tmp_path / "a.txt") as file:
        file.write(b"x")
    assert not list(tmp_path.iterdir())


def test_atomic_sees_refused_writes(tmp_path):
    """The system refuses from 1,000 bytes on, as a full disk would."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        sentence = r"Cannot write .*a\.txt: File too large\. Choose another folder\.$"
        with pytest.raises(InputError, match=sentence), files.atomic(tmp_path / "a.txt", "w") as file:
            file.write("x" * 10**5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_atomic_leaves_the_umask_to_the_system(tmp_path, monkeypatch):
    """No moment without a mask, in which another thread's files would be everybody's."""
    before = os.umask(0o027)
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the mask is the process's"))
    with files.atomic(tmp_path / "a.txt", "w") as file:
        file.write("x")
    monkeypatch.undo()
    os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
