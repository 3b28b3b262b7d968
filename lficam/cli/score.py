"""`lficam score`. Nothing heavy is imported before it is needed."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from . import data_options, images_of


def add_commands(commands: object, command: Callable[..., ArgumentParser]) -> None:
    """Its paragraph of the command line; `command` makes one, as the others of cli.py."""
    one = command(commands, score, "score", "score explainers of a classifier on a data set; continue if cut")
    one.add_argument("--checkpoint", nargs="+", default=[], metavar="BEST.pt", help="of trained explainers")
    one.add_argument("--baseline", nargs="+", default=[], metavar="METHOD", help="without training, as grad-cam centre")
    one.add_argument("--classifier", metavar="NAME|BEST.pt", help="what is explained (default: the checkpoint's)")
    one.add_argument("--weights", metavar="NAME|FILE", help="of a classifier given by name (default: the papers')")
    data_options(one, "what the first checkpoint was trained on", " (default: as the explainer was trained)")
    one.add_argument("--list-file", metavar="FILE", help="lines 'path label' instead of class folders")
    one.add_argument("--measures", nargs="+", default=["masking", "overlap"], metavar="MEASURE", help=_MEASURES)
    one.add_argument("--steps", type=int, default=20, help="of insertion and deletion (default: 20)")
    one.add_argument("--batch-size", type=int, default=64, help="images at a time (default: 64)")
    one.add_argument("--precision", default="float32", help="float32 (default) or bfloat16")
    one.add_argument("--shard", metavar="I/N", default="1/1", help="make every N-th batch; others make the rest")
    one.add_argument("--fresh", action="store_true", help="forget what is at --out")
    one.add_argument("--out", metavar="FILE.csv", default="scores.csv", help="a row per image (default: scores.csv)")


_MEASURES = "of masking overlap precision sparsity insertion deletion road adcc adcc-normalised arcc single-deletion "
_MEASURES += "(default: the first two)"


def score(arguments: Namespace) -> int:
    """`lficam score`: exit code 1 if some images could not be read."""
    from ..metrics import combined
    from ..metrics.scoring import CONVENTION, pivot, summary
    from ..metrics.scoring import score as score_images

    shard = _shard(arguments.shard)
    explainers, images = _explainers(arguments)
    names = ("measures", "steps", "batch_size", "workers", "precision", "fresh")
    options = {name: getattr(arguments, name) for name in names}
    table = score_images(explainers, images, arguments.out, shard=shard, **options)
    if table is None:  # other shards make the rest
        return 0
    failed = table.attrs["failed"]
    if len(table.columns) > 4:
        rows = summary(table)
        print(pivot(rows).to_string(index=False))
        joined = f"; {combined.CONVENTION}" * ("coherency" in table)
        print(f"Means with 95 % bootstrap intervals over N = {rows.N.iloc[0]} images; {CONVENTION}{joined}.")
    left_out = f"; {len(failed)} images left out: {arguments.out}.failed.csv" * bool(failed)
    print(f"{arguments.out}: {len(table)} rows{left_out}")
    return int(bool(failed))


def _shard(text: str) -> tuple[int, int]:
    """ "2/4" as (1, 4)."""
    from ..errors import InputError

    first, slash, n = text.partition("/")
    if not (slash and first.isdecimal() and n.isdecimal() and 1 <= int(first) <= int(n)):
        raise InputError(f"--shard {text}: expected I/N, as 1/4 to 4/4.")
    return int(first) - 1, int(n)


def _explainers(arguments):
    """{name: explainer} that are asked for, of one classifier, and the images."""
    from ..errors import InputError, check_numbers
    from ..explainers import registry
    from ..explainers.frozen import find, trained_size
    from ..explainers.load import load
    from ..models import checkpoints
    from ..training.loop import best_device

    check_numbers(
        size=arguments.size, count=arguments.count, batch_size=arguments.batch_size, workers=arguments.workers
    )
    contents = [checkpoints.read(path) for path in arguments.checkpoint]
    for path, content in zip(arguments.checkpoint, contents, strict=True):
        if "classifier" not in content["card"]:
            method = content["card"]["method"]
            raise InputError(f"{path} is a {method}, no explainer: give --classifier {path} --baseline own.")
    if not (contents or arguments.baseline):
        raise InputError("Say what to score: --checkpoint BEST.pt ..., or --baseline METHOD ... with --classifier.")
    settings = (contents[0].get("settings") or {}) if contents else {}
    device, classifier = best_device(), None
    if arguments.classifier:
        size = {"size": arguments.size} if arguments.size else {}
        classifier = find(arguments.classifier, arguments.weights or "papers", **size).to(device)
    elif not contents:
        raise InputError("--baseline explains a classifier: name it, as in --classifier resnet50.")
    explainers = {}
    for path, content in zip(arguments.checkpoint, contents, strict=True):
        method = content["card"]["method"]
        twice = sum(other["card"]["method"] == method for other in contents) > 1
        made = load(path, device, classifier)
        classifier = made.classifier  # one for all
        explainers[f"{method} {path}" if twice else method] = made
    for option, names in (("--checkpoint", arguments.checkpoint), ("--baseline", arguments.baseline)):
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{option}: {twice[0]} is there twice: name it once.")
    for method in arguments.baseline:
        explainers[method] = registry.baseline(classifier, method)
    size = trained_size({"settings": settings}) or classifier.size
    listed = {"list_file": arguments.list_file, "num_classes": classifier.num_classes} if arguments.list_file else {}
    return explainers, images_of(arguments, settings.get("job") or {}, "Say on what: --dataset NAME.", size, **listed)
