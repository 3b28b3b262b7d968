"""IoU and Dice between dumps: by hand, equal to the authors' code, at constant memory, wrong input refused."""

import tracemalloc

import numpy as np
import pytest
import torch

from lficam import cli
from lficam.errors import InputError
from lficam.maps import normalise_and_upsample, upsample
from lficam.metrics import overlap
from lficam.metrics.dumps import open_dump, write
from lficam.metrics.localisation import intersection_over_union

E = 1e-6


def folder(path, maps):
    """A folder of finished 8-bit maps, as the authors' code leaves it."""
    path.mkdir()
    for i, picture in enumerate(maps):
        np.save(path / f"{i:06d}.npy", np.array(picture, np.uint8))
    return path


@pytest.fixture
def pair(tmp_path):
    """Two dumps of three finished maps, 2 x 2, made for threshold 100."""
    base = [[[200, 0], [0, 0]], [[200, 200], [0, 200]], [[0, 0], [0, 0]]]
    target = [[[200, 200], [0, 0]], [[200, 200], [0, 200]], [[0, 0], [0, 0]]]
    return folder(tmp_path / "base", base), folder(tmp_path / "target", target)


def test_authors_by_hand(pair):
    scores = overlap.compare(*pair)
    # rows of the first image: 1 of 2 pixels common, then empty in both
    first = (3 + E) / (6 + E)
    assert scores["iou"] == pytest.approx([(first + 1) / 2, 1, 1], abs=1e-15)
    dice = 2 * (3 + E) / (9 + E)
    full = [2 * (6 + E) / (12 + E), 2 * (3 + E) / (6 + E)]
    assert scores["dice"] == pytest.approx([(dice + 2) / 2, sum(full) / 2, 2], abs=1e-15)  # an empty row has Dice 2


def test_standard_by_hand(pair):
    scores = overlap.compare(*pair, protocol="standard")
    assert scores["iou"].tolist() == [0.5, 1, 1]
    assert scores["dice"] == pytest.approx([2 / 3, 1, 1])


def test_the_threshold_is_strict(tmp_path):
    a, b = folder(tmp_path / "a", [[[100, 101]]]), folder(tmp_path / "b", [[[255, 255]]])
    scores = overlap.threshold_curve(a, b, [0, 99.5, 100, 101, 255], "standard")
    assert scores["iou"].tolist() == [[1], [1], [0.5], [0], [1]]
    mean, low, high = overlap.band(scores["iou"])
    assert mean.tolist() == low.tolist() == high.tolist() == [1, 1, 0.5, 0, 1]


@pytest.mark.parametrize(("name", "size"), [("8to32", 32), ("14to224", 224)])
def test_equal_to_the_authors_code(golden_iou, tmp_path, name, size):
    golden = golden_iou[name]
    ids = [f"{i:06d}" for i in range(len(golden["att_base"]))]
    for side in ("base", "target"):
        maps = golden[f"att_{side}"].numpy()
        np.testing.assert_array_equal(overlap.as_dumped(maps, (size, size)), golden[f"dump_{side}"].numpy())
        write(tmp_path / f"{side}.safetensors", ids, maps, image_size=size)
        folder(tmp_path / side, np.repeat(golden[f"dump_{side}"].numpy()[..., None], 3, 3))
    for base in ("base.safetensors", "base"):  # raw maps of ours, and their folders of finished ones, and both together
        for threshold in (0, 100):
            scores = overlap.compare(tmp_path / base, tmp_path / "target", threshold=threshold)
            for kind in ("iou", "dice"):
                expected = golden[f"official_{kind}_thr{threshold}"].numpy()
                np.testing.assert_allclose(scores[kind], expected, rtol=0, atol=1e-12)
            whole = overlap.compare(tmp_path / "base", tmp_path / "target", "standard", threshold)["iou"]
            np.testing.assert_allclose(whole, golden[f"wholemap_iou_thr{threshold}"].numpy(), atol=1e-12)


def test_eight_bits_are_integer_arithmetic():
    """Every grey level of every range: floor(256 k / R), and the peak, 256, is 0."""
    for span in range(1, 256):
        level = np.arange(256).clip(0, span)
        maps = (level / 255).astype(np.float32).reshape(1, 16, 16)
        expected = 256 * level // span % 256
        np.testing.assert_array_equal(overlap.as_dumped(maps, (16, 16))[0].ravel(), expected)
    assert not overlap.as_dumped(np.full((1, 2, 2), 0.7, np.float32), (4, 4)).any()


def test_resizing_is_bilinear():
    maps = np.random.default_rng(0).random((3, 7, 5), np.float32)
    for size in ((32, 20), (7, 11), (7, 5), (3, 4)):
        np.testing.assert_allclose(
            overlap._resize(maps, size), upsample(torch.from_numpy(maps), size), rtol=0, atol=1e-6
        )


def test_raw_maps_of_different_resolution(tmp_path):
    rng = np.random.default_rng(1)
    base, target = rng.random((5, 4, 4), np.float32), 7 * rng.random((5, 8, 8), np.float32) - 3
    write(tmp_path / "a.safetensors", "abcde", base, image_size=16)
    write(tmp_path / "b.safetensors", "abcde", target, image_size=[16, 16])
    scores = overlap.compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "standard")
    a, b = (normalise_and_upsample(torch.from_numpy(maps), 16) for maps in (base, target))
    np.testing.assert_allclose(scores["iou"], intersection_over_union(a, b > 100 / 255))
    masks = (b > 0.5).numpy()
    by_mask = overlap.against_masks(tmp_path / "a.safetensors", masks)
    np.testing.assert_allclose(by_mask, intersection_over_union(a, torch.from_numpy(masks)))
    with pytest.raises(InputError, match=r"expected bool \(5, H, W\)"):
        overlap.against_masks(tmp_path / "a.safetensors", masks[:3])
    with pytest.raises(InputError, match=r"b.safetensors: the map of image 'a' leaves \[0, 1\]"):
        overlap.compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


def test_all_pairs_share_the_images(tmp_path):
    rng = np.random.default_rng(2)
    dumps, ids = {}, [str(i) for i in range(700)]
    for name in ("1st", "2nd", "3rd"):
        write(tmp_path / f"{name}.safetensors", ids, rng.random((700, 4, 4), np.float32), image_size=32)
        dumps[name] = open_dump(tmp_path / f"{name}.safetensors")
    scores = overlap.pairs(dumps)
    assert list(scores) == [("1st", "2nd"), ("1st", "3rd"), ("2nd", "3rd")]
    for (a, b), part in scores.items():
        alone = overlap.compare(dumps[a], dumps[b])
        np.testing.assert_array_equal(part["iou"], alone["iou"])
        curve = overlap.threshold_curve(dumps[a], dumps[b], [0, 100])
        np.testing.assert_array_equal(curve["dice"][1], alone["dice"])
    table = overlap.consensus(scores)
    assert table.N.tolist() == [700] * 4
    assert table.iou.iloc[3] == pytest.approx(table.iou[:3].mean())
    assert (table.low < table.iou).all()
    assert (table.iou < table.high).all()


def test_order_is_never_changed_in_silence(tmp_path):
    maps = np.random.default_rng(3).random((4, 4, 4), np.float32)
    write(tmp_path / "a.safetensors", "abcd", maps, image_size=8)
    write(tmp_path / "b.safetensors", "dcab", maps[[3, 2, 0, 1]], image_size=8)
    with pytest.raises(InputError, match=r"number 0 is 'a' in .*a.safetensors and 'd' in .*--align"):
        overlap.compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    same = overlap.compare(tmp_path / "a.safetensors", tmp_path / "a.safetensors")
    aligned = overlap.compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors", align=True)
    np.testing.assert_array_equal(aligned["iou"], same["iou"])
    np.testing.assert_array_equal(aligned["iou"], 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": float("nan")}, "got nan"),
        ({"threshold": "100"}, "got '100'"),
        ({"threshold": True}, "got True"),
        ({"size": 4}, r"2 x 2 .*target.* 4 x 4 .the size asked for"),
        ({"size": (3, "4")}, "size: expected"),
    ],
)
def test_wrong_options(pair, options, words):
    with pytest.raises(InputError, match=words):
        overlap.compare(*pair, **options)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ("abd", r"1 only in .*base.safetensors \(first 'c'\), 1 only in .*\(first 'd'\)"),
        ("ab", r"1 only in .*base.safetensors \(first 'c'\), 0 only in"),
    ],
)
def test_dumps_that_do_not_match(tmp_path, ids, words):
    base = write(tmp_path / "base.safetensors", "abc", np.zeros((3, 2, 2)), image_size=8)
    other = write(tmp_path / "other.safetensors", ids, np.zeros((len(ids), 2, 2)), image_size=8)
    with pytest.raises(InputError, match=words):
        overlap.compare(base, other)


def test_raw_maps_need_one_image_size(tmp_path):
    maps = np.zeros((1, 2, 2), np.float32)
    write(tmp_path / "a.safetensors", "x", maps)
    write(tmp_path / "b.safetensors", "x", maps, image_size=8)
    write(tmp_path / "c.safetensors", "x", maps, image_size=16)
    with pytest.raises(InputError, match="does not say how large"):
        overlap.compare(tmp_path / "a.safetensors", tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"different sizes: 2 x 2 .* 4 x 4"):
        overlap.compare(folder(tmp_path / "d", np.zeros((1, 2, 2))), folder(tmp_path / "e", np.zeros((1, 4, 4))))
    with pytest.raises(InputError, match=r"8 x 8 .* 16 x 16"):
        overlap.compare(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert overlap.compare(tmp_path / "b.safetensors", tmp_path / "c.safetensors", size=8)["iou"].tolist() == [1]
    with pytest.raises(InputError, match="at least two"):
        overlap.pairs({"one": tmp_path / "b.safetensors"})
    with pytest.raises(InputError, match="at least one threshold"):
        overlap.threshold_curve(tmp_path / "b.safetensors", tmp_path / "b.safetensors", [])


def test_shuffled_is_the_next_images_map(tmp_path, monkeypatch):
    """In pieces of any length, to the bit; the last image is compared with the first."""
    rng = np.random.default_rng(0)
    for name, side in (("a", 4), ("b", 6)):
        write(tmp_path / f"{name}.safetensors", "12345", rng.random((5, side, side)).astype(np.float32), image_size=12)
    given = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    maps = normalise_and_upsample(torch.from_numpy(open_dump(given[1]).read(range(5))), 12).numpy()
    expected = overlap.against_masks(given[0], np.roll(maps > np.float32(100 / 255), -1, axis=0))
    for images in (1, 2, 5, 9):
        monkeypatch.setattr(overlap, "PIXELS", images * 144)
        assert np.array_equal(overlap.shuffled(*given), expected)
    write(tmp_path / "c.safetensors", "123", np.zeros((3, 4, 4), np.float32), image_size=12)
    with pytest.raises(InputError, match=r"a\.safetensors holds 5 maps and \S+c\.safetensors 3: dump the same images"):
        overlap.shuffled(given[0], tmp_path / "c.safetensors")


def test_comparing_takes_constant_memory(tmp_path):
    """400 finished maps of 224 x 224 a side are 20 MB each, read a few at a time."""
    piece = np.random.default_rng(0).integers(0, 256, (400, 224, 224), np.uint8)
    a, b = folder(tmp_path / "a", piece), folder(tmp_path / "b", np.roll(piece, 1, 0))
    del piece
    tracemalloc.start()
    try:
        scores = overlap.compare(a, b)
        overlap.shuffled(a, b)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(scores["iou"]) == 400
    assert peak < 15e6


def test_command_line(pair, capsys):
    assert cli.main(["iou", *map(str, pair)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("IoU   0.9167  95 % interval 0.7500 to 1.0000  N = 3")
    assert lines[1].startswith("Dice  1.4444")
    assert cli.main(["iou", *map(str, pair), "--protocol", "standard", "--threshold", "0", "--size", "2"]) == 0
    assert "standard protocol, threshold 0" in capsys.readouterr().out
