"""Min-max normalisation and upsampling of maps."""

import torch

from lficam.maps import finish, minmax, upsample


def test_minmax_by_hand():
    maps = torch.tensor([[[2.0, 4.0], [6.0, 10.0]], [[-1.0, 0.0], [1.0, 1.0]]])
    expected = torch.tensor([[[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.5], [1.0, 1.0]]])
    torch.testing.assert_close(minmax(maps), expected)


def test_constant_maps_are_defined_and_have_zero_gradient():
    maps = torch.full((1, 2, 2), 3.0, requires_grad=True)
    result = minmax(maps, constant=1.0)
    result.sum().backward()
    assert result.eq(1).all()
    assert minmax(maps).eq(0).all()
    assert maps.grad.eq(0).all()


def test_upsampling_does_not_align_corners():
    """Between pixel centres 0 and 1 of a row, twofold: 0, 1/4, 3/4, 1."""
    row = upsample(torch.tensor([[[0.0, 1.0]]]), (1, 4))[0, 0]
    torch.testing.assert_close(row, torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_finish_normalises_before_upsampling():
    maps = torch.tensor([[[0.0, 5.0], [5.0, 10.0]]])
    torch.testing.assert_close(finish(maps, 4), upsample(maps / 10, 4))
