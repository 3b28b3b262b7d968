"""Maps of a model on a data set with the ids of the images: one file, written as they come, read in pieces.

A dump is an uncompressed .npz of `ids` (N,), `facts` (JSON text) and `maps` (N, h, w): raw low-resolution float32, or
uint8 at image size. `numpy.load` reads it too. A folder of the LFI-CAM authors' .npy files, one per image, opens alike.
"""

import contextlib
import dataclasses
import json
import struct
import typing
import zipfile
import zlib
from pathlib import Path

import numpy as np

from .. import files as workspace
from ..errors import InputError


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dump:
    """N maps on the disk.

    path; ids: N unique names; size: (h, w) as stored; finished: whether maps are uint8 at image size, else raw
    float32; facts: what the writer told of them.
    """

    path: Path
    ids: tuple[str, ...]
    size: tuple[int, int]
    finished: bool
    facts: dict
    load: typing.Callable  # positions (n,) -> maps (n, h, w)

    def __len__(self):
        return len(self.ids)

    def __repr__(self):
        return f"<{self.path.name}: {len(self)} maps, {self.size[0]} x {self.size[1]}>"

    def read(self, rows):
        """The maps at these positions, (n, h, w). Raises `InputError` for one that is not finite or unreadable."""
        maps = self.load(rows)
        check_finite(maps, [self.ids[row] for row in rows], self.path)
        return maps

    def chunks(self, rows=256):
        """All maps in order, at most `rows` at a time."""
        for start in range(0, len(self), rows):
            yield self.read(range(start, min(start + rows, len(self))))


def check_finite(maps, ids, where):
    """Raise `InputError` with the first image whose map (n, h, w) holds NaN or infinity."""
    if maps.dtype.kind == "f" and not (good := np.isfinite(maps)).all():
        bad = ids[int(np.argmin(good.all((1, 2))))]
        raise InputError(f"{where}: the map of image {bad!r} holds NaN or infinity. Dump the maps of a sound model.")


def write(path, ids, maps, **facts):
    """Write maps (N, h, w) with N ids as one dump. Raises `InputError`, see `writer`."""
    with writer(path, ids, **facts) as add:
        add(maps)


@contextlib.contextmanager
def writer(path, ids, **facts):
    """Write a dump piece by piece: ``with writer("a.npz", ids) as add: add(maps)`` for each batch (n, h, w).

    facts: anything of JSON; `image_size` is what raw maps are upsampled to. The file appears when all maps are there;
    until then an earlier one stays. Raises `InputError` for ids that repeat, too many or too few maps, maps of another
    shape or type, and maps that are not finite.
    """
    path, ids = Path(path), tuple(map(str, ids))
    if path.suffix != ".npz":
        raise InputError(f"{path}: a dump is named *.npz.")
    _check_ids(path, ids)
    with workspace.atomic(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, value in (("ids", ids), ("facts", json.dumps(facts))):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, np.array(value), allow_pickle=False)
        with archive.open(zipfile.ZipInfo("maps.npy"), "w", force_zip64=True) as member:
            yield (add := _Adder(path, ids, member))
        if add.count != len(ids):
            raise InputError(f"{path}: {add.count} maps came for {len(ids)} ids; no dump was written.")


class _Adder:
    """Appends maps to the open member, after a header that the first of them gives."""

    def __init__(self, path, ids, member):
        self.path, self.ids, self.member, self.count, self.like = path, ids, member, 0, None

    def __call__(self, maps):
        maps = np.asarray(maps)
        maps = np.ascontiguousarray(maps, np.uint8 if maps.dtype == np.uint8 else np.float32)
        like = (maps.shape[1:], maps.dtype.str)
        if maps.ndim != 3 or like != (self.like or like):
            asked = f"{self.like[1]} (n, {self.like[0][0]}, {self.like[0][1]})" if self.like else "(n, h, w)"
            raise InputError(f"{self.path}: expected maps {asked}, got {maps.dtype.str} {maps.shape}.")
        if self.count + len(maps) > len(self.ids):
            raise InputError(f"{self.path}: more maps than the {len(self.ids)} ids; no dump was written.")
        check_finite(maps, self.ids[self.count :], self.path)
        if self.like is None:
            self.like, shape = like, (len(self.ids), *maps.shape[1:])
            header = {"descr": like[1], "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self.member, header)
        self.member.write(maps.data)
        self.count += len(maps)


def open_dump(path):
    """The `Dump` at the path: a file of `writer`, or a folder of .npy files, uint8 (H, W) or (H, W, 3), sorted by name.

    Raises `InputError` when there is none, or it is cut, empty or foreign. Pickles are never read.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise InputError(f"{path}: no such dump. Give a file *.npz or a folder of *.npy.")
    try:
        return _file(path)
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, OSError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error.args[0]).split()).rstrip(".") if error.args else type(error).__name__
        raise InputError(f"{path} is not a whole dump ({reason}). Write it again.") from None


def _file(path):
    with zipfile.ZipFile(path) as archive:
        ids = tuple(map(str, _small(archive, "ids").tolist()))
        facts = json.loads(str(_small(archive, "facts"))) if "facts.npy" in archive.namelist() else {}
        info = archive.getinfo("maps.npy")
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("its maps are compressed; numpy.savez leaves them as they are")
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # of the local header, which ends with two texts of these lengths
        file.seek(sum(struct.unpack("<HH", file.read(4))), 1)
        start = file.tell()
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = header[np.lib.format.read_magic(file)](file)
        offset = file.tell()
    if fortran or len(shape) != 3 or dtype.str not in ("<f4", "|u1") or 0 in shape:
        raise ValueError(f"maps: expected float32 or uint8 (N, h, w), got {dtype} {shape}")
    if offset - start + dtype.itemsize * int(np.prod(shape)) != info.file_size or len(ids) != shape[0]:
        raise ValueError(f"{len(ids)} ids, {info.file_size} bytes of maps {shape}")
    _check_ids(path, ids)

    def load(rows):  # mapped for one piece only, so that the pages read do not add up
        rows = slice(rows.start, rows.stop) if isinstance(rows, range) else np.asarray(rows)
        return np.array(np.memmap(path, dtype, "r", offset, shape)[rows])

    return Dump(path, ids, shape[1:], dtype == np.uint8, facts, load)


def _small(archive, name):
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _check_ids(path, ids):
    if not ids or len(set(ids)) < len(ids):
        raise InputError(f"{path}: {'ids that repeat' if ids else 'no images'}. Give every map an id of its own.")


def _folder(path):
    files = sorted(file for file in path.glob("*.npy") if not file.name.startswith("."))
    if not files:
        raise InputError(f"{path}: no .npy files in this folder. Give the folder of an attention dump.")
    size = _picture(files[0]).shape

    def load(rows):
        maps = np.empty((len(rows), *size), np.uint8)
        for place, row in enumerate(rows):
            picture = _picture(files[row])
            if picture.shape != size:
                raise InputError(f"{files[row]}: a map of {picture.shape}, where {files[0].name} has {size}.")
            maps[place] = picture
        return maps

    return Dump(path, tuple(file.stem for file in files), size, True, {}, load)


def _picture(file):
    """One map (H, W) of the authors' dump, which holds it in three equal channels."""
    try:
        with file.open("rb") as opened:
            array = np.lib.format.read_array(opened, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{file} cannot be read as a map ({error}).") from None
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if not grey or array.dtype != np.uint8 or 0 in array.shape:
        raise InputError(f"{file}: expected a map, uint8 (H, W) or (H, W, 3), got {array.dtype} {array.shape}.")
    if array.ndim == 2:
        return array
    if (array != array[..., :1]).any():
        raise InputError(f"{file}: its three channels differ, so it is a picture and no map.")
    return array[..., 0]
