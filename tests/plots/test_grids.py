"""Grids of images show each image, map, title and outline in its place."""

import numpy as np
import torch

from lficam.plots import grids


def rows_of(figure, columns):
    return np.array(figure.axes).reshape(-1, columns)


def test_maps_side_by_side():
    pixels, maps = torch.rand(2, 3, 8, 8), {name: torch.rand(2, 8, 8) for name in ("tame", "grad-cam", "random")}
    masks = torch.rand(2, 8, 8) > 0.5
    axes = rows_of(grids.superimposed(pixels, maps, ["a $ b", "two"]), 4)
    assert [axis.get_title() for axis in axes[0]] == ["image", "TAME", "Grad-CAM", "random (control)"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["a $ b", "two"]
    np.testing.assert_allclose(axes[1, 2].images[1].get_array(), maps["grad-cam"][1])
    axes = rows_of(grids.map_grid(pixels, maps, {"tame": ["says 1", "says 2"]}, masks), 4)
    assert [axis.get_title() for axis in axes[:, 1]] == ["TAME\nsays 1", "says 2"]
    assert all(axis.collections for axis in axes.flat)  # the outline
    np.testing.assert_allclose(axes[1, 3].images[1].get_array(), maps["random"][1])


def test_many_maps_stand_in_blocks_of_whole_families():
    names = ["centre", "rise", "grad-cam", "grad-cam++", "layer-cam", "hires-cam", "finer-cam", "score-cam", "opti-cam"]
    maps = {name: torch.rand(2, 8, 8) for name in [*names, "tame", "p-tame"]}
    axes = rows_of(grids.superimposed(torch.rand(2, 3, 8, 8), maps, ["one", "two"]), 8)
    assert [axis.get_title() for axis in axes[0]] == [
        "image", "TAME", "P-TAME", "Grad-CAM", "Grad-CAM++", "LayerCAM", "HiResCAM", "FinerCAM"
    ]  # fmt: skip
    assert [axis.get_title() for axis in axes[2]][:5] == [
        "image", "Score-CAM", "Opti-CAM", "RISE", "centre\n(control)"
    ]  # fmt: skip
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["one", "two"] * 2
    assert [len(axis.images) for axis in axes[3]] == [1, 2, 2, 2, 2, 0, 0, 0]
    np.testing.assert_allclose(axes[3, 4].images[1].get_array(), maps["centre"][1])
    del maps["opti-cam"], maps["tame"]
    assert rows_of(grids.superimposed(torch.rand(2, 3, 8, 8), maps), 10).shape == (2, 10)  # nine stand in a row


def test_contact_sheet():
    figure = grids.contact_sheet(torch.rand(10, 3, 8, 8), list("abcdefghij"))
    assert [axis.get_title() for axis in figure.axes][:10] == list("abcdefghij")
    assert [len(axis.images) for axis in figure.axes] == [1] * 10 + [0] * 6


def test_stability_examples():
    maps = {f"ABN {k}": torch.rand(4, 16, 16) for k in range(3)} | {"LFI-CAM 1": torch.rand(4, 16, 16).numpy()}
    axes = rows_of(grids.stability_examples(torch.rand(4, 3, 16, 16), maps), 4)
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["image", *maps]


def test_scenes():
    pixels, maps, share = torch.rand(2, 3, 8, 16), torch.rand(2, 2, 8, 16), torch.tensor([[0.9, 0.8], [0.5, 0.4]])
    axes = rows_of(grids.scenes(pixels, maps, [("1", "7"), ("3", "4")], share), 3)
    assert axes[0, 1].get_title() == "why 1?  90 % in its half"
    assert axes[1, 2].get_title() == "why 4?  40 % in its half"
    assert [len(axis.lines) for axis in axes[0]] == [0, 1, 1]


def test_feature_importance():
    weights = torch.rand(8).softmax(0)
    maps = torch.rand(8, 4, 4)
    figure = grids.feature_importance(torch.rand(3, 8, 8), maps[0], maps, maps - 0.5, weights, maps[1])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[2] == f"$F_{{{weights.argmax()}}}$"
    assert figure.axes[-1].patches[0].get_height() == weights.max()
