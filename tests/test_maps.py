"""Min-max normalisation and upsampling of maps; what is checked of pixels and maps."""

import pytest
import torch

from lficam.errors import InputError
from lficam.maps import (
    check_finite,
    check_pixels,
    check_range,
    full_precision,
    minmax,
    normalise_and_upsample,
    span,
    upsample,
    weighted_sum,
)


def test_minmax_by_hand():
    maps = torch.tensor([[[2.0, 4.0], [6.0, 10.0]], [[-1.0, 0.0], [1.0, 1.0]]])
    torch.testing.assert_close(minmax(maps), torch.tensor([[[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.5], [1.0, 1.0]]]))
    assert span(maps).flatten().tolist() == [8, 2]
    flat = torch.full((1, 2, 2), 3.0, requires_grad=True)  # is defined, and has zero gradient
    minmax(flat, constant=1.0).sum().backward()
    assert flat.grad.eq(0).all()
    assert minmax(flat).eq(0).all()
    assert span(flat).item() == 1


def test_upsampling_does_not_align_corners_and_follows_minmax():
    """Between pixel centres 0 and 1 of a row, twofold: 0, 1/4, 3/4, 1."""
    row = upsample(torch.tensor([[[0.0, 1.0]]]), (1, 4))[0, 0]
    torch.testing.assert_close(row, torch.tensor([0.0, 0.25, 0.75, 1.0]))
    maps = torch.tensor([[[0.0, 5.0], [5.0, 10.0]]])
    torch.testing.assert_close(normalise_and_upsample(maps, 4), upsample(maps / 10, 4))


def test_rounding_is_no_reason_to_refuse_pixels():
    for least, most in ((0, 1), (-1e-3, 1 + 1e-3)):
        check_range(torch.tensor([[[[least, most]]]]))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        check_range(torch.rand(2, 3, 4, 4, dtype=dtype))
    check_range(torch.tensor([[[[-3.0, 200.0]]]]), bounded=False)
    check_range(torch.empty(1, 3, 4, 4, device="meta"))


@pytest.mark.parametrize(
    ("change", "bounded", "sentence"),
    [
        (lambda x: x * 255, True, r"in \[0, 1\], got values from 0 to 255: divide 8-bit values by 255, and leave it"),
        (lambda x: x - 0.002, True, r"got values from -0.002 to 0.998: "),
        (lambda x: x * torch.nan, False, "expected floating-point numbers that are finite, got NaN.$"),
        (lambda x: x / 0, False, "got (NaN|values from .* to inf).$"),
    ],
)
def test_pixels_that_are_refused(change, bounded, sentence):
    with pytest.raises(InputError, match=sentence):
        check_range(change(torch.tensor([[[[0.0, 1.0]]]])), bounded)


@pytest.mark.parametrize(
    ("shape", "dtype", "advice"),
    [
        ((3, 8, 8), torch.float, r"give a batch, pixels\[None\]"),
        ((1, 8, 8, 3), torch.float, r"put the channels first, pixels.permute\(0, 3, 1, 2\)"),
        ((1, 1, 8, 8), torch.float, "give three channels"),
        ((1, 3, 8, 8), torch.uint8, "divide 8-bit values, pixels / 255"),
    ],
)
def test_what_is_no_batch_of_images(shape, dtype, advice):
    with pytest.raises(
        InputError, match=r"Images: expected a float tensor \(B, 3, H, W\) in \[0, 1\], got .*" + advice
    ):
        check_pixels(torch.zeros(shape, dtype=dtype))


def test_maps_and_answers_have_to_be_numbers():
    maps, logits = torch.rand(2, 4, 4), torch.tensor([[0.0, -torch.inf]])
    assert check_finite(maps, logits) is maps  # a class that cannot be
    for wrong in ((maps / 0, logits), (maps, -logits), (maps, logits * 0)):
        with pytest.raises(InputError, match="The map or the classifier's answer is not finite"):
            check_finite(*wrong)


def test_sums_are_not_rounded_by_autocast():
    maps, weights = torch.rand(2, 300, 4, 4), torch.rand(2, 300)
    exact = weighted_sum(maps, weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(weighted_sum(maps, weights), exact)
        with full_precision(maps):
            assert (maps @ maps).dtype == torch.float32
        assert (maps @ maps).dtype == torch.bfloat16
