"""Scores of explainers on a data set: against a slow loop, and by hand."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from networks import small
from scipy import stats

import lficam
from lficam.data import datasets
from lficam.data.sources import Memory
from lficam.errors import InputError
from lficam.explainers.frozen import freeze
from lficam.maps import normalise_and_upsample
from lficam.metrics import conventions, evaluation, faithfulness, localisation, measures, scoring


@pytest.fixture(scope="module")
def images():
    return datasets.load("photo-digits", "test", count=12)


@pytest.fixture(scope="module")
def classifier():
    return freeze(small(10, seed=1), size=32)


@pytest.fixture(scope="module")
def explainers(classifier):
    torch.manual_seed(2)
    made = {method: lficam.attach(classifier, method) for method in ("tame", "l-cam-img")}
    return made | {method: lficam.baseline(classifier, method) for method in ("grad-cam", "centre")}


def test_equals_a_loop_over_images_and_explainers(explainers, classifier, images):
    seen = []
    handle = classifier.network.first.register_forward_hook(lambda *a: seen.append(len(a[1][0])))
    table = scoring.score(explainers, images, batch_size=8)
    handle.remove()
    assert len(seen) < 2 * (1 + 4 * 3) + 2 * 2  # of two batches: clean, masked by four explainers; Grad-CAM's own
    assert table.explainer.tolist() == [name for name in explainers for _ in range(12)]
    for name, explainer in explainers.items():
        rows = table[table.explainer == name]
        assert rows.image.tolist() == list(images.ids)
        for i in (0, 7, 11):
            pixels, row = images.pixels([i]), rows.iloc[i]
            logits = classifier(pixels)
            target = logits.argmax(1)
            maps = normalise_and_upsample(explainer(pixels, target).detach(), 32)
            assert row["class"] == target.item()
            assert row.probability == pytest.approx(logits.softmax(1).max().item(), abs=1e-5)
            for fraction in (1.0, 0.5, 0.15):
                masked = classifier(faithfulness.keep_top(maps, fraction) * pixels).softmax(1)[0, target]
                assert row[f"masked_{100 * fraction:g}"] == pytest.approx(masked.item(), abs=1e-4)


def test_without_masks_there_is_no_overlap(explainers, images):
    table = scoring.score(explainers, dataclasses.replace(images, masks=None))
    assert not {"iou", "energy"} & set(table.columns)
    known = {f"{m} {p}" for m in ("AD", "IC") for p in (100, 50, 15)}
    assert set(scoring.summary(table).measure) == known | {"AG 100"}


def test_summary_by_hand():
    table = pd.DataFrame(
        {
            "explainer": ["a", "a", "b", "b"],
            "probability": [0.8, 0.5, 0.8, 0.5],
            "masked_100": [0.4, 0.6, 0.8, 0.5],
            "iou": [0.2, 0.4, 0.0, 1.0],
        }
    )
    rows = scoring.summary(table).set_index(["explainer", "measure"]).reproduced.to_dict()
    assert rows == pytest.approx(
        {("a", "AD 100"): 25, ("a", "IC 100"): 50, ("a", "AG 100"): 10, ("a", "IoU"): 0.3}
        | {("b", "AD 100"): 0, ("b", "IC 100"): 0, ("b", "AG 100"): 0, ("b", "IoU"): 0.5}
    )
    wide = scoring.pivot(scoring.summary(table))
    assert wide.columns.tolist() == ["explainer", "AD 100", "IC 100", "AG 100", "IoU"]
    assert wide["AD 100"].tolist() == ["25.0 [0.0, 50.0]", "0.0 [0.0, 0.0]"]
    impossible = pd.DataFrame({"explainer": "a", "probability": [0.0, 0.5], "masked_100": [0.5, 0.25]})
    assert scoring.summary(impossible).set_index("measure").reproduced["AD 100"] == 25


class Halves:
    """An explainer that lights up the left half for the first class asked for, the right one for the second."""

    def __init__(self, classifier):
        self.classifier = classifier

    def maps_and_logits(self, pixels, classes):  # noqa: ARG002
        maps = torch.zeros(*classes.shape, 4, 8)
        maps[:, 0, :, :4] = 1
        maps[:, 1, :, 4:] = 1
        return maps, None


def test_side_by_side(explainers, classifier, images):
    scenes, classes, maps, share = scoring.side_by_side(Halves(classifier), images, 5, right=False)
    assert scenes.shape == (5, 3, 32, 64)
    assert torch.equal(scenes[0, ..., :32], images.pixels([0])[0])
    assert torch.equal(scenes[0, ..., 32:], images.pixels([1])[0])
    assert classes[0].tolist() == images.labels[:2].tolist()
    assert maps.shape == (5, 2, 32, 64)
    assert (share > 0.9).all()
    trained = scoring.side_by_side(explainers["tame"], images, 5, right=False)
    assert trained[2].shape == (5, 2, 32, 64)
    assert ((trained[3] > 0) & (trained[3] < 1)).all()


def test_side_by_side_without_a_scene(classifier, images):
    same = images.subset([0, 10])  # of one class
    with pytest.raises(InputError, match="no two neighbours of different classes"):
        scoring.side_by_side(Halves(classifier), same, right=False)


ALL = ("masking", "overlap", "sparsity", "insertion", "deletion", "road")


@pytest.fixture(scope="module")
def sharp():
    """A classifier that is sure of something, else no altered image would change its mind."""
    torch.manual_seed(5)
    network = lficam.create("plain", "resnet-8", 10)
    classifier = freeze(network)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("weight") and value.ndim == 2:
                value *= 60
    return {"grad-cam": lficam.baseline(classifier, "grad-cam"), "centre": lficam.baseline(classifier, "centre")}


@pytest.fixture(scope="module")
def tiny():
    return datasets.load("photo-digits", "test", count=12, size=16)


@pytest.fixture(scope="module")
def everything(sharp, tiny):
    return scoring.score(sharp, tiny, measures=ALL, steps=5, batch_size=12)


def test_curves_and_road_equal_a_loop(sharp, tiny, everything):
    classifier = sharp["centre"].classifier
    gap = (everything.morf_50 - everything.lerf_50).abs().to_numpy()
    assert gap[:12].any()
    compared = 0
    for name, i in (("grad-cam", int(gap[:12].argmax())), ("grad-cam", 3), ("centre", 11)):
        pixels, row = tiny.pixels([i]), everything[everything.explainer == name].iloc[i]
        target = classifier(pixels).argmax(1)
        maps = normalise_and_upsample(sharp[name](pixels, target), 16)
        turns, blur = faithfulness.perturbation_steps(maps, 5), faithfulness.blurred(pixels)
        for kind, make in (
            ("insertion", lambda k, p=pixels, t=turns, b=blur: faithfulness.insertion(p, t, k, b)),
            ("deletion", lambda k, p=pixels, t=turns: faithfulness.deletion(p, t, k)),
        ):
            curve = [classifier(make(k)).softmax(1)[0, target].item() for k in range(6)]
            assert row[[f"{kind}_{k}" for k in range(6)]].tolist() == pytest.approx(curve, abs=1e-4)
            assert row[kind] == pytest.approx((sum(curve) - (curve[0] + curve[-1]) / 2) / 5, abs=1e-4)
        order = maps.flatten().argsort(descending=True, stable=True)
        for share in (10, 30, 50, 70, 90):
            for kind, gone in (
                ("morf", order[: math.ceil(256 * share / 100)]),
                ("lerf", order[math.ceil(256 - 256 * share / 100) :]),
            ):
                removed = torch.zeros(256, dtype=torch.bool)
                removed[gone] = True
                image = faithfulness.road_impute(
                    pixels, removed.view(1, 16, 16), measures._grain(pixels, tiny.ids[i : i + 1])
                )
                logits = classifier.answer(image)[0]  # the noise leaves [0, 1]
                if logits.topk(2).values.diff().abs() > 0.05:  # else rounding decides
                    compared += 1
                    assert row[f"{kind}_{share}"] == (logits.argmax() == target).item()
        assert row.sparsity == pytest.approx(localisation.sparsity(maps).item(), abs=1e-6)
        assert row.pointing == localisation.pointing_game(maps, tiny.masks[[i]]).item()
    assert compared > 20


def test_no_measure_depends_on_the_batch(sharp, tiny, everything):
    for kind in ("morf", "lerf"):  # else these were comparisons of constants
        assert 0 < everything[f"{kind}_50"].mean() < 1
    assert everything.insertion.std() > 0.05
    numbers = everything.columns.drop(["explainer", "image"])
    small = scoring.score(sharp, tiny, measures=ALL, steps=5, batch_size=5)
    np.testing.assert_allclose(small[numbers], everything[numbers], atol=2e-4)


def test_noise_belongs_to_the_image(sharp, tiny):
    before, pixels = torch.get_rng_state(), tiny.pixels(range(3))
    a, b = measures._grain(pixels, tiny.ids[:3]), measures._grain(pixels[:1], tiny.ids[2:3])
    assert torch.equal(a[2], b[0])
    assert not torch.equal(a[0], a[1])
    assert a.std().item() == pytest.approx(0.01, rel=0.05)
    scoring.score(sharp, tiny.subset([0]), measures=("road", "insertion"))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_classifier_is_left_as_it_was(sharp, tiny):
    network = sharp["centre"].classifier.network
    before = {name: (value.data_ptr(), value.stride()) for name, value in network.named_parameters()}
    scoring.score(sharp, tiny.subset([0]))
    assert {name: (value.data_ptr(), value.stride()) for name, value in network.named_parameters()} == before


def test_bfloat16_is_close(explainers, images):
    exact, coarse = (scoring.score(explainers, images, precision=p) for p in ("float32", "bfloat16"))
    agree = (exact["class"] == coarse["class"]).to_numpy()
    assert agree.mean() > 0.7
    gap = (exact.probability - coarse.probability)[agree].abs()
    assert 0 < gap.max() < 0.03
    gap = (exact.masked_50 - coarse.masked_50)[agree].abs()
    assert gap.median() < 0.02


class Given:
    """An explainer with maps that a test made."""

    def __init__(self, classifier, make):
        self.classifier, self.make = classifier, make

    def __call__(self, pixels, target):  # noqa: ARG002
        return self.make(pixels.mean(1))


def test_maps_of_any_size_sign_and_scale_and_constant_ones(classifier, tiny):
    made = {
        "plain": lambda maps: maps,
        "negative": lambda maps: maps - 5,
        "huge": lambda maps: maps * 2.0**100,
        "small": lambda maps: maps[:, ::8, ::8],
        "constant": lambda maps: torch.full_like(maps, 3.0),
    }
    explainers, few = {name: Given(classifier, make) for name, make in made.items()}, tiny.subset(range(6))
    table = scoring.score(explainers, few, measures=ALL, steps=4)
    part = {name: rows.reset_index(drop=True) for name, rows in table.groupby("explainer")}
    for name in ("negative", "huge"):
        np.testing.assert_allclose(
            part[name].masked_50, part["plain"].masked_50, atol=0.01
        )  # rounding moves a pixel or two
    assert np.isfinite(part["small"].masked_15).all()
    black = classifier(torch.zeros(1, 3, 16, 16)).softmax(1)[0].detach().numpy()
    np.testing.assert_allclose(part["constant"].masked_100, black[part["constant"]["class"]], atol=1e-5)
    assert not part["constant"][["sparsity", "energy", "iou"]].to_numpy().any()
    assert np.isfinite(scoring.summary(table).reproduced).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda maps: torch.where(torch.arange(len(maps))[:, None, None] == 2, torch.nan, maps),
            "bad, map: NaN .* 1 of 8, the first is that of image 'photo.*00002'",
        ),
        (lambda maps: maps * torch.inf, "bad, map: NaN"),
        (lambda maps: maps[:-1], r"bad: expected maps \(8, h, w\), one an image, got \(7, 32, 32\)"),
        (lambda maps: maps[:, None], r"got \(8, 1, 32, 32\)"),
        (lambda maps: 0, r"got int"),  # noqa: ARG005
        (lambda maps: maps[:, :0], r"got \(8, 0, 32\)"),
    ],
)
def test_maps_that_are_none(classifier, images, make, words):
    explainers = {"good": Given(classifier, lambda maps: maps), "bad": Given(classifier, make)}
    with pytest.raises(InputError, match=words):
        scoring.score(explainers, images, batch_size=8)


class Counted(torch.nn.Module):
    """A classifier whose answers depend on how many images it sees at once, as those of a GPU do in the last digits."""

    def __init__(self):
        super().__init__()
        self.last = torch.nn.Linear(3, 10)

    def forward(self, images):
        return (self.last(images.mean((2, 3))) + 1e-3 * len(images) * torch.arange(10.0)).softmax(1)


@pytest.mark.parametrize("batch_size", [3, 5, 64])
def test_a_map_that_leaves_the_image_as_it_is_changes_nothing(images, batch_size, monkeypatch):
    """To the last bit: of an image whose first pixel is black a map of ones but for that pixel takes nothing away."""
    monkeypatch.setattr(measures, "_at_once", lambda pixels: min(4, len(pixels)))  # as of large images on a CPU
    pixels = images.source.data.clone()
    pixels[..., 0, 0] = 0
    black = dataclasses.replace(images, source=Memory(pixels, 2, mirror=False)).subset(range(7))

    def ones(maps):
        maps = torch.ones_like(maps)
        maps[:, 0, 0] = 0
        return maps

    explainer = Given(freeze(Counted(), size=32), ones)
    table = scoring.score({"ones": explainer}, black, batch_size=batch_size, fractions=(1.0, 0.5))
    assert table.masked_100.tolist() == table.probability.tolist()
    assert not np.isclose(table.masked_50, table.probability, rtol=0, atol=1e-6).any()
    measured = scoring.values_of(table)
    assert not measured["AD 100"].any()
    assert not measured["IC 100"].any()
    rows = conventions.scores(explainer, black, {"papers": conventions.CONVENTIONS["papers"]}, batch_size)
    assert rows.masked.tolist() == rows.clean.tolist()


@pytest.mark.parametrize("spoil", [lambda x: 2 * x.short(), lambda x: x.float() - 9, lambda x: x / torch.zeros(())])
def test_pixels_that_are_none(explainers, images, spoil):
    class Spoilt(Memory):
        def read(self, rows, augment, seed):
            pixels = super().read(rows, augment, seed).clone()
            return torch.cat([pixels[:2], spoil(pixels[2:])])

    wrong = dataclasses.replace(images, source=Spoilt(images.source.data, 2, mirror=False))
    with pytest.raises(InputError, match=r"the pixels of image 'photo.*2'.* hold values outside \[0, 1\] or NaN"):
        scoring.score({"tame": explainers["tame"]}, wrong, batch_size=8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fractions": (0.5, 0.5)}, "none twice"),
        ({"measures": ()}, "at least one"),
        ({"steps": 1}, "steps"),
    ],
)
def test_settings_that_cannot_be(explainers, images, options, words):
    with pytest.raises(InputError, match=words):
        scoring.score(explainers, images, **options)


def test_summary_of_all_measures(everything):
    rows = scoring.summary(everything).set_index(["explainer", "measure"])
    part = everything[everything.explainer == "grad-cam"]
    expected = {m: part[m].mean() for m in ("sparsity", "insertion", "deletion", "energy", "pointing")}
    for title in ("MoRF", "LeRF"):
        expected[title] = 100 * part[[f"{title.lower()}_{k}" for k in (10, 30, 50, 70, 90)]].to_numpy().mean()
    for measure, value in expected.items():
        assert rows.reproduced["grad-cam", measure] == pytest.approx(value)
    assert scoring.pivot(rows.reset_index()).shape == (2, 1 + 7 + 3 + 5)


def paired(**values):
    parts = [{"explainer": n, "image": list("abcd"), "probability": 0.5, "iou": v} for n, v in values.items()]
    return pd.concat([pd.DataFrame(part) for part in parts])


def test_compare_by_hand():
    table = paired(low=[0.1, 0.2, 0.3, 0.4], centre=[0.2, 0.3, 0.4, 0.5], other=[0.2, 0.3, 0.5, 0.3])
    rows = scoring.compare(table, "IoU").set_index("explainer")
    assert rows.against.unique().tolist() == ["centre"]
    columns = ["difference", "low", "high", "p (Holm)", "N"]
    assert rows.loc["low", columns].tolist() == pytest.approx([-0.1, -0.1, -0.1, 2 * 2 / 16, 4])  # the less of two
    assert rows.loc["other", ["difference", "p (Holm)"]].tolist() == pytest.approx([-0.025, 1])
    assert scoring.compare(table, "IoU", rival="low").explainer.tolist() == ["centre", "other"]
    with pytest.raises(InputError, match="Unknown measure 'AD 15'"):
        scoring.compare(table, "AD 15")
    with pytest.raises(InputError, match="same images"):
        scoring.compare(table.iloc[1:], "IoU")


def test_the_rival_is_a_control():
    table = paired(tame=[0.1, 0.2, 0.3, 0.4], random=[0.2, 0.3, 0.4, 0.5])
    assert scoring.compare(table, "IoU").against.tolist() == ["random"]
    with pytest.raises(InputError, match="of centre, random none was scored: score one too, or name another rival"):
        scoring.compare(table[table.explainer == "tame"], "IoU")
    with pytest.raises(InputError, match="Unknown explainer 'tme'"):
        scoring.compare(table, "IoU", rival="tme")


def test_p_is_that_of_all_signs():
    rng = np.random.default_rng(0)
    few, many = rng.normal(0.3, 1, 12), rng.normal(0, 1, 400)
    exact = stats.permutation_test((few,), np.mean, permutation_type="samples", n_resamples=5000).pvalue
    assert scoring._sign_flips(few, 5000, 0) == pytest.approx(exact)
    assert scoring._sign_flips(few, 3000, 0) == pytest.approx(exact, abs=0.03)  # too many: drawn
    assert scoring._sign_flips(many, 2000, 0) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.03)
    assert scoring._sign_flips(many + 1, 2000, 0) == pytest.approx(1 / 2001)


def test_cost(explainers, images):
    made = explainers | {"rise": lficam.baseline(explainers["tame"].classifier, "rise", masks=30)}
    rows = scoring.cost(made, images, count=4, repeats=2).set_index("explainer")
    assert rows["forward passes"].to_dict() == {"tame": 1, "l-cam-img": 1, "grad-cam": 1, "centre": 0, "rise": 30}
    assert (rows.to_numpy()[:, :4] > 0).all()


class Timed:
    """An explainer whose calls take the time of a false clock: slower while another process works."""

    def __init__(self, name, classifier, clock, seconds):
        self.name, self.classifier, self.clock, self.seconds = name, classifier, clock, seconds

    def __call__(self, pixels):
        first = self.name not in self.clock.log  # costs more: memory is allocated
        busy = 48 <= len(self.clock.log) < 84
        self.clock.log.append(self.name)
        self.clock.now += self.seconds * len(pixels) * (3 if first or busy else 1)


def test_cost_of_equal_work_is_equal_whatever_else_happens(monkeypatch, classifier, images):
    class Clock:
        now, log = 0.0, []

    monkeypatch.setattr(scoring, "time", SimpleNamespace(perf_counter=lambda: Clock.now))
    work = {"first": 0.002, "second": 0.002, "slow": 0.5, "third": 0.002}
    rows = scoring.cost({k: Timed(k, classifier, Clock, s) for k, s in work.items()}, images, count=3)
    rows = rows.set_index("explainer")
    for name, milliseconds in {"first": 2, "second": 2, "third": 2, "slow": 500}.items():
        assert rows.loc[name, ["milliseconds", "in a batch"]].tolist() == pytest.approx([milliseconds] * 2)
    assert rows["lower quartile"]["first"] == pytest.approx(2)
    assert rows["upper quartile"]["first"] > 2  # what the other process did shows in the spread
    assert [Clock.log.count(name) for name in work] == [44, 44, 12, 44]  # slow: three turns suffice
    turns = [tuple(Clock.log[i : i + 16]) for i in range(0, 48, 16)]
    assert all(turn.count(name) == 4 for turn in turns for name in work)
    assert len(set(turns)) == 3  # in another order each time


def test_maps_turned_inside_out(classifier, images):
    class Fixed:
        def __init__(self, sign):
            self.classifier, self.sign = classifier, sign

        def __call__(self, pixels, target=None):  # noqa: ARG002
            at = [next(i for i in range(12) if images.pixels([i])[0].equal(image)) for image in pixels]
            return self.sign * images.masks[at].float()

    table = scoring.score({"right": Fixed(1), "inside out": Fixed(-1)}, images)
    found = scoring.inside_out(table, images.classes).set_index("explainer")
    assert found["all"].to_dict() == {"right": "0 [0, 24]", "inside out": "100 [76, 100]"}
    for name, share in {"right": "0 [", "inside out": "100 ["}.items():
        cells = dict(enumerate(found.loc[name, list(images.classes)]))
        assert {k for k, text in cells.items() if text.startswith(share)} == set(table["class"])
        assert {text for k, text in cells.items() if k not in set(table["class"])} == {""}
    assert list(scoring.inside_out(table, [str(k) for k in range(21)])) == ["explainer", "all"]


def test_what_classifiers_say_of_a_blank_image(classifier, images):
    grey = torch.full((1, 3, 32, 32), 0.5)
    table = scoring.blank({"a": classifier, "b": classifier}, images, 0.5)
    assert list(table) == ["classifier", *images.classes]
    expected = classifier(grey).softmax(1)[0].tolist()
    assert table.loc[1].tolist() == ["b", *map(pytest.approx, expected)]
    red = evaluation.of_blank(classifier, 32, (1.0, 0, 0))
    torch.testing.assert_close(red, classifier(grey * torch.tensor([2.0, 0, 0]).view(3, 1, 1)).softmax(1)[0])
    many = scoring.blank({"c": freeze(small(30), size=32)}, images)  # whose names are not known
    values = many.iloc[0, 1:].tolist()
    assert len(values) == 10
    assert values == sorted(values, reverse=True)
