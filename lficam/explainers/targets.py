"""What is explained where it is not the class of an index: a function of the logits, a margin, a label among others."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, reason


class Target:
    """Scores (N,) of logits (N, K), as `baseline.scores` asks for them; stands where classes (N,) would.

    function: of logits, the kind "logit" or "probability", and the tensors `own` (N,), what it knows of each image.
    """

    def __init__(self, function: Callable[..., Tensor], *own: Tensor) -> None:
        self.function, self.own = function, own

    def __call__(self, logits: Tensor, kind: str) -> Tensor:
        return self.function(logits, kind, *(values.expand(len(logits)) for values in self.own))

    def __getitem__(self, images: Any) -> "Target":
        if isinstance(images, tuple):  # as methods look at a class among the others
            raise InputError(
                "target: this method sets a class apart from others that exclude it, so it takes class indices of such "
                "a classifier: give these, or use grad-cam."
            )
        return Target(self.function, *(values[images] for values in self.own))

    def clone(self) -> "Target":
        return Target(self.function, *(values.clone() for values in self.own))


def margin(logits: Tensor) -> Target:
    """y_a - y_b of the class that logits (N, K) put first and the one that they put second, of logits in any case."""
    if logits.shape[1] < 2:
        raise InputError("target: a margin lies between two classes, and this network has one output: leave it out.")
    first, second = logits.topk(2).indices.unbind(1)

    def gap(logits: Tensor, kind: str, first: Tensor, second: Tensor) -> Tensor:  # noqa: ARG001
        return logits.gather(1, torch.stack([first, second], 1)).mul(logits.new_tensor([1, -1])).sum(1)

    return Target(gap, first, second)


def of_function(function: Callable[[Tensor], Tensor], like: Tensor) -> tuple[list[Target], bool]:
    """The targets of a user's function of logits, one a score, and whether it gives several; like: logits (N, K).

    Raises `InputError` for what is not one score (N,) or several (N, S), at once where it has another shape or fails,
    when it is called where they are not finite.
    """

    def values(logits: Tensor) -> Tensor:
        try:
            found = function(logits)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"target: the function fails on logits {tuple(logits.shape)}: {reason(error)}.") from error
        good = torch.is_tensor(found) and found.is_floating_point() and found.ndim in (1, 2) and found.numel()
        if not good or len(found) != len(logits):
            given = tuple(found.shape) if torch.is_tensor(found) else type(found).__name__
            wanted = f"one score an image, ({len(logits)},), or several, ({len(logits)}, S), of floating-point numbers"
            raise InputError(f"target: the function has to return {wanted}, got {given}.")
        return found

    def score(number: int) -> Target:
        def one(logits: Tensor, kind: str) -> Tensor:  # noqa: ARG001
            found = values(logits)
            found = found[:, number] if found.ndim == 2 else found
            if not found.isfinite().all():
                raise InputError(
                    "target: the function returns NaN or infinity: give one that is finite for all logits."
                )
            return found

        return Target(one)

    example = values(torch.zeros_like(like))
    return [score(number) for number in range(example.shape[1] if example.ndim == 2 else 1)], example.ndim == 2
