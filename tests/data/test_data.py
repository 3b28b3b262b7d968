"""Data sets by name: splits, augmentation, batches, on the device too, folders, lists."""

import dataclasses
import errno
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.fast_path import random_images
from lficam.data import datasets, folders, sources
from lficam.errors import InputError

few_cores = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def noise(path, seed=0, size=(50, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
    return path


@pytest.fixture
def animals(tmp_path):
    """train: 4 cats, 3 dogs; val: 1 cat, 2 dogs; noise, as PNG."""
    for split, counts in {"train": (4, 3), "val": (1, 2)}.items():
        for name, n in zip(("cat", "dog"), counts, strict=True):
            for i in range(n):
                noise(tmp_path / split / name / f"{i}.png", seed=len(list(tmp_path.rglob("*.png"))))
    return tmp_path


def eight_bits(pixels):
    """Images (B, 3, S, S) in [0, 1] as 8-bit ones, channels last, of PIL."""
    return (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()


# --- images and batches


@pytest.fixture(scope="module")
def digits():
    return datasets.load("photo-digits", "test", count=20)


def test_pixels_are_unit_floats(digits):
    pixels = digits.pixels([3, 5])
    assert (pixels.shape, pixels.dtype) == ((2, 3, 32, 32), torch.float32)
    assert (pixels * 255).round().byte().equal(digits.source.data[[3, 5]])
    assert sources.to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == [0.0, pytest.approx(0.2), 1.0]
    assert repr(digits) == "<photo-digits test: 20 images, 32 x 32, 10 classes>"


@pytest.mark.parametrize("at", [[4, 0], torch.tensor([4, 0]), np.array([4, 0]), [4, -20]])
def test_subset(digits, at):
    part = digits.subset(at)
    assert part.ids == (digits.ids[4], digits.ids[0])
    assert part.labels.tolist() == [4, 0]
    assert part.masks.equal(digits.masks[[4, 0]])
    assert part.pixels([0, 1], augment=True, seed=7).equal(digits.pixels([4, 0], augment=True, seed=7))
    assert part.subset([1]).ids == (digits.ids[0],)


def test_subset_by_mask_and_empty(digits):
    assert digits.subset(digits.labels == 3).ids == ("photo-digits/test/00003", "photo-digits/test/00013")
    assert list(datasets.batches(digits.subset([]), 4)) == []


def test_digest_sees_order_labels_and_pixels(digits):
    other = datasets.load("photo-digits", "test", count=20, seed=3)
    parts = [digits, digits.subset(range(19)), digits.subset(range(19, -1, -1)), other]
    assert len({part.digest for part in parts}) == 4
    assert digits.subset(range(20)).digest == digits.digest


def test_shift_against_a_loop():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 2, 3, 3), np.uint8)
    top, left, flip = rng.integers(0, 3, 6), rng.integers(0, 3, 6), np.arange(6) % 2 == 1
    got = sources.shift(pixels, 1, top, left, flip)
    for b in range(6):
        for y in range(3):
            for x in range(3):
                row, column = y + top[b] - 1, (2 - x if flip[b] else x) + left[b] - 1
                inside = 0 <= row < 3 and 0 <= column < 3
                assert (got[b, :, y, x] == (pixels[b, :, row, column] if inside else 0)).all()


def test_augmentation_depends_on_seed_and_image_alone():
    images = datasets.load("photo-digits", "train", count=200)
    whole = images.pixels(range(200), augment=True, seed=5)
    assert images.pixels([150, 3], augment=True, seed=5).equal(whole[[150, 3]])
    assert not images.pixels(range(200), augment=True, seed=6).equal(whole)
    for batch in datasets.batches(images, 64, shuffle=True, augment=True, seed=5):
        assert batch.pixels.equal(whole[batch.indices])


def test_every_shift_and_side_is_drawn():
    """One lit pixel goes to each of the 5 x 5 places, and to their mirror images, about equally often."""
    pixels = torch.zeros(2000, 1, 12, 12, dtype=torch.uint8)
    pixels[:, :, 4, 2] = 1
    seen = sources.Memory(pixels, pad=2, mirror=True).read(torch.arange(2000), True, 1).sum(0)[0]
    hit = seen.nonzero()
    assert {tuple(p) for p in hit.tolist()} == {(y, x) for y in range(2, 7) for x in (0, 1, 2, 3, 4, 7, 8, 9, 10, 11)}
    assert seen.sum() == 2000
    assert 15 < seen[seen > 0].min() <= seen.max() < 75


def test_order_follows_from_the_seed(digits):
    orders = [[b.indices for b in datasets.batches(digits, 8, shuffle=True, seed=seed)] for seed in (1, 1, 2)]
    orders = [torch.cat(order).tolist() for order in orders]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(20))
    plain = list(datasets.batches(digits, 8))
    assert torch.cat([b.indices for b in plain]).tolist() == list(range(20))
    assert [len(b.labels) for b in plain] == [8, 8, 4]
    assert plain[2].labels.equal(digits.labels[16:])


def test_global_random_state_is_left_alone(animals):
    images = datasets.load("folder", "train", root=animals, size=32)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(datasets.batches(images, 2, shuffle=True, augment=True))
    images.pixels([0], augment=True)
    assert torch.get_rng_state().equal(before)


# --- on the device


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_images_on_the_device_have_the_bits_of_main_memory(mirror, augment, shuffle):
    images = random_images(40, size=9, pad=2, mirror=mirror).subset([*range(30, 4, -1), 35])
    there = datasets.place(images, "cpu")
    assert isinstance(there.source, sources.Resident)
    assert there.digest == images.digest
    there, images = (dataclasses.replace(part, labels=9 - part.labels) for part in (there, images))  # as an explainer's
    options = {"augment": augment, "shuffle": shuffle, "seed": 3}
    expected, found = (list(datasets.batches(part, 7, **options)) for part in (images, there))
    assert [len(labels) for _, labels, _ in expected] == [7, 7, 7, 6]
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_every_crop_and_side_on_the_device():
    """All 5 x 5 crops, mirrored and not, against numpy's, given instead of drawn."""
    images = random_images(50, size=6, pad=2)
    places = [(y, x, side) for y in range(5) for x in range(5) for side in (False, True)]
    drawn = tuple(np.array(column) for column in zip(*places, strict=True))
    there = datasets.place(images, "cpu")
    there.source.draw = lambda *_: drawn
    (found,) = datasets.batches(there, 50, augment=True)
    expected = sources.shift(images.source.data.numpy(), 2, *drawn)
    assert torch.equal(found.pixels, sources.to_float(torch.from_numpy(expected)))


def test_files_and_large_sets_stay_where_they_are(monkeypatch, capsys, tmp_path):
    images = random_images(10)
    monkeypatch.setattr(datasets, "LIMIT", 10 * 3 * 40 * 40)
    assert datasets.place(images, "cpu") is not images
    monkeypatch.setattr(datasets, "LIMIT", 10 * 3 * 40 * 40 - 1)
    assert datasets.place(images, "cpu") is images
    assert capsys.readouterr().out.startswith("noise: pixels stay in main memory (0.0 GiB are too many")
    files = dataclasses.replace(images, source=sources.Pictures([tmp_path / "a.png"], 32, "classifier"))
    assert datasets.place(files, "cpu") is files


@pytest.mark.parametrize(
    ("reason", "told"), [("out of memory.\nTried to allocate much.", "out of memory."), ("", "OutOfMemoryError")]
)
def test_a_device_without_memory_is_one_line(monkeypatch, capsys, reason, told):
    def full(*_):
        raise torch.OutOfMemoryError(reason)

    monkeypatch.setattr(sources.Resident, "__init__", full)
    images = random_images(10)
    assert datasets.place(images, "cpu") is images
    assert capsys.readouterr().out == f"noise: pixels stay in main memory ({told}).\n"


# --- CIFAR and STL-10, from files of the same form


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """5 x 1,100 training and 20 test images, labels in turn; the red of the first pixel counts the images, mod 256."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        n = 20 if name == "test_batch" else 1100
        content = np.zeros((n, 3072), np.uint8)
        content[:, 0] = (np.arange(n) + 1100 * i) % 256
        (folder / name).write_bytes(pickle.dumps({"data": content, "labels": [k % 10 for k in range(n)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}))
    yield tmp_path
    datasets._fetch.cache_clear()


def test_cifar(cifar):
    train, validation, test = (datasets.load("cifar10", split, root=cifar) for split in datasets.SPLITS)
    assert (len(train), len(validation), len(test)) == (500, 5000, 20)
    rows = [int(name.rsplit("/")[-1]) for name in train.ids + validation.ids]
    assert sorted(rows) == list(range(5500))
    assert train.ids[0].startswith("cifar10/train/")
    assert test.ids[3] == "cifar10/test/00003"
    assert "5000 of the 5500 training images" in validation.note
    assert (train.pixels(range(500))[:, 0, 0, 0] * 255).round().int().tolist() == [row % 256 for row in rows[:500]]
    assert train.labels.tolist() == [row % 1100 % 10 for row in rows[:500]]
    assert test.classes[2] == "class 2"
    assert (train.mean, train.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert (train.source.pad, train.source.mirror) == (4, True)
    assert datasets.load("cifar10", "test", root=cifar, count=15).labels.bincount().tolist() == [2] * 5 + [1] * 5


def as_binary(root):
    """The pickled files of `cifar`, written as the binary distribution has them."""
    source, home = root / "cifar-10-batches-py", root / "binary" / "cifar-10-batches-bin"
    home.mkdir(parents=True)
    for path in source.glob("*_batch*"):
        content = pickle.loads(path.read_bytes())
        labels = np.array(content["labels"], np.uint8)[:, None]
        (home / f"{path.name}.bin").write_bytes(np.concatenate([labels, content["data"]], axis=1).tobytes())
    (home / "batches.meta.txt").write_text("\n".join(f"class_{k}" for k in range(10)) + "\n\n")
    return home


def test_binary_cifar_is_the_same(cifar, monkeypatch):
    home = as_binary(cifar)
    with pytest.raises(InputError, match=r"test_batch\.bin has 61,460 bytes instead of 30,730,000"):
        datasets.load("cifar10", "test", root=home.parent)
    records = datasets.cifar._records
    short = lambda path, labels, _: records(path, labels, 20 if "test" in path.name else 1100)  # noqa: E731
    monkeypatch.setattr(datasets.cifar, "_records", short)
    for split in datasets.SPLITS:
        pickled, binary = (datasets.load("cifar10", split, root=root) for root in (cifar, home.parent))
        assert binary.digest == pickled.digest
    assert binary.classes[2] == "class_2"
    (home / "batches.meta.txt").write_text("only_one")
    datasets._fetch.cache_clear()
    with pytest.raises(InputError, match=r"has label 9, but batches\.meta\.txt names 1 classes"):
        datasets.load("cifar10", "test", root=home.parent)


def test_binary_cifar100_takes_the_fine_labels(tmp_path):
    home, records = tmp_path / "cifar-100-binary", np.zeros((10_000, 3074), np.uint8)
    home.mkdir()
    records[:, 0], records[:, 1] = 19, np.arange(10_000) % 100
    (home / "test.bin").write_bytes(records.tobytes())
    (home / "fine_label_names.txt").write_text("\n".join(f"fine_{k}" for k in range(100)))
    test = datasets.load("cifar100", "test", root=tmp_path)
    assert (test.labels[:3].tolist(), len(test.classes)) == ([0, 1, 2], 100)
    datasets._fetch.cache_clear()


@pytest.fixture
def stl(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.STL10._check_integrity", lambda _: True)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, n in {"train": 510, "test": 10}.items():
        rng.integers(0, 256, n * 3 * 96 * 96, np.uint8).tofile(folder / f"{split}_X.bin")
        (np.arange(n) % 10 + 1).astype(np.uint8).tofile(folder / f"{split}_y.bin")
    (folder / "class_names.txt").write_text("\n".join(f"class {k}" for k in range(10)))
    (folder / "fold_indices.txt").write_text("")
    yield tmp_path
    datasets._fetch.cache_clear()


@few_cores
def test_stl(stl):
    train, validation, test = (datasets.load("stl10", split, root=stl, size=48) for split in datasets.SPLITS)
    assert (len(train), len(validation), len(test)) == (10, 500, 10)
    assert test.labels.tolist() == list(range(10))
    assert datasets.load("stl10", "test", root=stl).size == 224
    assert test.mean == (0.4914, 0.4822, 0.4465)
    raw = np.fromfile(stl / "stl10_binary" / "test_X.bin", np.uint8).reshape(-1, 3, 96, 96)[2].transpose(2, 1, 0)
    image = Image.fromarray(raw).resize((55, 55), Image.Resampling.BILINEAR).crop((4, 4, 52, 52))
    assert np.array_equal(eight_bits(test.pixels([2]))[0], np.array(image))
    one, two = (list(datasets.batches(train, 4, augment=True, seed=2, workers=w)) for w in (0, 2))
    assert all(a.pixels.equal(b.pixels) for a, b in zip(one, two, strict=True))
    assert len({train.digest, test.digest}) == 2


def test_failed_download(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    with pytest.raises(InputError, match=r"the download failed \(no network\); check network"):
        datasets.load("cifar10", "test", root=tmp_path, download=True)


# --- folders


def test_folder(animals):
    train, validation, test = (datasets.load("catdog", split, root=animals, size=32) for split in datasets.SPLITS)
    assert train.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert train.ids[:2] == ("train/cat/0.png", "train/cat/1.png")
    assert train.note == ""
    assert validation.ids == test.ids == ("val/cat/0.png", "val/dog/0.png", "val/dog/1.png")
    assert test.note == validation.note == "val serves as both validation and test."
    assert (train.mean, train.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert train.pixels([0, 6]).shape == (2, 3, 32, 32)
    assert datasets.load("catdog", "train", root=animals, count=5, size=32).labels.tolist() == [0, 1, 0, 1, 0]
    assert datasets.load("folder", "train", root=animals).size == 224
    shutil.copytree(animals / "val", animals / "test")
    test, validation = (datasets.load("folder", split, root=animals) for split in ("test", "validation"))
    assert (test.ids[0], validation.ids[0], test.note) == ("test/cat/0.png", "val/cat/0.png", "")


def test_crops_of_evaluation_and_of_the_explainer_recipe(animals):
    """50 x 40 at size 28: short side to 32, so 40 x 32; then the middle 28, or any 28 and its mirror image."""
    images = datasets.load("folder", "train", root=animals, size=28, recipe="explainer")
    whole = np.array(Image.open(animals / "train" / "cat" / "1.png").resize((40, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(eight_bits(images.pixels([1]))[0], whole[2:30, 6:34])
    windows = {whole[y : y + 28, x : x + 28].tobytes() for y in range(5) for x in range(13)}
    mirrored = {np.frombuffer(w, np.uint8).reshape(28, 28, 3)[:, ::-1].tobytes() for w in windows}
    seen = {eight_bits(images.pixels([1], augment=True, seed=s)).tobytes() for s in range(20)}
    assert seen <= windows | mirrored
    assert seen & windows
    assert seen & mirrored


@few_cores
@pytest.mark.parametrize("recipe", ["classifier", "explainer"])
def test_same_bits_with_any_number_of_workers(animals, recipe):
    images = datasets.load("folder", "train", root=animals, size=32, recipe=recipe)
    runs = [list(datasets.batches(images, 2, shuffle=True, augment=True, seed=9, workers=w)) for w in (0, 1, 2)]
    for batches in zip(*runs, strict=True):
        assert all(b.pixels.equal(batches[0].pixels) and b.indices.equal(batches[0].indices) for b in batches)
    alone = images.pixels(runs[0][0].indices.flip(0), augment=True, seed=9)
    assert alone.flip(0).equal(runs[0][0].pixels)


@pytest.mark.parametrize(("name", "least"), [("folder", 0.35), ("catdog", 0.08), ("imagenet", 0.08)])
def test_crops_of_photos_are_large(animals, name, least):
    """The papers' data sets keep ImageNet's small ones."""
    assert datasets.load(name, "train", root=animals).source.augmented.transforms[0].scale == (least, 1)


def test_unsplit_folder(tmp_path):
    for name, n in {"a": 25, "b": 11}.items():
        for i in range(n):
            noise(tmp_path / name / f"{i:02d}.png")
    parts = [datasets.load("folder", split, root=tmp_path) for split in datasets.SPLITS]
    assert [p.labels.bincount().tolist() for p in parts] == [[21, 9], [2, 1], [2, 1]]
    assert len(set().union(*(p.ids for p in parts))) == 36
    assert parts[0].ids == datasets.load("folder", "train", root=tmp_path, seed=5).ids
    assert parts[1].note.startswith("80 / 10 / 10 %")


def test_imagenet_tests_on_val(tmp_path):
    for split in ("train", "val"):
        for wnid in ("n01", "n02"):
            noise(tmp_path / split / wnid / "a.JPEG")
    (tmp_path / "test").mkdir()
    for split in ("validation", "test"):
        images = datasets.load("imagenet", split, root=tmp_path)
        assert images.ids == ("val/n01/a.JPEG", "val/n02/a.JPEG")
        assert images.note == "val serves as both validation and test."
    assert datasets.load("imagenet", "train", root=tmp_path).classes == ("n01", "n02")


def test_digest_of_a_folder_sees_pixels_and_file_sizes(tmp_path):
    """Uncompressed images of one size and name, in two folders; then one of another size."""

    def digest(root):
        images = datasets.load("folder", "train", root=tmp_path / root, size=16)
        return images.ids, images.digest

    for seed, root in enumerate(("one", "two")):
        for i, name in enumerate(f"{kind}/{i}.bmp" for kind in ("cat", "dog") for i in range(8)):
            noise(tmp_path / root / name, seed=100 * seed + i, size=(20, 20))
    (ids, one), (same, two) = digest("one"), digest("two")
    assert ids == same
    assert one != two
    assert digest("one") == (ids, one)
    noise(tmp_path / "one" / "cat" / "0.bmp", size=(24, 20))
    assert digest("one") != (ids, one)


# --- lists


@pytest.fixture
def listed(tmp_path):
    for name in ("a.JPEG", "b.jpg", "deep/c.jpg"):
        noise(tmp_path / "images" / name)

    def load(text, **more):
        path = tmp_path / "list.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return datasets.load("imagenet", "test", root=tmp_path / "images", list_file=path, **more)

    return load


@pytest.mark.parametrize(
    "text",
    [
        "a.JPEG 2\nb.jpg 0\ndeep/c.jpg 1\n",
        "a.JPEG;2\nb;0\ndeep/c;1",
        "\n a.JPEG 2 \n\nb 0\t\r\ndeep/c  1\n\n",
        "\ufeffa.JPEG 2\nb 0\nc 1",
    ],
)
def test_list_format(listed, text):
    images = listed(text)
    assert images.labels.tolist() == [2, 0, 1]
    assert images.ids[:2] == ("a.JPEG", "b.jpg")
    assert images.ids[2].endswith("c.jpg")
    assert images.classes == ("0", "1", "2")
    assert images.pixels(range(3)).shape == (3, 3, 224, 224)
    assert len(listed(text, num_classes=1000).classes) == 1000


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a.JPEG 1.0", "the label must be a whole number"),
        ("a.JPEG 1\nb 0\na.JPEG 1", r"list\.txt:3: a\.JPEG is listed twice"),
        (b"\xff\xfe\x00", "Cannot read the list"),
    ],
)
def test_bad_list(listed, text, sentence):
    with pytest.raises(InputError, match=sentence):
        listed(text)


def test_a_listed_name_in_two_class_folders(tmp_path):
    """As 1.jpg of cats and 1.jpg of dogs: neither is taken silently. Names may hold spaces."""
    for name in ("cat/1.png", "dog/1.png", "dog/my dog.png"):
        noise(tmp_path / name)
    (tmp_path / "list").write_text("my dog.png 1\n1.png 0\n")
    sentence = r"list:2: 1\.png may be \S+/cat/1\.png or \S+/dog/1\.png: write the folder too, as in cat/1\.png\.$"
    with pytest.raises(InputError, match=sentence):
        folders.listed(tmp_path, tmp_path / "list")
    (tmp_path / "list").write_text("my dog.png 1\ncat/1.png 0\ndog/1.png 1\n")
    names = ("dog/my dog.png", "cat/1.png", "dog/1.png")
    assert folders.listed(tmp_path, tmp_path / "list").paths == [str(tmp_path / name) for name in names]


# --- bad input that tests/test_bad_inputs.py does not try


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"recipe": "mine"}, "Unknown recipe 'mine'"),
        ({"size": 4096, "split": "train", "count": 35_000}, r"35000 images of 4096 x 4096 need 2188 GiB, more than"),
        ({"count": 1001}, "photo-digits, test: a count of 1001 is more than there are: give at most 1000"),
        ({"num_classes": 3}, "num_classes goes with list_file only"),
        ({"name": "catdog"}, "catdog: there is no folder .*/data/cache/catdog"),
    ],
)
@pytest.mark.usefixtures("home")
def test_bad_arguments(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        datasets.load(**{"name": "photo-digits", "split": "test", **arguments})


def test_a_split_that_is_not_there(animals):
    with pytest.raises(InputError, match="a count of 8 is more than there are: give at most 7"):
        datasets.load("folder", "train", root=animals, count=8)
    (animals / "val").rename(animals / "other")
    with pytest.raises(InputError, match=r"the split 'test' needs a folder .*test: create it"):
        datasets.load("folder", "test", root=animals)


def test_other_files_are_told_once_and_a_gif_is_an_image(tmp_path, capsys):
    for i in range(4):
        noise(tmp_path / "cat" / f"{i}.png")
        noise(tmp_path / "dog" / f"{i}.GIF", size=(32, 32))
    for name in ("cat/x.heic", "dog/deep/notes.txt", "cat/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = datasets.load("folder", "train", root=tmp_path, size=32)
    datasets.load("folder", "test", root=tmp_path, size=32)
    assert capsys.readouterr().out == f"{tmp_path}: 2 files are left out, no image by the ending, as cat/x.heic.\n"
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.pixels([3]).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("forbidden", ["train", "train/cat", "train/cat/deep"])
def test_a_forbidden_folder_is_named(animals, monkeypatch, forbidden):
    """Nothing of it is left out silently."""
    noise(animals / "train" / "cat" / "deep" / "a.png")
    scandir = os.scandir

    def refuse(path):
        if str(path) == str(animals / forbidden):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=rf"^Cannot read the folder {animals / forbidden} \(Permission denied\): get"):
        datasets.load("folder", "train", root=animals)


@few_cores
@pytest.mark.parametrize("workers", [0, 1])
def test_bad_images_are_named(animals, workers):
    """A worker's error arrives as the same plain sentence; with a list for them the rest of the batch comes."""
    cut, link = (animals / "train" / "dog" / f"{i}.png" for i in (1, 2))
    cut.write_bytes(cut.read_bytes()[:500])
    link.unlink()
    link.symlink_to(animals / "gone.png")
    images, failed = datasets.load("folder", "train", root=animals, size=32), []
    assert len(images.digest) == 64
    with pytest.raises(InputError, match=rf"^Cannot read the image {cut} \(.*\): replace or remove it\.$"):
        list(datasets.batches(images, 3, workers=workers))
    found = list(datasets.batches(images, 3, workers=workers, failed=failed))
    assert [batch.indices.tolist() for batch in found] == [[0, 1, 2], [3, 4]]
    assert [batch.labels.tolist() for batch in found] == [[0, 0, 0], [0, 1]]
    assert [name for name, _ in failed] == ["train/dog/1.png", "train/dog/2.png"]
    assert "No such file" in failed[1][1]
