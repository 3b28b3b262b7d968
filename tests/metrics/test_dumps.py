"""Dumps of maps: written whole or not at all, everything foreign refused in one sentence."""

import io

import numpy as np
import pytest
import safetensors.numpy
import torch

import lficam
from lficam.data import datasets
from lficam.errors import InputError
from lficam.metrics import evaluation
from lficam.metrics.dumps import open_dump, write

IDS = ("a", "b", "c")
MAPS = np.arange(12, dtype=np.float32).reshape(3, 2, 2) / 12


def test_round_trip_and_safetensors_reads_it(tmp_path):
    path = tmp_path / "d.safetensors"
    dump = write(path, IDS, torch.from_numpy(MAPS), image_size=8, method="abn")
    assert (dump.ids, dump.size, len(dump), dump.finished) == (IDS, (2, 2), 3, False)
    assert dump.facts == {"image_size": 8, "method": "abn"}
    np.testing.assert_array_equal(dump.read([2, 0]), MAPS[[2, 0]])
    np.testing.assert_array_equal(dump.read(range(1, 3)), MAPS[1:])
    assert "3 maps, 2 x 2" in repr(dump)
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["maps"], MAPS)
    write(tmp_path / "e.safetensors", IDS, MAPS, image_size=8, method="abn")
    assert (tmp_path / "e.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "ids", "maps", "words"),
    [
        ("d.safetensors", (), MAPS[:0], "no images"),
        ("d.safetensors", ("a", "a", "b"), MAPS, "ids that repeat"),
        ("d.safetensors", IDS[:2], MAPS, r"expected maps \(2, h, w\), one for each id, got \(3, 2, 2\)"),
        ("d.safetensors", IDS, MAPS[:, None], r"got \(3, 1, 2, 2\)"),
        ("d.safetensors", IDS, np.where(MAPS > 0.8, np.nan, MAPS), "NaN or infinity in 1 of 3, the first .* image 'c'"),
        ("d.npz", IDS, MAPS, r"named \*\.safetensors"),
    ],
)
def test_what_is_not_written_leaves_the_earlier_one(tmp_path, name, ids, maps, words):
    (tmp_path / name).write_bytes(b"earlier")
    with pytest.raises(InputError, match=words):
        write(tmp_path / name, ids, maps)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"earlier"]


def test_files_that_are_no_dump(tmp_path):
    path = write(tmp_path / "d.safetensors", IDS, MAPS).path
    whole = path.read_bytes()
    foreign = safetensors.numpy.save({"maps": MAPS})
    for content in [b"", b"no dump", foreign, *(whole[:cut] for cut in range(0, len(whole), 29))]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"d\.safetensors is no dump, or damaged \(.+\): write it again\.$"):
            open_dump(path)
    path.write_bytes(whole[:-4] + np.float32(np.inf).tobytes())
    with pytest.raises(InputError, match="image 'c'"):
        open_dump(path).read(range(3))
    np.savez(tmp_path / "old.npz", ids=IDS, maps=MAPS)
    with pytest.raises(InputError, match=r"earlier lficam wrote it: write it anew, .* --dump old\.safetensors"):
        open_dump(tmp_path / "old.npz")
    with pytest.raises(InputError, match="no such dump"):
        open_dump(tmp_path / "none.safetensors")


def test_a_folder_of_the_authors(tmp_path):
    with pytest.raises(InputError, match=r"no \.npy files"):
        open_dump(tmp_path)
    pictures = (MAPS * 255).astype(np.uint8)
    for name, picture in zip(("000002", "000000", "000001"), pictures, strict=True):
        np.save(tmp_path / f"{name}.npy", np.repeat(picture[..., None], 3, 2) if name == "000001" else picture)
    dump = open_dump(tmp_path)
    assert (dump.ids, dump.size, dump.finished) == (("000000", "000001", "000002"), (2, 2), True)
    np.testing.assert_array_equal(dump.read(range(3)), pictures[[1, 2, 0]])


def saved(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (np.zeros((2, 2)), "got float64"),
        (np.zeros((2, 2, 4), np.uint8), r"got uint8 \(2, 2, 4\)"),
        (np.zeros((3, 2), np.uint8), "where 0.npy has"),
        (np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "channels differ"),
        (np.array([None]), "cannot be read"),
        (b"", "cannot be read"),
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


def test_dump_of_a_model_holds_its_predictions(tmp_path):
    images = datasets.load("photo-digits", "test", count=5)
    torch.manual_seed(0)
    predictions = evaluation.predict(lficam.create("lfi-cam", "resnet-8", 10), images, batch_size=2)
    dump = evaluation.dump(predictions, images, tmp_path / "maps.safetensors", method="lfi-cam")
    assert dump.ids == images.ids
    facts = {"dataset": "photo-digits", "split": "test", "digest": images.digest, "image_size": 32}
    assert dump.facts == facts | {"method": "lfi-cam"}
    np.testing.assert_array_equal(dump.read(range(5)), predictions.maps)
