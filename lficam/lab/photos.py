"""Photos from files and folders, and what an explainer says of one.

pixels = read_photo("cat.jpg", 224)                    # (3, 224, 224) in [0, 1]
explanation, = explain_photo(explainer, pixels)        # of the predicted class
explanations = explain_photo(explainer, pixels, top=5)
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torchvision.transforms import functional

from ..data import sources
from ..data.folders import ENDINGS, images, readable, tell
from ..errors import InputError
from ..explainers.controls import Own
from ..explainers.frozen import OUTPUTS, Frozen, find, freeze, trained_size
from ..explainers.learned import Explainer
from ..explainers.load import load
from ..maps import check_finite, normalise_and_upsample
from ..models import checkpoints
from ..models.attention import Classifier, Plain
from ..numerics import exact
from ..training.loop import best_device

_SLIM = 20  # length over height from which on a photo is cut before it is scaled


@dataclass(frozen=True, eq=False)
class Explanation:
    """One class of one photo: its probability, how much of it is left when the map masks the photo, and the map.

    raw: the map as the explainer gives it (h, w); map: finished (S, S), in [0, 1]; pixels (3, S, S).
    of_class: False where the map belongs to the photo and not to the class, as ABN's and LFI-CAM's do.
    """

    index: int
    name: str
    before: float
    after: float
    pixels: torch.Tensor
    map: torch.Tensor
    raw: torch.Tensor
    of_class: bool = True

    @property
    def named(self) -> bool:
        """Whether the class has a name besides its number."""
        return self.name != str(self.index)

    @property
    def drop(self) -> float:
        """By how many percent of itself the probability falls; negative where it rises."""
        return 100 * (self.before - self.after) / self.before if self.before else 0.0

    @property
    def masked(self) -> torch.Tensor:
        """The photo times its map (3, S, S)."""
        return self.pixels * self.map


def find_photos(paths: Path | str | Iterable, skip: Iterable = ()) -> list[Path]:
    """Files as they are given, and of folders the image files in them and below, sorted; none comes twice.

    skip: files to leave out of folders. Other files in them, which are no images by their ending, are told once.
    Raises `InputError` for what does not exist or cannot be listed.
    """
    found: dict[str, Path] = {}
    left_out = set(map(os.path.realpath, skip))
    for given in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        if os.path.isdir(given):
            others: list = []
            with readable():
                own: list = [path for path in images(given, others) if os.path.realpath(path) not in left_out]
            tell(given, [path for path in others if os.path.realpath(path) not in left_out])
            if not own:
                raise InputError(f"The folder {given} holds no image ({', '.join(ENDINGS)}): give another one.")
        elif os.path.isfile(given):
            own = [given]
        else:
            raise InputError(f"There is no photo or folder {given}: check the path.")
        for path in own:
            found.setdefault(os.path.realpath(path), Path(path))
    if not found:
        raise InputError("No photo was given: name image files, or folders of them.")
    return list(found.values())


def read_photo(path: Path | str, size: int) -> torch.Tensor:
    """A photo as the classifier is given it: pixels (3, size, size), float32 in [0, 1].

    As data sets are read for evaluation (resized, cut to the centre, what is transparent on white) but upright: a
    camera's turn (EXIF) is made, as people see the photo. Any size, down to one pixel. Raises `InputError` for what
    cannot be read.
    """
    if not isinstance(size, int) or size < 1:
        raise InputError(f"size: expected a whole number of pixels, got {size!r}.")
    image = sources.open_rgb(path, upright=True)
    width, height = image.size
    most = _SLIM * min(width, height)
    if max(width, height) > most:  # else it would be scaled to a strip of any length, of which the middle is taken
        image = functional.center_crop(image, (min(height, most), min(width, most)))
    return sources.to_float(functional.pil_to_tensor(sources.evaluation(size)(image)), "cpu")


class Opened(NamedTuple):
    """What explains, the size of the images it is given, its name, and what has to be said against it, or ""."""

    explainer: Any  # pixels, classes -> maps; or a function that makes it
    size: int
    name: str
    warning: str = ""


def open_checkpoint(path: Path | str, classifier: Any = None, size: int | None = None) -> Opened:
    """`Opened`, on the best device: a trained explainer, or a classifier that explains itself (plain, ABN, LFI-CAM).

    classifier: what an explainer explains (`frozen.find`), if not what its card says; size: of the images, in
    pixels, if not as it was trained. Raises `InputError` for what cannot be read, found or explained.
    """
    content, device = checkpoints.read(path), best_device()
    card = content["card"]
    if "classifier" not in card:
        own = (find(path, size=size) if size else find(path)).to(device)
        explain_photo(own, torch.zeros(3, own.size, own.size))  # once and for all, if it cannot
        return Opened(own, own.size, describe(own))
    model = cast(Explainer, load(path, device, classifier))
    explained = model.classifier
    seen = size or trained_size(content) or explained.size
    if seen != explained.size:
        freeze(explained.network, size=seen)  # refuses a size that the classifier cannot take
    return Opened(model, seen, f"{card['method']} of {describe(explained)}", doubts(explained))


def describe(classifier: Frozen) -> str:
    """A `Frozen` classifier's name; of ours, method and backbone."""
    card: Any = classifier.network.card if isinstance(classifier.network, Classifier) else None
    return f"{card['method']} {card['backbone']}" if card else classifier.card["classifier"]


def doubts(classifier: Frozen, untrained: bool = False) -> str:
    """What has to be said against explanations of this classifier, or ""."""
    random = classifier.card.get("weights") == "random"
    found = ["UNTRAINED: this map explains nothing"] * untrained + ["the classifier's weights are random"] * random
    return "; ".join(found)


def find_class(text: str | int, classifier: Frozen) -> int:
    """The index of a class that is given by its number, its name, or a part of it that no other class has.

    classifier: `frozen.Frozen`. Raises `InputError` that lists the classes which are meant.
    """
    text, names = str(text).strip(), classifier.classes or ()
    last = classifier.num_classes - 1
    if text.isdecimal() and int(text) <= last:
        return int(text)
    if not names or text.lstrip("-").isdecimal():
        raise InputError(f"Class {text!r}: expected a number from 0 to {last}{' or a name' * bool(names)}.")
    wanted = " ".join(text.casefold().split())
    whole = [i for i, name in enumerate(names) if name.casefold() == wanted]
    part = [i for i, name in enumerate(names) if wanted and wanted in name.casefold()]
    match whole or part:
        case [index]:
            return index
        case []:
            raise InputError(f"No class is called {text!r}: give a part of its name, or its number from 0 to {last}.")
        case several:
            listed = ", ".join(f"{i} {names[i]}" for i in several[:10]) + ", ..." * (len(several) > 10)
            raise InputError(f"Class {text!r} may be {listed}: give one number.")


@exact()
def explain_photo(
    explainer: Any, pixels: torch.Tensor, targets: Sequence[int] | torch.Tensor | None = None, top: int = 1
) -> list[Explanation]:
    """`Explanation`s of a photo (3, H, W) in [0, 1], one for every class that is asked for.

    explainer: what `attach` or `baseline` made, or a classifier that explains itself (of `create`, frozen or not).
    Anything else has to have the frozen `classifier`, and to give maps (L, h, w) for pixels (L, 3, H, W) and classes.
    targets: indices of classes; by default the `top` most probable ones.
    The classifier sees the photo once, and all masked photos at once. Raises `InputError` for another shape, values
    outside [0, 1], classes that do not exist, and a map or an answer that is not finite.
    """
    classifier = getattr(explainer, "classifier", explainer)
    if isinstance(explainer, Frozen) and not isinstance(explainer.network, Classifier):
        raise InputError("This classifier does not explain itself: make an explainer of it with attach or baseline.")
    if pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.is_floating_point():
        raise InputError(f"A photo: expected a float tensor (3, H, W), got {pixels.dtype} {tuple(pixels.shape)}.")
    for model in (explainer, classifier):
        if isinstance(model, torch.nn.Module):
            model.eval()
    batch = classifier.normalise.enter(pixels[None])

    def choose(logits: torch.Tensor) -> torch.Tensor:
        if targets is None:
            return logits[0].topk(min(top, logits.shape[1])).indices
        classes = torch.as_tensor(targets, device=logits.device).reshape(-1)
        if classes.is_floating_point() or not ((classes >= 0) & (classes < logits.shape[1])).all():
            raise InputError(f"Classes: expected numbers from 0 to {logits.shape[1] - 1}, got {classes.tolist()[:5]}.")
        return classes

    probabilities = getattr(classifier, "probabilities", OUTPUTS["classes"])  # of a model of ours, not frozen
    classes, maps, logits, of_class = _maps(explainer, classifier, batch, choose)
    finished = normalise_and_upsample(check_finite(maps, logits), pixels.shape[1:])
    with torch.no_grad():
        masked = probabilities(_logits(classifier(batch * finished[:, None])).double())
    before, after = probabilities(logits.double())[0, classes], masked.gather(1, classes[:, None])[:, 0]
    describe = getattr(classifier, "describe", str)
    rows = zip(classes.tolist(), before.tolist(), after.tolist(), finished.cpu(), maps.float().cpu(), strict=True)
    photo = pixels.cpu()
    return [Explanation(k, describe(k), b, a, photo, done, raw, of_class) for k, b, a, done, raw in rows]


def _maps(
    explainer: Any, classifier: Any, pixels: torch.Tensor, choose: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
    """Classes (L,), their raw maps (L, h, w), logits (1, K), whether the maps are of these classes. One clean pass.

    pixels (1, 3, H, W); choose: logits -> classes.
    """
    network = classifier.network if isinstance(explainer, Frozen | Own) else explainer
    with torch.no_grad():
        if isinstance(explainer, Explainer):
            taken, logits = explainer.features(pixels, stop=False)
            classes = choose(logits)
            return classes, explainer.mechanism(taken, classes)[0], logits, True
        if isinstance(network, Plain) and network.explains:
            features = network.backbone.features(network.normalise(pixels))
            logits = network.backbone.classify(features)
            classes = choose(logits)
            maps = network.class_activation_map(features.expand(len(classes), -1, -1, -1), classes)
            return classes, maps[:, 0], logits, True
        if isinstance(network, Classifier):
            if isinstance(network, Plain):
                network.explain(pixels)  # which says why it cannot
            output = network(pixels)
            classes = choose(output.logits)
            return classes, output.maps[:, 0].expand(len(classes), -1, -1), output.logits, False
        logits = _logits(classifier(pixels))
        classes = choose(logits)
    maps = explainer(pixels.expand(len(classes), -1, -1, -1), classes)  # which may need gradients
    return classes, maps.detach(), logits, True


def _logits(output: Any) -> torch.Tensor:
    return getattr(output, "logits", output)
