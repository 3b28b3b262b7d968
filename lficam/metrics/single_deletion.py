"""The single-deletion score: does the classifier miss most those cells of an image that the map says matter most?

A deleted cell is nothing that a classifier knows. One that saw such images in training (`in_domain`) is asked in its
own domain, and classifiers can be compared, each with its own map: IDSDS.
Hesse et al. (Benchmarking the Attribution Quality of Vision Models, NeurIPS 2024).
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..data.datasets import Images
from ..data.sources import Source, draws
from ..errors import InputError
from .checks import check_finite
from .localisation import rank_correlation_unchecked

CELLS = 4  # a side, of the single-deletion score


def agreement(maps: Tensor, drops: Tensor) -> Tensor:
    """Whether the cells of a grid matter as the map says: maps (N, H, W), drops (N, 16) -> (N,) in [-1, 1].

    Spearman's correlation of what the map holds in each cell of a 4 x 4 grid, summed, signs and all, with how far the
    class's logit falls when that cell alone is deleted (`without_cell`), row by row. NaN where either is constant.
    Of a classifier that saw such images in training (`in_domain`) it compares across classifiers: IDSDS.
    Raises `InputError` for shapes that do not fit and values that are not finite.
    Hesse et al. (Benchmarking the Attribution Quality of Vision Models, NeurIPS 2024).
    """
    if maps.ndim != 3:
        raise InputError(f"Maps {tuple(maps.shape)}: expected (N, H, W).")
    check_finite(maps, "Maps")
    if drops.shape != (len(maps), CELLS**2):
        raise InputError(f"drops: expected one a cell, ({len(maps)}, {CELLS**2}), got {tuple(drops.shape)}.")
    check_finite(drops, "drops")
    return agreement_unchecked(maps, drops)


def agreement_unchecked(maps: Tensor, drops: Tensor) -> Tensor:
    rows, columns = (_belongs(n, maps.device).double() for n in maps.shape[1:])
    cells = rows @ maps.double() @ columns.mT
    varies = [x.amax((1, 2)) > x.amin((1, 2)) for x in (maps, cells, drops[:, None])]
    found = rank_correlation_unchecked(cells, drops.view_as(cells))
    return torch.where(varies[0] & varies[1] & varies[2], found, torch.nan)


def _belongs(side: int, device: torch.device) -> Tensor:
    """Whether a pixel of a side is in each of its cells: bool (4, side)."""
    return torch.arange(CELLS, device=device)[:, None] == torch.arange(side, device=device) * CELLS // side


def without_cell(pixels: Tensor, cell: int | Tensor, fill: Sequence[float] | Tensor) -> Tensor:
    """Images (N, 3, H, W) without one of the 16 cells of a 4 x 4 grid: cell, an index row by row, or one an image (N,).

    fill: 3 numbers in [0, 1], the colour in its place; the authors' is the mean colour, 0 after normalisation.
    """
    rows, columns = (_belongs(n, pixels.device) for n in pixels.shape[2:])
    gone = rows[cell // CELLS][..., :, None] & columns[cell % CELLS][..., None, :]
    fill = torch.as_tensor(fill, dtype=pixels.dtype, device=pixels.device)[:, None, None]
    return torch.where(gone.unsqueeze(-3), fill, pixels)


class _InDomain(Source):
    """The images of another source; about every other one that is read is without a cell, drawn at random."""

    def __init__(self, source: Source, fill: Sequence[float]) -> None:
        self.source, self.fill = source, [round(255 * value) for value in fill]

    def read(self, rows: Tensor, augment: bool, seed: int) -> Tensor:
        pixels = self.source.read(rows, augment, seed)
        drawn = draws(seed, rows, 5)[:, 3:]  # the first three augment
        cells = torch.from_numpy((drawn[:, 0] % np.uint64(CELLS**2)).astype(np.int64))
        whole = torch.from_numpy(drawn[:, 1] < 2**63)[:, None, None, None]
        return torch.where(whole, pixels, without_cell(pixels, cells, self.fill))

    def feed(self, sha: "hashlib._Hash", rows: Tensor) -> None:
        sha.update(f"in-domain {self.fill}".encode())
        self.source.feed(sha, rows)


def in_domain(images: Images) -> Images:
    """The same images for a training (`loop.fit`) that makes deletions part of the domain.

    Each time an image is read, one of the 16 cells is the mean colour, with probability 1/2; as always the draw depends
    on seed, epoch and image alone. Validation reads the images themselves.
    """
    return dataclasses.replace(images, source=_InDomain(images.source, images.mean))
