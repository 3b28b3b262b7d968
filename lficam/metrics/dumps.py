"""Maps of a model on a data set with the ids of the images, as a file.

A dump is a file of safetensors with `maps` (N, h, w), raw low-resolution float32, and what was written beside them: ids
and facts. A folder of the LFI-CAM authors' .npy files, 8-bit maps at image size, one per image, opens alike.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import ArrayLike

from .. import files
from ..errors import InputError, reason
from .checks import check_finite

Rows = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dump:
    """N maps.

    path; ids: N unique names; size: (h, w) as stored; finished: whether maps are uint8 at image size, else raw
    float32; facts: what the writer told of them.
    """

    path: Path
    ids: tuple[str, ...]
    size: tuple[int, int]
    finished: bool
    facts: dict
    load: Callable[[Rows], np.ndarray]  # positions (n,) -> maps (n, h, w)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<{self.path.name}: {len(self)} maps, {self.size[0]} x {self.size[1]}>"

    def read(self, rows: Rows) -> np.ndarray:
        """The maps at these positions, (n, h, w). Raises `InputError` for one that is not finite or unreadable."""
        maps = self.load(rows)
        if not self.finished:
            check_finite(torch.from_numpy(maps), f"{self.path}, maps", [self.ids[row] for row in rows])
        return maps


def write(path: Path | str, ids: Sequence[str], maps: ArrayLike, **facts: object) -> Dump:
    """Write raw maps (N, h, w) with N ids as a dump, whole or not at all, and return it.

    facts: anything of JSON; `image_size` is what the maps are upsampled to. Raises `InputError` for ids that repeat,
    another number of maps, and maps that are not finite.
    """
    path, maps = Path(path), np.ascontiguousarray(maps, np.float32)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: a dump is named *.safetensors.")
    if maps.ndim != 3 or len(maps) != len(ids):
        raise InputError(f"{path}: expected maps ({len(ids)}, h, w), one for each id, got {maps.shape}.")
    _check_ids(path, ids)
    check_finite(torch.from_numpy(maps), f"{path}, maps", ids)
    told = json.dumps({"ids": list(ids), "facts": facts})  # one entry: safetensors orders several by chance
    with files.atomic(path) as file:
        file.write(safetensors.numpy.save({"maps": maps}, {"lficam": told}))
    return open_dump(path)


def open_dump(path: Path | str) -> Dump:
    """The `Dump` at the path: a file of `write`, or a folder of .npy files, uint8 (H, W) or (H, W, 3), sorted by name.

    Raises `InputError` when there is none, or it is cut, empty or foreign. Pickles are never read.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise InputError(f"{path}: no such dump. Give a file *.safetensors or a folder of *.npy.")
    if path.suffix == ".npz":
        raise InputError(
            f"{path} is a dump as an earlier lficam wrote it: write it anew, lficam evaluate CHECKPOINT "
            f"--dump {path.with_suffix('.safetensors').name}."
        )
    try:
        with safetensors.safe_open(path, "np") as file:
            told, maps = json.loads((file.metadata() or {})["lficam"]), file.get_tensor("maps")
        ids = tuple(told["ids"])
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} is no dump, or damaged ({reason(error)}): write it again.") from None
    return Dump(path, ids, maps.shape[1:], False, told["facts"], lambda rows: maps[np.asarray(rows)])


def _check_ids(path: Path, ids: Sequence[str]) -> None:
    if not ids or len(set(ids)) < len(ids):
        raise InputError(f"{path}: {'ids that repeat' if ids else 'no images'}. Give every map an id of its own.")


def _folder(path: Path) -> Dump:
    paths = sorted(file for file in path.glob("*.npy") if not file.name.startswith("."))
    if not paths:
        raise InputError(f"{path}: no .npy files in this folder. Give the folder of an attention dump.")
    size = _picture(paths[0]).shape

    def load(rows: Rows) -> np.ndarray:
        maps = np.empty((len(rows), *size), np.uint8)
        for place, row in enumerate(rows):
            picture = _picture(paths[row])
            if picture.shape != size:
                raise InputError(f"{paths[row]}: a map of {picture.shape}, where {paths[0].name} has {size}.")
            maps[place] = picture
        return maps

    return Dump(path, tuple(file.stem for file in paths), size, True, {}, load)


def _picture(file: Path) -> np.ndarray:
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
