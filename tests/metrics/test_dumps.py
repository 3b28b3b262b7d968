"""Dumps of maps: written whole or not at all, read in pieces, everything foreign refused in one sentence."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

import lficam
from lficam.data import datasets
from lficam.errors import InputError
from lficam.metrics import evaluation
from lficam.metrics.dumps import open_dump, write, writer

IDS = ("a", "b", "c")
MAPS = np.arange(12, dtype=np.float32).reshape(3, 2, 2) / 12


def test_round_trip_and_numpy_reads_it(tmp_path):
    write(tmp_path / "d.npz", IDS, torch.from_numpy(MAPS), image_size=8, method="abn")
    dump = open_dump(tmp_path / "d.npz")
    assert (dump.ids, dump.size, len(dump), dump.finished) == (IDS, (2, 2), 3, False)
    assert dump.facts == {"image_size": 8, "method": "abn"}
    assert [len(chunk) for chunk in dump.chunks(2)] == [2, 1]
    np.testing.assert_array_equal(np.concatenate(list(dump.chunks(2))), MAPS)
    np.testing.assert_array_equal(dump.read([2, 0]), MAPS[[2, 0]])
    assert "3 maps, 2 x 2" in repr(dump)
    with np.load(tmp_path / "d.npz", allow_pickle=False) as plain:
        np.testing.assert_array_equal(plain["maps"], MAPS)
        assert tuple(plain["ids"]) == IDS
    write(tmp_path / "e.npz", IDS, MAPS, image_size=8, method="abn")
    assert (tmp_path / "e.npz").read_bytes() == (tmp_path / "d.npz").read_bytes()


def test_what_numpy_saved_opens(tmp_path):
    np.savez(tmp_path / "d.npz", ids=np.arange(3), maps=MAPS)
    dump = open_dump(str(tmp_path / "d.npz"))
    assert dump.ids == ("0", "1", "2")
    np.testing.assert_array_equal(dump.read(range(1, 3)), MAPS[1:])


def test_an_interrupted_dump_leaves_the_earlier_one(tmp_path):
    path = tmp_path / "d.npz"
    write(path, IDS, MAPS)
    with pytest.raises(ZeroDivisionError), writer(path, IDS) as add:
        add(MAPS[: 1 // 0])
    assert list(tmp_path.iterdir()) == [path]
    assert len(open_dump(path)) == 3
    with pytest.raises(InputError, match="2 maps came for 3 ids; no dump was written"), writer(path, IDS) as add:
        add(MAPS[:2])
    assert len(open_dump(path)) == 3


@pytest.mark.parametrize(
    ("ids", "batches", "words"),
    [
        ((), [MAPS], "no images"),
        (("a", "a", "b"), [MAPS], "ids that repeat"),
        (IDS[:2], [MAPS], "more maps than the 2 ids"),
        (IDS, [MAPS[:, None]], r"expected maps \(n, h, w\)"),
        (IDS, [MAPS[:1], MAPS[1:, :1]], r"expected maps <f4 \(n, 2, 2\)"),
        (IDS, [MAPS[:1], MAPS[1:].astype(np.uint8)], r"got \|u1"),
        (IDS, [MAPS[:2], MAPS[2:] * np.nan], "image 'c' holds NaN"),
    ],
)
def test_the_writer_refuses(tmp_path, ids, batches, words):
    def fill():
        with writer(tmp_path / "d.npz", ids) as add:
            for maps in batches:
                add(maps)

    with pytest.raises(InputError, match=words):
        fill()
    assert not list(tmp_path.iterdir())


def test_the_name_says_what_it_is(tmp_path):
    with pytest.raises(InputError, match=r"named \*\.npz"):
        write(tmp_path / "d.npy", IDS, MAPS)


def saved(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def compressed():
    file = io.BytesIO()
    np.savez_compressed(file, ids=IDS, maps=MAPS)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a zip"),
        (saved(ids=IDS, maps=MAPS)[:-40], "not a zip"),
        (saved(ids=IDS), "maps.npy"),
        (saved(ids=IDS[:2], maps=MAPS), "2 ids"),
        (saved(ids=("a", "a", "b"), maps=MAPS), "ids that repeat"),
        (saved(ids=IDS, maps=MAPS.astype(np.float64)), "got float64"),
        (saved(ids=IDS, maps=MAPS[0]), "expected float32"),
        (saved(ids=IDS, maps=np.asfortranarray(MAPS)), "expected float32"),
        (saved(ids=np.array([None, {}, "a"]), maps=MAPS), "allow_pickle=False"),
        (compressed(), "maps are compressed"),
    ],
)
def test_files_that_are_no_dump(tmp_path, content, words):
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        open_dump(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_dump(tmp_path):
    path = tmp_path / "d.npz"
    write(path, IDS, MAPS)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("maps.npy").header_offset
    for cut in range(0, len(whole), 37):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="not a whole dump"):
            open_dump(path)
    path.write_bytes(whole[: at + 40] + b"\xff" * 40 + whole[at + 80 :])  # the header of the maps
    with pytest.raises(InputError, match="not a whole dump"):
        open_dump(path)


def test_maps_that_are_not_finite_are_named(tmp_path):
    (tmp_path / "d.npz").write_bytes(saved(ids=IDS, maps=np.where(MAPS[1, 0, 0] == MAPS, np.inf, MAPS)))
    with pytest.raises(InputError, match="image 'b' holds NaN or infinity"):
        list(open_dump(tmp_path / "d.npz").chunks())


def test_a_folder_of_the_authors(tmp_path):
    pictures = (MAPS * 255).astype(np.uint8)
    for name, picture in zip(("000002", "000000", "000001"), pictures, strict=True):
        np.save(tmp_path / f"{name}.npy", np.repeat(picture[..., None], 3, 2) if name == "000001" else picture)
    dump = open_dump(tmp_path)
    assert (dump.ids, dump.size, dump.finished) == (("000000", "000001", "000002"), (2, 2), True)
    np.testing.assert_array_equal(dump.read(range(3)), pictures[[1, 2, 0]])


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (np.zeros((2, 2)), "got float64"),
        (np.zeros((2, 2, 4), np.uint8), r"got uint8 \(2, 2, 4\)"),
        (np.zeros((3, 2), np.uint8), "where 0.npy has"),
        (np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "channels differ"),
        (np.array([None]), "cannot be read"),
        (b"", "cannot be read"),
        (b"not an array", "cannot be read"),
        (b"\x93NUMPY\x01\x00v\x00{'descr'", "cannot be read"),
        (saved(a=MAPS), "cannot be read"),
    ],
)
def test_folders_that_are_no_dump(tmp_path, second, words):
    np.save(tmp_path / "0.npy", np.zeros((2, 2), np.uint8))
    if isinstance(second, bytes):
        (tmp_path / "1.npy").write_bytes(second)
    else:
        np.save(tmp_path / "1.npy", second)
    with pytest.raises(InputError, match=words) as caught:
        open_dump(tmp_path).read(range(2))
    assert "1.npy" in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="no such dump"):
        open_dump(tmp_path / "d.npz")
    with pytest.raises(InputError, match=r"no \.npy files"):
        open_dump(tmp_path)


def test_dump_of_a_model_equals_its_predictions(tmp_path):
    images = datasets.load("photo-digits", "test", count=5)
    torch.manual_seed(0)
    model = lficam.create("lfi-cam", "resnet-8", 10)
    dump = evaluation.dump(model, images, tmp_path / "maps.npz", batch_size=2, method="lfi-cam")
    assert dump.ids == images.ids
    assert dump.facts["image_size"] == 32
    assert dump.facts["digest"] == images.digest
    assert dump.facts["method"] == "lfi-cam"
    maps = evaluation.predict(model, images, batch_size=2).maps.numpy()
    np.testing.assert_array_equal(dump.read(range(5)), maps)


def test_writing_and_reading_take_constant_memory(tmp_path):
    """2,000 maps of 224 x 224 are 401 MB; in pieces of 100 they must not add up."""
    ids = [f"{i:05d}" for i in range(2000)]
    piece = np.random.default_rng(0).random((100, 224, 224), np.float32)
    tracemalloc.start()
    try:
        with writer(tmp_path / "d.npz", ids, image_size=224) as add:
            for _ in range(20):
                add(piece)
        rows = sum(len(chunk) for chunk in open_dump(tmp_path / "d.npz").chunks(100))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        (tmp_path / "d.npz").unlink()
    assert rows == 2000
    assert peak < 100e6
