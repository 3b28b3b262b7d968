"""Data sets by name: splits, augmentation, batches, folders, lists, and what is said about bad input."""

import errno
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lficam.data import datasets, folders, sources
from lficam.errors import InputError

few_cores = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def picture(path, colour=(10, 20, 30), size=(40, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


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


# --- images and batches


def test_pixels_are_unit_floats():
    images = datasets.load("photo-digits", "test", count=20)
    pixels = images.pixels([3, 5])
    assert pixels.shape == (2, 3, 32, 32)
    assert pixels.dtype == torch.float32
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert (pixels * 255).round().byte().equal(images.source.data[[3, 5]])
    assert sources.unit(torch.tensor([0, 51, 255], dtype=torch.uint8), "cpu").tolist() == [0.0, pytest.approx(0.2), 1.0]


def test_repr_says_what_it_is():
    assert (
        repr(datasets.load("photo-digits", "test", count=20)) == "<photo-digits test: 20 images, 32 x 32, 10 classes>"
    )


@pytest.mark.parametrize("at", [[4, 0], torch.tensor([4, 0]), np.array([4, 0]), [4, -20]])
def test_subset(at):
    images = datasets.load("photo-digits", "test", count=20)
    part = images.subset(at)
    assert part.ids == (images.ids[4], images.ids[0])
    assert part.labels.tolist() == [4, 0]
    assert part.masks.equal(images.masks[[4, 0]])
    assert part.pixels([0, 1], augment=True, seed=7).equal(images.pixels([4, 0], augment=True, seed=7))
    assert part.subset([1]).ids == (images.ids[0],)


def test_subset_by_mask_and_empty():
    images = datasets.load("photo-digits", "test", count=20)
    assert images.subset(images.labels == 3).ids == ("photo-digits/test/00003", "photo-digits/test/00013")
    assert len(images.subset([])) == 0
    assert list(datasets.batches(images.subset([]), 4)) == []


def test_digest_sees_order_labels_and_pixels():
    images = datasets.load("photo-digits", "test", count=20)
    parts = [
        images,
        images.subset(range(19)),
        images.subset(range(19, -1, -1)),
        datasets.load("photo-digits", "test", count=20, seed=3),
    ]
    assert len({part.digest for part in parts}) == 4
    assert images.subset(range(20)).digest == images.digest


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


def test_shift_by_hand():
    pixels = np.array([[[[1, 2], [3, 4]]]], np.uint8)
    assert sources.shift(pixels, 1, [0], [0])[0, 0].tolist() == [[0, 0], [0, 1]]
    assert sources.shift(pixels, 1, [1], [1], np.array([True]))[0, 0].tolist() == [[2, 1], [4, 3]]
    assert sources.shift(pixels, 1, [2], [1])[0, 0].tolist() == [[3, 4], [0, 0]]


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


def test_photo_digits_are_never_mirrored():
    images = datasets.load("photo-digits", "train", count=50)
    assert not images.source.mirror
    assert images.source.pad == 2
    assert datasets.load("photo-digits", "train", count=5, size=64).source.pad == 4


def test_order_follows_from_the_seed():
    images = datasets.load("photo-digits", "test", count=50)
    orders = [
        torch.cat([b.indices for b in datasets.batches(images, 8, shuffle=True, seed=s)]).tolist() for s in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(50))
    plain = list(datasets.batches(images, 8))
    assert torch.cat([b.indices for b in plain]).tolist() == list(range(50))
    assert [len(b.labels) for b in plain] == [8] * 6 + [2]
    assert plain[3].labels.equal(images.labels[24:32])


def test_global_random_state_is_left_alone(animals):
    images = datasets.load("folder", "train", root=animals, size=32)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(datasets.batches(images, 2, shuffle=True, augment=True))
    images.pixels([0], augment=True)
    assert torch.get_rng_state().equal(before)


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
    records = datasets.cifar._records
    monkeypatch.setattr(
        datasets.cifar, "_records", lambda path, labels, _: records(path, labels, 20 if "test" in path.name else 1100)
    )
    for split in datasets.SPLITS:
        pickled, binary = (datasets.load("cifar10", split, root=root) for root in (cifar, home.parent))
        assert binary.digest == pickled.digest
    assert binary.classes[2] == "class_2"
    (home / "batches.meta.txt").write_text("only_one")
    datasets._fetch.cache_clear()
    with pytest.raises(InputError, match=r"has label 9, but batches\.meta\.txt names 1 classes"):
        datasets.load("cifar10", "test", root=home.parent)


def test_binary_cifar_that_is_cut_or_missing(cifar):
    home = as_binary(cifar)
    with pytest.raises(InputError, match=r"test_batch\.bin has 61,460 bytes instead of 30,730,000"):
        datasets.load("cifar10", "test", root=home.parent)
    (home / "test_batch.bin").unlink()
    with pytest.raises(InputError, match=r"Cannot read .*test_batch\.bin \(No such file"):
        datasets.load("cifar10", "test", root=home.parent)


def test_binary_cifar100_takes_the_fine_labels(tmp_path):
    home = tmp_path / "cifar-100-binary"
    home.mkdir()
    records = np.zeros((10_000, 3074), np.uint8)
    records[:, 0], records[:, 1] = 19, np.arange(10_000) % 100
    (home / "test.bin").write_bytes(records.tobytes())
    (home / "fine_label_names.txt").write_text("\n".join(f"fine_{k}" for k in range(100)))
    test = datasets.load("cifar100", "test", root=tmp_path)
    assert (test.labels[:3].tolist(), len(test.classes)) == ([0, 1, 2], 100)
    datasets._fetch.cache_clear()


def test_cifar_has_one_size(cifar):
    assert datasets.load("cifar10", "test", root=cifar, size=32).size == 32
    with pytest.raises(InputError, match="32 x 32: leave size out"):
        datasets.load("cifar10", "test", root=cifar, size=64)


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
    assert (test.pixels([2])[0] * 255).round().byte().permute(1, 2, 0).numpy() == pytest.approx(np.array(image))
    one, two = (list(datasets.batches(train, 4, augment=True, seed=2, workers=w)) for w in (0, 2))
    assert all(a.pixels.equal(b.pixels) for a, b in zip(one, two, strict=True))
    assert len({train.digest, test.digest}) == 2


@pytest.mark.parametrize(
    ("name", "inside"),
    [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python"), ("stl10", "stl10_binary")],
)
def test_absent_download(tmp_path, name, inside):
    with pytest.raises(InputError, match=rf"{name} is not, or not whole, in .*download=True.*{inside}\.$"):
        datasets.load(name, "test", root=tmp_path)


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


def test_folder_with_val_and_test(animals):
    shutil.copytree(animals / "val", animals / "test")
    assert datasets.load("folder", "test", root=animals).ids[0] == "test/cat/0.png"
    assert datasets.load("folder", "validation", root=animals).ids[0] == "val/cat/0.png"
    assert datasets.load("folder", "test", root=animals).note == ""


def test_folder_evaluation_is_resize_and_centre_crop(animals):
    """50 x 40 at size 28: short side to 32, so 40 x 32; then the middle 28."""
    images = datasets.load("folder", "train", root=animals, size=28)
    whole = Image.open(animals / "train" / "cat" / "1.png").resize((40, 32), Image.Resampling.BILINEAR)
    assert (images.pixels([1])[0] * 255).round().byte().permute(1, 2, 0).numpy().tolist() == np.array(
        whole.crop((6, 2, 34, 30))
    ).tolist()


def test_explainer_recipe_crops_without_scaling(animals):
    """Every augmented image is one of the 28-pixel windows of the resized image, or its mirror image."""
    images = datasets.load("folder", "train", root=animals, size=28, recipe="explainer")
    whole = np.array(Image.open(animals / "train" / "cat" / "1.png").resize((40, 32), Image.Resampling.BILINEAR))
    windows = {whole[y : y + 28, x : x + 28].tobytes() for y in range(5) for x in range(13)}
    mirrored = {np.frombuffer(w, np.uint8).reshape(28, 28, 3)[:, ::-1].tobytes() for w in windows}
    seen = [
        (images.pixels([1], augment=True, seed=s)[0] * 255).round().byte().permute(1, 2, 0).numpy().tobytes()
        for s in range(20)
    ]
    assert set(seen) <= windows | mirrored
    assert set(seen) & windows
    assert set(seen) & mirrored


@few_cores
@pytest.mark.parametrize("recipe", ["classifier", "explainer"])
def test_same_bits_with_any_number_of_workers(animals, recipe):
    images = datasets.load("folder", "train", root=animals, size=32, recipe=recipe)
    runs = [list(datasets.batches(images, 2, shuffle=True, augment=True, seed=9, workers=w)) for w in (0, 1, 2)]
    for batches in zip(*runs, strict=True):
        assert all(b.pixels.equal(batches[0].pixels) and b.indices.equal(batches[0].indices) for b in batches)
    alone = images.pixels(runs[0][0].indices.flip(0), augment=True, seed=9)
    assert alone.flip(0).equal(runs[0][0].pixels)


def test_any_image_mode(tmp_path):
    """Plain conversion to RGB; transparent pixels are white, whatever colour is stored under them."""
    for i, (mode, colour) in enumerate({"L": 7, "RGBA": (9, 8, 7, 0), "1": 1, "CMYK": (255, 0, 0, 0)}.items()):
        picture(tmp_path / "train" / "a" / f"{i}.tif", colour, mode=mode)
    pixels = (datasets.load("folder", "train", root=tmp_path, size=16).pixels(range(4)) * 255).round().int()
    assert [p[:, 5, 5].tolist() for p in pixels] == [[7, 7, 7], [255, 255, 255], [255, 255, 255], [0, 255, 255]]


@pytest.mark.parametrize(("name", "least"), [("folder", 0.35), ("catdog", 0.08), ("imagenet", 0.08)])
def test_crops_of_photos_are_large(animals, name, least):
    """The papers' data sets keep ImageNet's small ones."""
    assert datasets.load(name, "train", root=animals).source.augmented.transforms[0].scale == (least, 1)


def test_unsplit_folder(tmp_path):
    for name, n in {"a": 25, "b": 11}.items():
        for i in range(n):
            picture(tmp_path / name / f"{i:02d}.png")
    parts = [datasets.load("folder", split, root=tmp_path) for split in datasets.SPLITS]
    assert [p.labels.bincount().tolist() for p in parts] == [[21, 9], [2, 1], [2, 1]]
    assert len(set().union(*(p.ids for p in parts))) == 36
    assert parts[0].ids == datasets.load("folder", "train", root=tmp_path, seed=5).ids
    assert parts[1].note.startswith("80 / 10 / 10 %")


def test_imagenet_tests_on_val(tmp_path):
    for split in ("train", "val"):
        for wnid in ("n01", "n02"):
            picture(tmp_path / split / wnid / "a.JPEG")
    (tmp_path / "test").mkdir()
    for split in ("validation", "test"):
        images = datasets.load("imagenet", split, root=tmp_path)
        assert images.ids == ("val/n01/a.JPEG", "val/n02/a.JPEG")
        assert images.note == "val serves as both validation and test."
    assert datasets.load("imagenet", "train", root=tmp_path).classes == ("n01", "n02")


def test_digest_of_a_folder_sees_pixels(tmp_path):
    """Uncompressed images of one size and name, in two folders."""
    for root, grey in (("one", 10), ("two", 200)):
        for name in [f"{kind}/{i}.bmp" for kind in ("cat", "dog") for i in range(8)]:
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (grey, 0, 0)).save(tmp_path / root / name)
    one, two = (datasets.load("folder", "train", root=tmp_path / root, size=16) for root in ("one", "two"))
    assert one.ids == two.ids
    assert one.digest != two.digest


def test_digest_of_a_folder_sees_file_sizes(animals):
    before = datasets.load("folder", "train", root=animals).digest
    assert datasets.load("folder", "train", root=animals).digest == before
    noise(animals / "train" / "cat" / "0.png", size=(60, 60))
    assert datasets.load("folder", "train", root=animals).digest != before


# --- lists


@pytest.fixture
def listed(tmp_path):
    for name in ("a.JPEG", "b.jpg", "deep/c.jpg"):
        picture(tmp_path / "images" / name)

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


def test_list_names_may_hold_spaces(tmp_path):
    picture(tmp_path / "my cat.jpg")
    (tmp_path / "list").write_text("my cat.jpg 3\n")
    assert folders.listed(tmp_path, tmp_path / "list").labels == [3]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a.JPEG 1\nb.jpg\n", r"list\.txt:2: expected 'path label' or 'path;label', got 'b\.jpg'"),
        ("\n;3", r"list\.txt:2: expected 'path label'"),
        ("a.JPEG one", r"list\.txt:1: the label must be a whole number from 0 up, got 'one'"),
        ("a.JPEG 1.0", "the label must be a whole number"),
        ("a.JPEG -1", "the label must be a whole number"),
        ("a.JPEG 1\nnone.jpg 0", r"list\.txt:2: there is no file .*none\.jpg"),
        ("a.JPEG 1\nelsewhere/b.jpg 0", r"list\.txt:2: there is no file .*elsewhere/b\.jpg"),
        ("a.JPEG 1\nb 0\na.JPEG 1", r"list\.txt:3: a\.JPEG is listed twice"),
        ("\n\n", "is empty: expected lines"),
        (b"\xff\xfe\x00", "Cannot read the list"),
    ],
)
def test_bad_list(listed, text, sentence):
    with pytest.raises(InputError, match=sentence):
        listed(text)


def test_list_label_beyond_num_classes(listed):
    sentence = r"list\.txt:2: b\.jpg has label 9, but with 3 classes the labels are 0 to 2: correct the list\.$"
    with pytest.raises(InputError, match=sentence):
        listed("a.JPEG 2\nb 9", num_classes=3)


def test_a_listed_name_in_two_class_folders(tmp_path):
    """As 1.jpg of cats and 1.jpg of dogs: neither is taken silently."""
    for name in ("cat/1.png", "dog/1.png", "dog/2.png"):
        picture(tmp_path / name)
    (tmp_path / "list").write_text("2.png 1\n1.png 0\n")
    sentence = r"list:2: 1\.png may be \S+/cat/1\.png or \S+/dog/1\.png: write the folder too, as in cat/1\.png\.$"
    with pytest.raises(InputError, match=sentence):
        folders.listed(tmp_path, tmp_path / "list")
    (tmp_path / "list").write_text("2.png 1\ncat/1.png 0\ndog/1.png 1\n")
    assert folders.listed(tmp_path, tmp_path / "list").paths == [
        str(tmp_path / n) for n in ("dog/2.png", "cat/1.png", "dog/1.png")
    ]


def test_missing_list(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read the list .*gone\.txt"):
        datasets.load("imagenet", "test", root=tmp_path, list_file=tmp_path / "gone.txt")
    with pytest.raises(InputError, match=r"no folder .*nowhere with its images"):
        datasets.load("imagenet", "test", root=tmp_path / "nowhere", list_file=tmp_path / "gone.txt")


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "cifar11"}, "Unknown data set 'cifar11': did you mean 'cifar10'"),
        ({"split": "val"}, "Unknown split 'val'"),
        ({"recipe": "mine"}, "Unknown recipe 'mine'"),
        ({"size": 15}, "size must be a whole number from 16 to 4096, not 15"),
        ({"size": 32.0}, r"size must be a whole number from 16 to 4096, not 32\.0"),
        ({"size": 10_000}, "size must be a whole number from 16 to 4096, not 10000"),
        (
            {"size": 4096, "split": "train", "count": 35_000},
            r"35000 images of 4096 x 4096 need 2188 GiB, more than the",
        ),
        ({"size": True}, "size must be a whole number"),
        ({"count": 0}, "count must be a whole number of at least 1, not 0"),
        ({"count": "5"}, "count must be a whole number of at least 1, not '5'"),
        ({"count": 1001}, "photo-digits, test: a count of 1001 is more than there are: give at most 1000"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"list_file": "x"}, "photo-digits takes no list of files"),
        ({"num_classes": 3}, "num_classes goes with list_file only"),
        ({"name": "folder"}, "folder: give --data-root"),
        ({"name": "folder", "root": "/nowhere"}, "folder: there is no folder /nowhere"),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        datasets.load(**{"name": "photo-digits", "split": "test", **arguments})


def test_default_folder_of_a_set(tmp_path, monkeypatch):
    monkeypatch.setenv("LFICAM_HOME", str(tmp_path))
    with pytest.raises(InputError, match=f"catdog: there is no folder {tmp_path}/data/cache/catdog"):
        datasets.load("catdog", "train")


def test_bad_folders(tmp_path):
    with pytest.raises(InputError, match=r"holds no class folders: expected .*/<class>/"):
        datasets.load("folder", "train", root=tmp_path)
    with pytest.raises(InputError, match="holds neither train nor val"):
        datasets.load("imagenet", "test", root=tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match=r"class folder .*cat holds no image"):
        datasets.load("folder", "train", root=tmp_path)
    for i in range(2):
        picture(tmp_path / "cat" / f"{i}.png")
    with pytest.raises(InputError, match="'cat' has 2 images, too few to split"):
        datasets.load("folder", "train", root=tmp_path)
    shutil.copytree(tmp_path / "cat", tmp_path / "train" / "cat")
    with pytest.raises(InputError, match="a count of 3 is more than there are: give at most 2"):
        datasets.load("folder", "train", root=tmp_path, count=3)
    with pytest.raises(InputError, match=r"the split 'test' needs a folder .*test: create it"):
        datasets.load("folder", "test", root=tmp_path)
    picture(tmp_path / "test" / "cow" / "0.png")
    with pytest.raises(InputError, match=r"test/cow is a class that the train folder lacks"):
        datasets.load("folder", "test", root=tmp_path)


def test_photos_without_class_folders(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.jpg")
    with pytest.raises(
        InputError, match=rf"{tmp_path} holds 3 images but no class folders: expected .*/<class>/<image"
    ):
        datasets.load("folder", "train", root=tmp_path)


def test_other_files_are_told_once_and_a_gif_is_an_image(tmp_path, capsys):
    for i in range(4):
        picture(tmp_path / "cat" / f"{i}.png")
        picture(tmp_path / "dog" / f"{i}.GIF", size=(32, 32))
    for name in ("cat/x.heic", "dog/deep/notes.txt", "cat/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = datasets.load("folder", "train", root=tmp_path, size=32)
    datasets.load("folder", "test", root=tmp_path, size=32)
    assert capsys.readouterr().out == f"{tmp_path}: 2 files are left out, no image by the ending, as cat/x.heic.\n"
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert (images.pixels([3])[0, :, 0, 0] * 255).round().tolist() == [10, 20, 30]


def test_dead_links_and_empty_files_are_named(animals):
    link, empty = animals / "train" / "cat" / "0.png", animals / "train" / "cat" / "1.png"
    link.unlink()
    link.symlink_to(animals / "gone.png")
    empty.write_bytes(b"")
    images = datasets.load("folder", "train", root=animals, size=32)
    assert len(images.digest) == 64
    with pytest.raises(InputError, match=r"0\.png \(No such file or directory\): replace"):
        images.pixels([0])
    with pytest.raises(InputError, match=r"1\.png \(the file is empty\): replace"):
        images.pixels([1])


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
def test_bad_image_is_named(animals, workers):
    """A worker's error arrives as the same plain sentence."""
    bad = animals / "train" / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:500])
    images = datasets.load("folder", "train", root=animals, size=32)
    with pytest.raises(InputError, match=rf"^Cannot read the image {bad} \(.*\): replace or remove it\.$"):
        list(datasets.batches(images, 3, workers=workers))
    with pytest.raises(InputError, match=r"1\.png"):
        images.pixels([5])


def test_no_image_at_all(animals):
    images = datasets.load("folder", "train", root=animals, size=32)
    (animals / "train" / "cat" / "0.png").write_text("not an image")
    with pytest.raises(InputError, match=r"0\.png \(no image format that is known\): replace"):
        images.pixels([0])
    (animals / "train" / "cat" / "0.png").unlink()
    with pytest.raises(InputError, match=r"0\.png \(No such file or directory\): replace"):
        images.pixels([0])


@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_bad_batch_size(size):
    with pytest.raises(InputError, match="batch_size must be a whole number of at least 1"):
        datasets.batches(datasets.load("photo-digits", "test", count=2), size)


def test_bad_workers():
    with pytest.raises(InputError, match="workers must be a whole number of at least 0, not -1"):
        datasets.batches(datasets.load("photo-digits", "test", count=2), 2, workers=-1)
