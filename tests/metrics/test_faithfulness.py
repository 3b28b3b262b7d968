"""Faithfulness against the authors' outputs, by hand on small images, and against slow definitions."""

import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lficam.errors import InputError
from lficam.metrics import faithfulness
from lficam.metrics.faithfulness import (
    average_drop,
    average_gain,
    blurred,
    class_scores,
    curve_area,
    deletion,
    increase_in_confidence,
    insertion,
    keep_top,
    masked_images,
    perturbation_steps,
    road_impute,
)

MAPS = torch.tensor([[[0.2, 1.0], [0.6, 0.0]]])
PIXELS = torch.tensor([[0.5, 0.25], [1.0, 0.75]]).expand(1, 3, 2, 2)


@functools.cache
def authors():
    return torch.load(Path(__file__).parents[1] / "golden" / "faithfulness.pt", weights_only=True)


def unpacked(bits, shape=(224, 224)):
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=math.prod(shape)).reshape(shape)).bool()


def case(name):
    if name == "small_7x5":
        return (torch.arange(35) / 34).reshape(7, 5)
    if name == "constant":
        return torch.full((224, 224), 0.7)
    if name == "half_zero":
        return authors()["smooth"] * unpacked(authors()["half_zero"])
    return authors()[name].float()


@pytest.mark.parametrize("name", ["smooth", "ties", "half_zero", "constant", "small_7x5"])
def test_kept_pixels_are_the_authors(name):
    maps = case(name)
    for fraction in (0.5, 0.15):
        kept = unpacked(authors()["kept"]["authors"][name][str(fraction)], maps.shape)
        assert torch.equal(keep_top(maps[None], fraction)[0], maps * kept)
    assert torch.equal(keep_top(maps[None], 1.0)[0], maps)


def kept_by_the_book(values, dropped):
    """The specification word for word: a list of values, row by row."""
    k = int(len(values) * dropped)
    threshold = sorted(values)[k - 1] if k else -math.inf
    values = [v if v >= threshold else 0.0 for v in values]
    excess = sum(v > 0 for v in values) - math.ceil((1 - dropped) * len(values))
    for i, v in enumerate(values):
        if v == threshold and excess > 0:
            values[i], excess = 0.0, excess - 1
    return values


@pytest.mark.parametrize("size", [(7, 5), (20, 20), (2, 2)])
def test_kept_pixels_by_the_book(size):
    maps = torch.randint(0, 9, (12, *size), generator=torch.Generator().manual_seed(0)) / 8
    maps[0] = 1
    maps[1] = 0
    for fraction, dropped in ((0.5, 0.5), (0.15, 0.85), (0.3, 0.7), (0.9, 0.1)):
        expected = torch.tensor([kept_by_the_book(m, dropped) for m in maps.flatten(1).tolist()])
        assert torch.equal(keep_top(maps, fraction), expected.reshape(maps.shape))
        assert torch.equal(keep_top(maps.double(), fraction), expected.reshape(maps.shape).double())


def test_the_authors_count_in_floating_point():
    distinct = torch.randperm(400, generator=torch.Generator().manual_seed(0)).reshape(1, 20, 20) / 400
    assert (keep_top(distinct, 0.15) > 0).sum() == 61  # 60 by arithmetic


def test_a_batch_is_its_images():
    maps = torch.rand(4, 9, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(keep_top(maps, 0.15), torch.cat([keep_top(m[None], 0.15) for m in maps]))
    alone = torch.cat([perturbation_steps(m[None], 5) for m in maps])
    assert torch.equal(perturbation_steps(maps, 5), alone)


@pytest.mark.parametrize("run", ["lcam_tame", "lcam_1", "lcam_0.5", "lcam_0.15", "ttame_1", "ttame_0.5", "ttame_0.15"])
def test_drop_and_increase_are_the_authors(run):
    run = authors()["runs"][run]
    assert average_drop(run["clean"], run["masked"]).mean().item() == pytest.approx(run["average_drop"], abs=1e-5)
    increase = increase_in_confidence(run["clean"], run["masked"])
    assert 100 * increase.double().mean().item() == pytest.approx(run["increase"], abs=1e-9)


def test_scores_by_hand():
    clean, masked = torch.tensor([0.8, 0.5, 0.5, 0.0, 1.0]), torch.tensor([0.6, 0.5, 0.75, 0.5, 1.0])
    assert average_drop(clean, masked).tolist() == pytest.approx([25, 0, 0, 0, 0], abs=1e-5)
    assert average_drop(clean, masked, relative=False).tolist() == pytest.approx([20, 0, 0, 0, 0], abs=1e-5)
    assert average_drop(torch.tensor([-1.0]), torch.tensor([-3.0]), relative=False).tolist() == [200]
    assert increase_in_confidence(clean, masked).tolist() == [False, False, True, True, False]
    assert average_gain(clean, masked).tolist() == pytest.approx([0, 0, 50, 50, 0])


def test_scores_stay_in_percent():
    clean, masked = torch.rand(2, 500, generator=torch.Generator().manual_seed(0)).unbind()
    drop, gain = average_drop(clean, masked), average_gain(clean, masked)
    assert drop.min() == gain.min() == 0
    assert 50 < drop.max() <= 100
    assert 50 < gain.max() <= 100
    assert not ((drop > 0) & (gain > 0)).any()
    assert torch.equal(gain > 0, increase_in_confidence(clean, masked))


def test_values_that_are_none_are_refused():
    """What would else be a silent number, by name and place."""
    good, bad = torch.full((6,), 0.5), torch.full((6,), 0.5)
    bad[[1, 2, 4, 5]] = float("nan")
    pixels, hole = PIXELS / 0, torch.zeros(1, 2, 2, dtype=torch.bool)
    for call, words in {
        lambda: average_gain(good, bad): "Masked scores: NaN or infinity in 4 of 6, the first is that of position 1",
        lambda: increase_in_confidence(bad, good): "Clean scores: NaN or infinity in 4 of 6",
        lambda: average_drop(-good, good): "relative=False",
        lambda: keep_top(MAPS / 0, 0.5): "Maps: NaN or infinity in 1 of 1",
        lambda: keep_top(MAPS * 3, 0.5): r"values in \[0, 1\]",
        lambda: keep_top(MAPS > 0, 0.5): "floating-point maps",
        lambda: perturbation_steps(MAPS / 0, 2): "Maps: NaN",
        lambda: perturbation_steps(MAPS, 5): "steps: expected 1 to 4",
        lambda: curve_area(torch.stack([good, bad])): "Curves: NaN or infinity in 1 of 2",
        lambda: road_impute(pixels, hole): "Images: NaN",
        lambda: road_impute(PIXELS, hole.float()): "expected booleans",
        lambda: masked_images(PIXELS, MAPS / 0): "Maps: NaN",
        lambda: masked_images(PIXELS, MAPS, (0.5, 0.4)): "mean: expected 3 numbers",
        lambda: deletion(PIXELS, hole[:, :1].int(), 1): r"turns \(1, 1, 2\) and pixels .*upsample the maps first",
    }.items():
        with pytest.raises(InputError, match=words):
            call()


def test_class_scores():
    logits = torch.tensor([[0.0, math.log(3.0)], [1.0, 1.0]])
    classes = torch.tensor([1, 0])
    assert class_scores(logits, classes).tolist() == pytest.approx([0.75, 0.5])
    assert class_scores(logits, classes, "logit").tolist() == pytest.approx([math.log(3), 1])
    assert class_scores(logits.bfloat16(), classes).dtype == torch.float32
    assert class_scores(logits.double(), classes).dtype == torch.float64
    with pytest.raises(InputError, match="from 0 to 1"):
        class_scores(logits, torch.tensor([0, 2]))
    with pytest.raises(InputError, match=r"\(N, K\), \(N,\) integers"):
        class_scores(logits, classes[:1])
    with pytest.raises(InputError, match="'probability'"):
        class_scores(logits, classes, "probabilty")


def test_masked_images():
    mean = (0.5, 0.4, 0.3)
    assert torch.equal(masked_images(PIXELS, torch.ones(1, 2, 2)), PIXELS)
    assert masked_images(PIXELS, MAPS)[0, 2].tolist() == [[pytest.approx(0.1), 0.25], [pytest.approx(0.6), 0]]
    grey = masked_images(PIXELS, torch.zeros(1, 2, 2), mean)
    assert torch.equal(grey, torch.tensor(mean)[None, :, None, None].expand(1, 3, 2, 2))
    std = torch.tensor((0.2, 0.3, 0.4))[:, None, None]  # the long way: normalise, mask, undo
    by_hand = (PIXELS - grey) / std * MAPS[:, None] * std + grey
    torch.testing.assert_close(masked_images(PIXELS, MAPS, mean), by_hand)


def test_a_map_of_ones_changes_no_answer():
    weights = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))
    answers = [
        class_scores(x.flatten(1) @ weights, torch.tensor([2]))
        for x in (PIXELS, masked_images(PIXELS, torch.ones(1, 2, 2)), masked_images(PIXELS, torch.zeros(1, 2, 2)))
    ]
    assert average_drop(answers[0], answers[1]).item() == 0
    assert average_drop(answers[0], answers[2]).item() + average_gain(answers[0], answers[2]).item() > 0


def test_steps_by_hand():
    assert perturbation_steps(MAPS, 4).tolist() == [[[3, 1], [2, 4]]]
    assert perturbation_steps(MAPS, 2).tolist() == [[[2, 1], [1, 2]]]
    assert perturbation_steps(torch.zeros(1, 2, 2), 4).tolist() == [[[1, 2], [3, 4]]]  # ties in row-major order
    assert torch.equal(perturbation_steps(torch.ones(1, 20, 20), 400).flatten(), torch.arange(1, 401).int())
    sizes = perturbation_steps(torch.rand(1, 7, 5), 8).flatten().bincount()[1:]
    assert (len(sizes), sizes.min(), sizes.max()) == (8, 4, 5)


def test_insertion_and_deletion_by_hand():
    turns = perturbation_steps(MAPS, 4)
    assert deletion(PIXELS, turns, 2)[0, 0].tolist() == [[0.5, 0], [0, 0.75]]
    assert insertion(PIXELS, turns, 2, baseline=0.125)[0, 0].tolist() == [[0.125, 0.25], [1, 0.125]]
    other = torch.rand(1, 3, 2, 2)
    assert torch.equal(deletion(PIXELS, turns, 0, other), PIXELS)
    assert torch.equal(deletion(PIXELS, turns, 4, other), other)
    assert torch.equal(insertion(PIXELS, turns, 0, other), other)
    assert torch.equal(insertion(PIXELS, turns, 4, other), PIXELS)


def test_blur():
    flat = torch.full((1, 3, 12, 12), 0.3)
    torch.testing.assert_close(blurred(flat), flat)
    point = torch.zeros(1, 3, 31, 31)
    point[..., 15, 15] = 1
    spread = blurred(point)
    assert spread[0, 0].sum().item() == pytest.approx(1, abs=1e-5)
    assert (spread[0, 0] > 0).sum() == 11 * 11
    assert (spread[0, 0, 15, 15] / spread[0, 0, 15, 20]).item() == pytest.approx(math.exp(0.5), rel=1e-4)  # one sigma
    torch.testing.assert_close(spread, spread.mT)
    with pytest.raises(InputError, match="too small"):
        blurred(PIXELS)


def test_curve_area():
    curves = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert curve_area(curves).tolist() == [1, 0.5, 0.25]
    with pytest.raises(InputError, match=r"expected \(N, steps \+ 1\)"):
        curve_area(curves[:, :1])


def filled_by_elimination(pixels, removed):
    """The definition of ROAD's imputation as one dense system for all pixels: (3, H, W), bool (H, W) -> (3, H, W)."""
    height, width = removed.shape
    system = torch.eye(height * width, dtype=torch.float64)
    for y, x in removed.nonzero().tolist():
        around = [(y + i, x + j, (2 if 0 in (i, j) else 1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
        around = [(v, u, w) for v, u, w in around if 0 <= v < height and 0 <= u < width]
        for v, u, w in around:
            system[y * width + x, v * width + u] = -w / sum(w for _, _, w in around)
    known = (pixels.double() * ~removed).flatten(1)
    return torch.linalg.solve(system, known.T).T.reshape(pixels.shape)


def test_imputation_solves_its_system():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(5, 3, 24, 32, generator=generator)
    turns = perturbation_steps(torch.rand(5, 24, 32, generator=generator), 10)
    removed = turns <= 9
    removed[1] = turns[1] <= 1
    removed[2] = True
    removed[2, 0, 0] = removed[2, -1, -1] = False
    removed[3] = False
    pixels[4] = 0.5
    expected = torch.stack([filled_by_elimination(p, r) for p, r in zip(pixels, removed, strict=True)])
    torch.testing.assert_close(road_impute(pixels.double(), removed, noise=0), expected, rtol=0, atol=1e-6)
    filled = road_impute(pixels, removed, noise=0)
    assert filled.dtype == torch.float32
    torch.testing.assert_close(filled.double(), expected, rtol=0, atol=1e-6)
    kept = ~removed[:, None].expand_as(pixels)
    assert torch.equal(filled[kept], pixels[kept])


def test_imputation_ends(monkeypatch):
    """Also where rounding, or a mistake, keeps it from ever coming closer."""
    monkeypatch.setattr(faithfulness, "_squared", lambda x: torch.ones_like(x[..., :1, :1]))
    with pytest.raises(InputError, match="not filled after 40 iterations"):
        road_impute(PIXELS, torch.tensor([[[True, True], [False, False]]]))


def test_imputation_by_hand():
    pixels = torch.arange(9.0).reshape(1, 1, 3, 3).expand(1, 3, 3, 3) ** 2 / 64
    centre = torch.zeros(1, 3, 3, dtype=torch.bool)
    centre[0, 1, 1] = True
    filled = road_impute(pixels, centre, noise=0)[0, 0, 1, 1].item() * 64
    assert filled == pytest.approx((1 + 9 + 25 + 49) / 6 + (0 + 4 + 36 + 64) / 12, abs=1e-4)
    corner = torch.tensor([[[True, False], [False, False]]])
    filled = road_impute(PIXELS, corner, noise=0)[0, 0, 0, 0].item()
    assert filled == pytest.approx((2 * 0.25 + 2 * 1.0 + 0.75) / 5, abs=1e-6)  # only neighbours inside the image


def test_imputation_noise():
    pixels, removed = torch.full((2, 3, 32, 32), 0.5), torch.zeros(2, 32, 32, dtype=torch.bool)
    removed[:, :, ::2] = True
    one, again = (road_impute(pixels, removed, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, again)
    assert torch.equal(one[..., 1::2], pixels[..., 1::2])
    assert one[..., ::2].std().item() == pytest.approx(0.01, rel=0.1)
    assert not torch.equal(one, road_impute(pixels, removed, generator=torch.Generator().manual_seed(8)))
