"""A training's steps compiled (torch.compile), on request: rounded otherwise, and on a GPU with fewer launches."""

import torch

from ..errors import InputError, reason
from ..progress import say


def compiled(model, recipe):
    """`model.loss` compiled, for full batches; the others, each size of which would be compiled anew, take it as it is.

    Deterministic recipes are not compiled, as compiled kernels may round otherwise, nor are explainers, whose hooks on
    the classifier torch.compile cannot follow: that is said, and the result None. Its first call raises `InputError`
    where compiling fails.
    """
    refusal = "an explainer hooks into its classifier" if hasattr(model, "mechanism") else ""
    refusal = "the recipe is deterministic" if recipe.deterministic else refusal
    if refusal:
        say(f"compile: {refusal}, so the training is not compiled.")
        return None
    mode = "reduce-overhead" if next(model.parameters()).is_cuda else None
    first = True

    def loss(pixels, labels):
        nonlocal first
        if len(labels) < recipe.batch_size:
            return model.loss(pixels, labels)
        torch.compiler.cudagraph_mark_step_begin()  # results of the step before may be overwritten
        try:
            found = fast(pixels, labels)
        except Exception as error:
            if not first or isinstance(error, InputError):
                raise
            raise InputError(f"compile: failed ({type(error).__name__}: {reason(error)}): train without it.") from error
        first = False
        return found

    fast = torch.compile(model.loss, fullgraph=True, dynamic=False, mode=mode)
    return loss
