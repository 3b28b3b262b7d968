"""Feature maps of a network's layers in one forward pass, of any `nn.Module`: which layers there are, and their maps.

layers, logits = spatial_layers(network, images)
layers = choose_layers(layers, ["layer3", "layer4"])
features, logits = tap(network, images, layers)        # [(B, 1024, 14, 14), (B, 2048, 7, 7)], (B, K)
features, _ = tap(network, images, layers, stop=True)  # without what comes after the last of them
"""

import contextlib
import dataclasses
import difflib
import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError

POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_registering = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer whose output has places. kind: "maps" (B, C, h, w), "channels-last" (B, h, w, C) or "tokens" (B, N, C).

    extra: tokens before the grid, of which the first is the class token. reused: whether a later layer writes into
    the output, so that it has to be copied. calls: how often the layer is called in one pass. pools: a pooling layer.
    """

    name: str
    kind: str
    channels: int
    height: int
    width: int
    extra: int = 0
    reused: bool = False
    calls: int = 1
    pools: bool = False

    def maps(self, output: Tensor, multiply: bool = False, aspect: float = 1.0) -> Tensor:
        """The layer's output as feature maps (B, C, h, w); multiply: tokens times their class token (T-TAME).

        aspect: height over width of the images, which says how many rows of tokens there are.
        """
        if self.kind == "channels-last":
            output = output.permute(0, 3, 1, 2)
        elif self.kind == "tokens":
            grid = output[:, self.extra :]
            grid = grid * output[:, :1] if multiply else grid
            rows = max(1, round(math.sqrt(grid.shape[1] * aspect * self.height / self.width)))
            if grid.shape[1] % rows:
                raise InputError(f"Layer {self.name!r}: {grid.shape[1]} tokens are no grid in the shape of the image.")
            output = grid.transpose(1, 2).unflatten(2, (rows, -1))
        return output.clone() if self.reused else output

    def restore(self, maps: Tensor, output: Tensor) -> Tensor:
        """The layer's output with these maps (N, C, h, w) in place of its own: `maps` undone. N may be another one."""
        if self.kind == "channels-last":
            return maps.permute(0, 2, 3, 1)
        if self.kind == "tokens":
            extra = output[:, : self.extra].expand(len(maps), -1, -1)
            return torch.cat([extra, maps.flatten(2).transpose(1, 2)], 1)
        return maps

    def __str__(self) -> str:
        tokens = "  tokens" * (self.kind == "tokens")
        return f"{self.name:<40} {self.channels:>5} x {self.height} x {self.width}{tokens}"


class _Enough(BaseException):
    """The last layer that is wanted has answered. No Exception: of these torch and networks may make something else."""


@contextlib.contextmanager
def hooked(hooks: Collection[tuple[nn.Module, Callable]]) -> Iterator[None]:
    """Meanwhile the forward hooks [(module, hook)] act, in passes of this thread alone: others may use the modules."""
    own = threading.get_ident()

    def of_this_thread(hook: Callable) -> Callable:
        return lambda *call: hook(*call) if threading.get_ident() == own else None

    handles = []
    try:
        with _registering:
            handles += [module.register_forward_hook(of_this_thread(hook)) for module, hook in hooks]
        yield
    finally:
        with _registering:
            for handle in handles:
                handle.remove()


def run(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of normalised images. Classifiers of ours normalise inside, so they are entered behind that."""
    return logits_of(getattr(network, "classify_and_attend", network)(images))


def logits_of(output: Any) -> Any:
    """The logits in what a network returns: itself, its `.logits` or ["logits"], the only (B, K) in tuple or dict."""
    output = getattr(output, "logits", output)
    if isinstance(output, Mapping):
        output = output.get("logits", tuple(output.values()))
    if isinstance(output, (tuple, list)):
        flat = [part for part in output if torch.is_tensor(part) and part.ndim == 2]
        output = flat[0] if len(flat) == 1 else output
    return output


def tap(
    network: nn.Module,
    images: Tensor,
    layers: Sequence[Layer],
    *,
    stop: bool = False,
    change: Callable[[list[Tensor]], Tensor] | None = None,
    multiply: bool = False,
    raw: bool = False,
) -> tuple[list[Tensor], Any]:
    """One forward pass: ([maps (B, C, h, w) of each layer], logits (B, K), or None with `stop`).

    change: a function of the list of all maps, called when the last layer has answered, whose result takes the place
    of the maps of that layer. multiply: see `Layer.maps`; raw: the layers' outputs as they are, not as maps.
    """
    found: list[Tensor] = []
    aspect = images.shape[2] / images.shape[3]

    def hook(layer: Layer) -> Callable:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:  # noqa: ARG001 - torch's signature
            whole = output.clone() if layer.reused and raw else output
            found.append(whole if raw else layer.maps(output, multiply, aspect))
            if len(found) == len(layers):
                if stop:
                    raise _Enough
                if change is not None:
                    return layer.restore(change(found), output)
            return None

        return keep

    modules = dict(network.named_modules())
    with hooked([(modules[layer.name], hook(layer)) for layer in layers]), contextlib.suppress(_Enough):
        return found, run(network, images)
    return found, None


@torch.inference_mode(False)  # in which outputs do not tell whether they are written into
@torch.no_grad()
def spatial_layers(network: nn.Module, images: Tensor) -> tuple[list[Layer], Any]:
    """All layers with places, in the order in which they answer, for images (B, 3, H, W) as the network takes them.

    Layers whose maps have one pixel only are left out. Returns ([Layer], logits).
    """
    outputs: dict[str, tuple[Tensor, Any]] = {}
    calls: dict[str, int] = {}

    def keep(name: str) -> Callable:
        def hook(module, inputs, output):  # noqa: ARG001
            calls[name] = calls.get(name, 0) + 1
            if torch.is_tensor(output) and output.ndim:
                outputs.pop(name, None)
                outputs[name] = output, version(output)

        return hook

    def version(output):  # of a network that switches inference mode on itself nobody knows: then maps are copied
        return object() if output.is_inference() else output._version

    modules = dict(network.named_modules())
    with hooked([(m, keep(name)) for name, m in modules.items() if name and not isinstance(m, nn.Identity)]):
        logits = run(network, images.clone())
    layers: list[Layer] = []
    for name, (output, before) in outputs.items():
        grids = [(x.height >> k, x.width >> k) for x in reversed(layers) if x.kind == "maps" for k in range(4)]
        if len(output) == len(images) and (shape := _places(output, grids)):
            pools = isinstance(modules[name], POOLING)
            layers.append(Layer(name, *shape, reused=version(output) != before, calls=calls[name], pools=pools))
    return layers, logits


def _places(output: Tensor, grids: Sequence[tuple[int, int]] = ()) -> tuple[str, int, int, int, int] | None:
    """(kind, C, h, w, extra tokens) of a layer's output, or None where it has no places.

    grids: (h, w) that its tokens may have, those of the maps before it and parts of them; else they are a square.
    """
    shape = output.shape
    if len(shape) == 4 and shape[1] == shape[2] != shape[3] and shape[1] > 1:
        return "channels-last", shape[3], shape[1], shape[2], 0
    if len(shape) == 4 and shape[2] * shape[3] > 1:
        return "maps", shape[1], shape[2], shape[3], 0
    if len(shape) == 3:
        side = math.isqrt(shape[1])
        for height, width in (*grids, (side, side)):  # class, distillation and register tokens come first
            if min(height, width) > 1 and 0 <= shape[1] - height * width <= 8:
                return "tokens", shape[2], height, width, shape[1] - height * width
    return None


def choose_layers(layers: Sequence[Layer], names: Sequence[str]) -> list[Layer]:
    """The `Layer`s of these names among `spatial_layers`, in the order in which they answer.

    A name as torchvision's feature extraction writes it, "encoder.layers.encoder_layer_9.ln", is the first norm there.
    Raises `InputError` for a layer that does not exist, has no places, or is called more than once in a pass.
    """
    known = {layer.name: layer for layer in layers}
    if isinstance(names, str) or not names:
        raise InputError(f"layers: expected a list of layer names, got {names!r}.")
    names = [name if name in known or f"{name}_1" not in known else f"{name}_1" for name in names]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5) or [x.name for x in suggest(layers, 3)]
            raise InputError(
                f"Layer {name!r} does not exist or has no feature maps: near ones are {', '.join(near)}. "
                "`lficam layers` lists all."
            )
        if known[name].calls > 1:
            raise InputError(f"Layer {name!r} is called {known[name].calls} times in one pass: choose one called once.")
    if len(set(names)) < len(names):
        raise InputError(f"layers: {', '.join(names)} has a layer twice: name each once.")
    return [layer for layer in layers if layer.name in names]


def suggest(layers: Sequence[Layer], count: int) -> list[Layer]:
    """The last `count` layers worth explaining: of each resolution the last one at the outermost level,
    of transformers the first norm of the last blocks.

    VGG: the ends of its pooling stages (TAME), or with count 1 what the last pooling takes (L-CAM).
    """
    once = [layer for layer in layers if layer.calls == 1]
    norms = [x for x in once if x.kind == "tokens" and x.name.rsplit(".", 1)[-1] in ("ln_1", "norm1")]
    if norms:
        return norms[-count:]
    features = {x.name: x for x in once}
    ends = [x for i in (16, 23, 30) if (x := features.get(f"features.{i}")) and x.pools]
    if len(ends) == 3 and "features.29" in features and "features.31" not in features:
        return [features["features.29"]] if count == 1 else ends[-count:]  # VGG-16, as the papers take it
    last: dict[tuple[int, int], Layer] = {}
    for layer in once:
        size = layer.height, layer.width
        if layer.channels > 1 and not layer.pools and (size not in last or _depth(layer) <= _depth(last[size])):
            last[size] = layer
    return sorted(last.values(), key=layers.index)[-count:]


def outline(layers: Sequence[Layer]) -> list[Layer]:
    """The layers of the outermost level, by the dots of their names, that has at least six, and the suggested ones."""
    levels: dict[int, list[Layer]] = {}
    for layer in layers:
        levels.setdefault(layer.name.count("."), []).append(layer)
    large = [levels[level] for level in sorted(levels) if len(levels[level]) >= 6]
    chosen = [*(large[0] if large else layers), *suggest(layers, 3), *suggest(layers, 1)]
    return [layer for layer in layers if layer in chosen]


def _depth(layer: Layer) -> int:
    return sum(not part.isdigit() for part in layer.name.split("."))
