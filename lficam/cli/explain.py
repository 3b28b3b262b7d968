"""`lficam explain` and `lficam layers`. Nothing heavy is imported before a command needs it."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any


def add_commands(commands: Any, command: Callable[..., ArgumentParser]) -> None:
    """Their paragraphs of the command line; `command` makes one, as the others of cli.py."""
    one = command(commands, explain, "explain", "show what in a photo speaks for a class: figures, maps and a table")
    one.add_argument("photos", nargs="+", metavar="PHOTO", help="an image file, or a folder of them")
    one.add_argument("--checkpoint", metavar="BEST.pt", help="of a trained explainer, or of plain, abn or lfi-cam")
    one.add_argument("--method", help="without a checkpoint: a method that needs no training, as centre")
    one.add_argument("--classifier", metavar="NAME|PATH", help="what is explained (default: what the checkpoint says)")
    one.add_argument("--weights", metavar="NAME|FILE", help="of a classifier given by name (default: the papers')")
    one.add_argument("--target", metavar="CLASS", help="name, part of it or number; all-top5 (default: the predicted)")
    one.add_argument("--out", metavar="FOLDER", default="explanations", help="default: explanations")
    one.add_argument("--size", type=int, help="of the image that the classifier sees (default: as it was trained)")
    one.add_argument("--untrained", action="store_true", help="try a --method that was never trained")

    one = command(commands, list_layers, "layers", "list the layers of a classifier that an explainer can use")
    one.add_argument("classifier", help="as resnet50, or the path of a checkpoint")
    one.add_argument("--weights", metavar="NAME|FILE", default="random", help="default: random, no download")
    one.add_argument("--all", action="store_true", help="those inside of blocks, too")


def explain(arguments: Namespace) -> int:
    """`lficam explain`: exit code 1 if a photo failed."""
    import matplotlib

    from ..errors import check_numbers
    from ..explainers.frozen import Frozen
    from ..lab.explore.gallery import Gallery, explain_photos
    from ..lab.photos import find_class, find_photos
    from ..models.attention import Plain
    from ..progress import say

    matplotlib.use("agg")  # no window, whatever the desktop
    check_numbers(size=arguments.size)
    gallery = Gallery(arguments.out)
    paths = find_photos(arguments.photos, skip=[gallery.path, *gallery.listed()])
    learned, size, name, warning = _explainer(arguments)
    top, targets = 5 if arguments.target == "all-top5" else 1, None
    if arguments.target not in (None, "all-top5"):
        targets = [find_class(arguments.target, getattr(learned, "classifier", learned))]
    if warning:
        say(f"WARNING: {warning}.")
    if arguments.target and isinstance(learned, Frozen) and not isinstance(learned.network, Plain):
        say(f"The attention of {name} belongs to the photo: its map is the same for every class.")
    failed = explain_photos(paths, learned, size, gallery, targets=targets, top=top, name=name, warning=warning)
    if len(paths) > 1:
        say(f"{len(paths) - len(failed)} photos explained, {len(failed)} failed: {gallery.shown / gallery.path.name}")
    if warning:
        say(f"WARNING: {warning}.")
    return int(bool(failed))


def _explainer(arguments: Namespace) -> tuple[Any, int, str, str]:
    """The explainer that is asked for, the image size, its name, and what has to be said against it."""
    from ..errors import InputError, choose
    from ..explainers import learned, registry
    from ..explainers.frozen import find
    from ..lab.photos import describe, doubts
    from ..training.jobs import best_device

    size = {"size": arguments.size} if arguments.size else {}
    if arguments.checkpoint:
        return _from_checkpoint(arguments, size)
    method, what = arguments.method, arguments.classifier
    if not method:
        raise InputError("Say what explains: --checkpoint BEST.pt, or --method and --classifier.")
    if method in ("plain", "abn", "lfi-cam") and method not in registry.METHODS:
        raise InputError(f"{method} is trained as a classifier that explains itself: give its best.pt as --checkpoint.")
    choose("method", method, {**registry.METHODS, **learned.METHODS})
    ready = method in registry.METHODS
    if not what:
        raise InputError(f"--method {method} explains a classifier: name it, as in --classifier resnet50.")
    if not (ready or arguments.untrained):
        raise InputError(
            f"An untrained {method} explains nothing: train it by `lficam train --method {method} --classifier {what}` "
            "and give its best.pt as --checkpoint (--untrained only tries things out)."
        )
    if ready and arguments.untrained:
        raise InputError(f"{method} needs no training: leave out --untrained.")
    classifier = find(what, arguments.weights or "papers", **size).to(best_device())
    made = registry.baseline(classifier, method) if ready else learned.attach(classifier, method)
    return made, classifier.size, f"{method} of {describe(classifier)}", doubts(classifier, untrained=not ready)


def _from_checkpoint(arguments: Namespace, size: dict[str, int]) -> tuple[Any, int, str, str]:
    from ..errors import InputError
    from ..explainers.frozen import find
    from ..lab.photos import open_checkpoint
    from ..models import checkpoints

    path = arguments.checkpoint
    card = checkpoints.read(path)["card"]
    for option in ("method", "untrained", *([] if "classifier" in card else ["classifier", "weights"])):
        if getattr(arguments, option):
            raise InputError(f"{path} is a trained {card['method']}: leave out --{option}.")
    given = None
    if arguments.classifier or arguments.weights:
        given = find(arguments.classifier or card["classifier"]["classifier"], arguments.weights or "papers")
    return open_checkpoint(path, given, **size)


def list_layers(arguments: Namespace) -> None:
    """`lficam layers`."""
    from ..explainers.features import outline, suggest
    from ..explainers.frozen import find

    classifier = find(arguments.classifier, arguments.weights)
    layers = classifier.layers
    shown = layers if arguments.all else outline(layers)
    taken = {method: suggest(layers, count) for method, count in (("tame", 3), ("l-cam", 1))}
    rows: list[tuple[str, ...]] = [("layer", "channels", "resolution", "tokens", "default of")]
    for layer in shown:
        tokens = f"{layer.height * layer.width}{f' + {layer.extra}' * bool(layer.extra)}" * (layer.kind == "tokens")
        notes = ", ".join(method for method, chosen in taken.items() if layer in chosen)
        notes = notes or f"(called {layer.calls} times: cannot be used)" * (layer.calls > 1)
        rows.append((layer.name, str(layer.channels), f"{layer.height} x {layer.width}", tokens, notes))
    if not any(row[3] for row in rows[1:]):
        rows = [(*row[:3], row[4]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells, notes in rows:
        cells = [cell.rjust(width) for cell, width in zip(cells, widths[1:-1], strict=True)]
        print("  ".join([name.ljust(widths[0]), *cells, notes]).rstrip())
    rest = "" if len(shown) == len(layers) else f", {len(shown)} shown, --all for the others"
    print(f"{arguments.classifier}, images of {classifier.size} x {classifier.size}: {len(layers)} layers{rest}")
