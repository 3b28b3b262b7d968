"""Whether a training's steps are compiled (torch.compile), decided by timing the training's own steps.

Every step that is timed is a step of the training; whatever goes wrong, the training continues without compilation.
"""

import time

import torch

from .errors import choose, reason
from .progress import duration, say

MODES = ("auto", "on", "off")
AUTO = ("cuda",)  # devices on which "auto" tries
WARM, WINDOW = 10, 20  # steps before a measurement, and in it
LEAST = 600  # seconds that must be left of a training for "auto" to try: compiling a deep network takes minutes


class Pace:
    """How the steps of one training are taken: each calls `take`.

    mode "off": as they are. "on": compiled from the first one. "auto": compiled where that was measured to be faster,
    on a GPU with enough steps left. Deterministic recipes are never compiled, as compiled kernels may round otherwise,
    nor are explainers, whose hooks on the classifier torch.compile cannot follow.
    steps: full batches in an epoch; left: steps to come.
    """

    def __init__(self, model, recipe, mode, steps, left):
        choose("compile", mode, dict.fromkeys(MODES))
        self.model, self.device = model, next(model.parameters()).device
        self.window, self.left = min(WINDOW, steps - 1), left
        self.loss, self.fresh, self.cut, self.seconds = None, False, False, 0.0
        refusal = self._refusal(recipe)
        if mode == "on" and refusal:
            say(f"compile: {refusal}, so the training is not compiled.")
        wanted = mode == "on" or (mode == "auto" and self.device.type in AUTO and self.window > 0)
        self.plan = iter(()) if refusal or not wanted else self._always() if mode == "on" else self._faster()
        self._advance()

    def _refusal(self, recipe):
        if recipe.deterministic:
            return "the recipe is deterministic"
        return "an explainer hooks into its classifier" if hasattr(self.model, "mechanism") else ""

    def start_epoch(self):
        """What lies between two epochs must not enter a measurement."""
        self.cut = True

    def take(self, step, full=True):
        """The result of `step(loss)`, one step of the training, with a compiled `model.loss` or None.

        full: whether the batch has the usual size; others are not compiled, or each size would be compiled anew.
        """
        self.left -= 1
        if not full:
            self.cut = True
            return step(None)
        held = hold(self.model, self.device) if self.fresh else None
        try:
            found = step(self.loss)
        except Exception as error:
            if self.loss is None:
                raise
            self._give_up(error, held)
        else:
            self._advance()
            return found
        return step(None)  # not above, where the error still holds the memory of the step

    def _give_up(self, error, held):
        """Go on without compilation, in the state before the step."""
        say(f"compile: failed ({type(error).__name__}: {reason(error)}), the training goes on without it.")
        self.loss, self.fresh, self.plan = None, False, iter(())
        if held:
            held()
        torch.compiler.reset()

    def _advance(self):
        """Choose how the next step is taken; when the plan is at its end, as it left it."""
        try:
            self.loss = next(self.plan)
        except StopIteration:
            return
        except Exception as error:
            self._give_up(error, None)

    def _always(self):
        yield from self._compile()
        say(f"compile: the training's steps are compiled ({duration(self.seconds)}).")

    def _faster(self):
        """Plan of "auto"; yields the loss of each next step, and leaves the faster one in place."""
        for _ in range(min(WARM, self.window)):
            yield None
        eager = yield from self._timed(None)
        if eager * self.left < LEAST:
            return
        yield from self._compile()
        fast = yield from self._timed(self.loss)
        kept = fast < eager
        say(
            f"compile: {'kept' if kept else 'not kept'}; {1e3 * fast:.1f} ms a step compiled and {1e3 * eager:.1f} ms "
            f"otherwise, {duration(fast * self.left)} against {duration(eager * self.left)} to go; compiling took "
            f"{duration(self.seconds)}."
        )
        if not kept:
            self.loss = None
            torch.compiler.reset()

    def _compile(self):
        """Yield the compiled loss for the steps in which it is compiled, and on CUDA recorded as a graph."""
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        compiled = torch.compile(self.model.loss, fullgraph=True, dynamic=False, mode=mode)

        def loss(pixels, labels):
            torch.compiler.cudagraph_mark_step_begin()  # results of the step before may be overwritten
            return compiled(pixels, labels)

        start, self.fresh = self._now(), True
        for _ in range(3):
            yield loss
        self.fresh, self.seconds = False, self._now() - start

    def _timed(self, loss):
        """Yield the loss for a window of steps that nothing interrupts; returns seconds a step."""
        while True:
            start, self.cut = self._now(), False
            for _ in range(self.window):
                yield loss
                if self.cut:
                    break
            else:
                return (self._now() - start) / self.window

    def _now(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def hold(model, device):
    """A function that brings back what a step changes before its update: buffers, and the streams of random numbers."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    cuda = [device] if device.type == "cuda" else []
    states = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in cuda]

    @torch.no_grad()
    def bring_back():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        torch.set_rng_state(states[0])
        for d, state in zip(cuda, states[1], strict=True):
            torch.cuda.set_rng_state(state, d)

    return bring_back
