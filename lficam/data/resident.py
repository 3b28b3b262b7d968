"""Images that stay on the device: sets in memory, copied there once as uint8 and augmented there to the same bits.

images = place(images, device)      # then `datasets.batches` of them are index operations on the device

Order and draws of a whole epoch are made on the CPU, as always, and copied at once: no step waits for the host.
"""

import dataclasses

import torch

from ..errors import reason
from ..progress import say
from .sources import Memory, unit

LIMIT = 4 * 2**30  # bytes


class Resident(Memory):
    """A `Memory` of which the images of `rows` lie on the device too, padded and channels last: (N, S+2p, S+2p, 3)."""

    def __init__(self, memory, rows, device):
        super().__init__(memory.data, memory.pad, memory.mirror)
        self.rows = rows.unique()
        size, pad = memory.data.shape[-1], memory.pad
        self.held = torch.zeros(len(self.rows), size + 2 * pad, size + 2 * pad, memory.data.shape[1], dtype=torch.uint8)
        self.held[:, pad : pad + size, pad : pad + size] = memory.data[self.rows].permute(0, 2, 3, 1)
        self.held = self.held.to(device)

    def batches(self, rows, labels, cuts, augment, seed):
        """What `Memory.read` and `unit` give of the rows (N,) at each of the `cuts`, channels last, and their labels.

        Pixels (B, 3, S, S) float32 in [0, 1] and labels (B,), on the device.
        """
        device, size = self.held.device, self.data.shape[-1]
        order = torch.cat(cuts) if cuts else torch.arange(0)
        top, left, flip = map(torch.from_numpy, self.draw(rows[order], seed))
        if not augment:  # the crop in the middle, which is the image itself
            top, left, flip = torch.full_like(top, self.pad), torch.full_like(left, self.pad), torch.zeros_like(flip)
        columns = (torch.searchsorted(self.rows, rows[order]), top, left, flip, labels[order])
        lengths = [len(cut) for cut in cuts]
        # A copy that does not wait; from memory that is not pinned the driver still takes all before it returns.
        parts = zip(*(column.to(device, non_blocking=True).split(lengths) for column in columns), strict=True)
        steps = torch.arange(size, device=device)
        for at, top, left, flip, known in parts:
            across = torch.where(flip[:, None], size - 1 - steps, steps)
            y, x = top[:, None] + steps, left[:, None] + across  # (B, S)
            pixels = self.held[at[:, None, None], y[:, :, None], x[:, None, :]]  # (B, S, S, 3)
            yield unit(pixels.permute(0, 3, 1, 2), device), known


def place(images, device):
    """The images with their pixels on the device as well; themselves where they are files, too large or do not fit."""
    if not isinstance(images.source, Memory) or isinstance(images.source, Resident):
        return images
    device, (_, channels, size, _) = torch.device(device), images.source.data.shape
    needed = len(images) * channels * (size + 2 * images.source.pad) ** 2
    try:
        free = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else LIMIT
        if needed > min(LIMIT, free):
            say(f"{images.name}: pixels stay in main memory ({needed / 2**30:.1f} GiB are too many for the device).")
            return images
        return dataclasses.replace(images, source=Resident(images.source, images.rows, device))
    except RuntimeError as error:  # of the device, or memory
        say(f"{images.name}: pixels stay in main memory ({reason(error)}).")
        return images
