"""How many images per second the loader of ImageNet gives: JPEG decoding, random crop, mirroring, batches; no training.

    python -m benchmarks.loader --folder IMAGENET          # a folder with train/CLASS/*.JPEG, or CLASS/*.JPEG
    python -m benchmarks.loader --workers 0 4 16 --images 8192

Without a folder it makes photographs of ImageNet's usual size, 500 x 375: crops of those that scikit-image brings. A
row per number of workers against none, and one against decoding alone, which no augmentation can be faster than.
Starting the workers is in the time, so give many images for many workers. The first round, which reads the disk, does
not count.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import timing
from lficam.data import datasets, photo_digits
from lficam.data.sources import open_rgb

WIDTH, HEIGHT, QUALITY = 500, 375, 97


def make_photos(folder, count):
    """Write JPEG files of random crops of photographs, half of them mirrored, as two classes under folder/train."""
    photos = [Image.fromarray(photo) for photo in photo_digits._photos()]
    dice = np.random.default_rng(0)
    for i in range(count):
        photo = photos[i % len(photos)]
        share = dice.uniform(0.6, 1) * min(photo.width / WIDTH, photo.height / HEIGHT)
        width, height = round(WIDTH * share), round(HEIGHT * share)
        x, y = dice.integers(0, photo.width - width + 1), dice.integers(0, photo.height - height + 1)
        crop = photo.crop((x, y, x + width, y + height)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if dice.random() < 0.5 else crop
        path = Path(folder) / "train" / f"class{i % 2}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=QUALITY)


def epoch(images, batch, workers):
    """One pass with augmentation, as a training reads it."""
    seen = 0
    for pixels, _, _ in datasets.batches(images, batch, shuffle=True, augment=True, seed=1, workers=workers):
        seen += len(pixels)
    if seen != len(images):
        raise SystemExit(f"{seen} of {len(images)} images came: nothing was timed.")


def compare(images, given):
    """Rows of one set of images."""
    paths = [Path(os.fsdecode(path)) for path in images.source.items[images.rows.numpy()]]
    calls = {"decoding": lambda: [open_rgb(path) for path in paths]}
    for workers in dict.fromkeys((0, *given.workers)):
        calls[str(workers)] = lambda workers=workers: epoch(images, given.batch, workers)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    try:
        times = timing.in_turn(calls, given.rounds, "cpu")
    finally:
        torch.set_num_threads(threads)
    facts = {"kB a file": round(sum(path.stat().st_size for path in paths) / len(paths) / 1000)}
    what = f"loader, {images.size} pixels, batch {given.batch}"
    yield timing.row(f"{what}, no worker", "decoding alone", times, len(images), "0", "decoding", **facts)
    for name in list(calls)[2:]:
        workers = f"{name} worker{'s' * (name != '1')}"
        yield timing.row(f"{what}, {workers}", "no worker", times, len(images), name, "0", **facts)


PARSER = timing.parser("loader", __doc__, images=1024, size=224, batch=64)
PARSER.set_defaults(device="cpu")
PARSER.add_argument("--folder", help="images of your own (default: photographs are made)")
PARSER.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes (default: 1 2, and none)")
QUICK = ["--images", "16", "--batch", "8", "--rounds", "1", "--workers", "1"]


def rows(given):
    """Rows of the folder, or of photographs that are made and removed again."""
    if given.folder:
        yield from compare(
            datasets.load("folder", "train", root=given.folder, size=given.size, count=given.images), given
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        make_photos(folder, given.images)
        yield from compare(datasets.load("folder", "train", root=folder, size=given.size), given)


if __name__ == "__main__":
    timing.main(rows, PARSER)
