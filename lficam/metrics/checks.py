"""Whether values are numbers: the one look that everything measured gets."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError


def check_finite(values: Tensor, what: str, ids: Sequence[str] = ()) -> None:
    """Raise `InputError` unless all values (N, ...) are finite, with the first of the N that is not.

    what: the values, as in "tame, map"; ids: names of the N images, if they are known. A GPU waits for the answer.
    """
    good = torch.isfinite(values)
    if not good.all():
        bad = (~good.reshape(len(good), -1).all(1)).nonzero()[:, 0].tolist()
        first = f"image {ids[bad[0]]!r}" if ids else f"position {bad[0]}"
        raise InputError(
            f"{what}: NaN or infinity in {len(bad)} of {len(good)}, the first is that of {first}: check the weights of "
            "explainer and classifier, or take a finer precision."
        )
