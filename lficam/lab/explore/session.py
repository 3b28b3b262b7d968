"""What the explorer looks at and computes, without widgets: images, methods, and each map once.

session = Session([open_checkpoint("runs/.../best.pt")], ["holiday/"])
photo, method = session.photos[0], session.methods[0]
seen = session.look(photo, method, keep=0.15)  # `photos.Explanation` of the predicted class by the top 15 % of its map
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from ... import files
from ...data import datasets
from ...errors import InputError, choose
from ...explainers import registry
from ...explainers.frozen import Frozen, find
from ...metrics import faithfulness
from ...models import checkpoints
from ...training.jobs import read_history
from ...training.loop import best_device
from ..photos import Explanation, Opened, describe, doubts, explain_photo, find_photos, open_checkpoint, read_photo

TEST_IMAGES = 24
_PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "motorcycle_left.png")
_KEPT = 256  # images, and maps, that are remembered


class Session:
    """Images and explainers, and what was computed of them.

    methods: [`photos.Opened`] of one image size; the explainer may be a `functools.partial` that makes it when it is
    first asked for. photos: paths of files and folders, or `datasets.Images`.
    Raises `InputError` where there is no image, and for two image sizes.
    """

    def __init__(self, methods: Sequence[Opened], photos: Any) -> None:
        if len(sizes := {opened.size for opened in methods}) > 1:
            raise InputError(f"The explainers see images of {sorted(sizes)} pixels: give one size for all.")
        self.size = methods[0].size
        if isinstance(photos, datasets.Images):
            labels = enumerate(photos.labels.tolist())
            self._files: dict[str, Any] = {f"image {n}, class {photos.classes[k]}": n for n, k in labels}
            read: Callable = lambda n: photos.pixels([n])[0]  # noqa: E731
        else:
            self._files, read = _names(find_photos(photos)), functools.partial(read_photo, size=self.size)
        self._methods: dict[str, Opened] = {}
        self._maps: dict[tuple[str, str, int], Explanation] = {}
        for opened in methods:
            _add(self._methods, opened.name, opened)
        self.pixels = functools.lru_cache(_KEPT)(lambda photo: read(self._files[photo]))
        self.ranking = functools.lru_cache(_KEPT)(self._ranking)

    @property
    def photos(self) -> list[str]:
        """Names of the images."""
        return list(self._files)

    @property
    def methods(self) -> list[str]:
        """Names of the methods."""
        return list(self._methods)

    def method(self, name: str) -> Opened:
        """The `photos.Opened` of that name."""
        opened = self._methods[name]
        if isinstance(opened.explainer, functools.partial):
            opened = self._methods[name] = opened._replace(explainer=opened.explainer())
        return opened

    def classifier(self, method: str) -> Frozen:
        """What the method of that name explains."""
        return classifier_of(self.method(method).explainer)

    def _ranking(self, photo: str, method: str) -> list[tuple[int, str, float]]:
        """[(class, its name, probability)] of an image, the most probable first."""
        classifier = self.classifier(method)
        chances = _probabilities(classifier, self.pixels(photo))
        order = chances.argsort(descending=True, stable=True).tolist()
        return [(k, classifier.describe(k), chances[k].item()) for k in order]

    def knows(self, photo: str, method: str, target: int) -> bool:
        """Whether that map was computed before."""
        return (photo, method, target) in self._maps

    def look(self, photo: str, method: str, target: int | None = None, keep: float = 1.0) -> Explanation:
        """`photos.Explanation` of a class (by default the predicted one) by the top `keep` of its map, in (0, 1].

        A map is computed once for an image, method and class; another `keep` costs one forward pass of one image.
        Raises `InputError` for an image that cannot be read and whatever the explainer refuses.
        """
        key = photo, method, self.ranking(photo, method)[0][0] if target is None else target
        if key not in self._maps:
            (found,) = explain_photo(self.method(method).explainer, self.pixels(photo), [key[2]])
            while len(self._maps) >= _KEPT:
                self._maps.pop(next(iter(self._maps)))
            self._maps[key] = found
        whole = self._maps[key]
        if keep == 1:
            return whole
        kept = faithfulness.keep_top(whole.map[None], keep)
        masked = faithfulness.masked_images(whole.pixels[None], kept)[0]
        after = _probabilities(self.classifier(method), masked)[key[2]].item()
        return dataclasses.replace(whole, map=kept[0], after=after)


def classifier_of(explainer: Any) -> Frozen:
    """What an explainer explains; a classifier that explains itself, itself."""
    return getattr(explainer, "classifier", explainer)


def _probabilities(classifier: Frozen, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = classifier(pixels[None].to(classifier.normalise.mean.device))
        return classifier.probabilities(logits.double())[0].cpu()


def _add(known: dict[str, Any], name: str, value: Any) -> None:
    """Put a value under its name, or where that is taken under the name and a number."""
    free = (f"{name} ({n})" for n in range(2, len(known) + 3))
    known[name if name not in known else next(text for text in free if text not in known)] = value


def _names(paths: Sequence[Path]) -> dict[str, Any]:
    """{short name: path}; the folder is named where there are several."""
    folder = os.path.commonpath([path.parent.absolute() for path in paths])
    named: dict[str, Any] = {}
    for path in paths:
        _add(named, os.path.relpath(path.absolute(), folder), path)
    return named


def training_free(classifier: Frozen, size: int, first: str = "grad-cam") -> list[Opened]:
    """[`photos.Opened`] of every training-free method of a `frozen.Frozen`, that of the name `first` foremost.

    "own" is not among them unless it is the first: few classifiers have it, and their checkpoints show it.
    """
    choose("training-free method", first, registry.METHODS)
    makers = {
        f"{method} of {describe(classifier)}": functools.partial(registry.baseline, classifier, method)
        for method in sorted(registry.METHODS, key=lambda name: name != first)
        if method == first or (method != "own" and registry.METHODS[method].suits(classifier))
    }
    return [Opened(make, size, name, doubts(classifier)) for name, make in makers.items()]


def open_session(
    paths: Iterable[str | os.PathLike] = (),
    photos: Any = (),
    *,
    classifier: Any = None,
    weights: str | None = None,
    size: int | None = None,
    first: str | None = None,
) -> Session:
    """A `Session` of trained explainers, and of training-free methods for the classifier that the first explains.

    paths: of checkpoints; without them and without a classifier those that `newest` finds. classifier, weights: what
    is explained (`frozen.find`), if not what the checkpoints say. first: a training-free method to begin with.
    photos: paths, or `datasets.Images`; by default test images of the data that the first checkpoint was trained on,
    and for a network by name photographs of scikit-image. Raises `InputError`.
    """
    given = list(map(str, paths)) or ([] if classifier else newest())
    of_a_file = [str(classifier)] if str(classifier).endswith((".pt", ".safetensors")) else []
    jobs = [(checkpoints.read(path, lazily=True).get("settings") or {}).get("job") for path in (given or of_a_file)[:1]]
    if classifier:
        classifier = find(classifier, weights or "papers", **{"size": size} if size else {}).to(best_device())
    methods: list[Opened] = []
    for path in given:
        methods.append(open_checkpoint(path, classifier or _shared(path, methods), size))
    frozen = classifier_of(methods[0].explainer) if methods else classifier
    free = training_free(frozen, methods[0].size if methods else frozen.size, first or "grad-cam")
    methods = free[:1] + methods + free[1:] if first else methods + free
    return Session(methods, photos or _own_images(jobs[0] if jobs else None, methods[0].size))


def _shared(path: str, methods: Sequence[Opened]) -> Frozen | None:
    """The classifier of a checkpoint, if another explainer has brought it already."""
    digest = checkpoints.read(path, lazily=True)["card"].get("classifier", {}).get("sha256")
    found = (classifier_of(opened.explainer) for opened in methods)
    return next((classifier for classifier in found if digest and classifier.digest == digest), None)


def _own_images(job: dict[str, Any] | None, size: int) -> Any:
    if job:
        root = job.get("data_root") or None
        return datasets.load(job["dataset"], "test", root=root, size=size, count=TEST_IMAGES)
    from skimage.data import data_dir

    return [Path(data_dir) / name for name in _PHOTOGRAPHS]


def newest() -> list[str]:
    """Paths of best.pt below runs/: of the newest finished training, and of those it can be compared with.

    These are, on the same data, the newest of every other method: explainers of the same classifier, or classifiers
    of the same backbone. Raises `InputError` where no training is finished.
    """
    found = sorted((files.root() / "runs").glob("*/*/best.pt"), key=lambda path: path.stat().st_mtime, reverse=True)
    chosen: dict[str, Path] = {}
    kind = None
    for path in found:
        if kind and path.parent.parent != next(iter(chosen.values())).parent.parent:
            continue
        content = _finished(path)
        card = content["card"] if content else {}
        what = card.get("classifier", {}).get("sha256") or card.get("backbone")
        if content and (kind is None or what == kind):
            kind = what
            chosen.setdefault(card["method"], path)
    if not chosen:
        raise InputError(
            "There is no finished training to explore: `lficam run 01_train_lficam --profile smoke` makes one in "
            "seconds, or name a classifier, as in `lficam explore --classifier resnet50`."
        )
    return [str(path) for path in chosen.values()]


def _finished(path: Path) -> dict[str, Any] | None:
    """What `checkpoints.read` gives of a best.pt whose training has all its epochs behind it, else None."""
    try:
        content = checkpoints.read(path, lazily=True)
        epochs = content["settings"]["job"]["recipe"]["epochs"]
        return content if len(read_history(path.parent)) == epochs else None
    except (InputError, KeyError, TypeError):
        return None  # damaged, being written, or not of `train`
