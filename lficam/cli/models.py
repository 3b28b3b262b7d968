"""`lficam train`, `lr-find`, `evaluate`, `iou`, `convert`: models. Nothing heavy is imported before it is needed."""

import dataclasses
from argparse import ArgumentParser, Namespace, _SubParsersAction
from typing import TYPE_CHECKING, cast

from ..errors import InputError, check_numbers
from . import Command, data_options, images_of, values_of

if TYPE_CHECKING:
    from ..training.jobs import Job


def add_commands(commands: _SubParsersAction, command: Command) -> None:
    """Their paragraphs of the command line."""
    one = command(commands, train_model, "train", "train a classifier, or an explainer of one; continue if cut")
    _training_options(one)
    one.add_argument("--tensorboard", action="store_true", help="write scalars for TensorBoard too")
    one.add_argument("--compile", action="store_true", help="compile the steps (torch.compile), for long trainings")
    again = one.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue what was cut (the default)")
    again.add_argument("--fresh", action="store_true", help="forget an earlier run of the same settings")

    one = command(commands, find_lr, "lr-find", "learning-rate range test: a plot, and what to try")
    _training_options(one)
    one.add_argument("--start", type=float, default=1e-6, help="first learning rate (default: 1e-6)")
    one.add_argument("--end", type=float, default=10.0, help="last one (default: 10)")
    one.add_argument("--steps", type=int, default=100, help="batches (default: 100)")
    one.add_argument("--plot", metavar="FILE.png", default="lr-find.png", help="default: lr-find.png")

    one = command(commands, evaluate_model, "evaluate", "accuracy of a trained model, and its maps")
    one.add_argument("checkpoint", help="a best.pt, or a converted .safetensors")
    data_options(one, "what it was trained on", "")
    one.add_argument("--dump", metavar="FILE.safetensors", help="write the attention maps, with image ids")
    one.add_argument("--perturbation", type=float, metavar="EPSILON", help="FGSM attack first, in units of [0, 1]")

    one = command(commands, convert_checkpoint, "convert", "turn the authors' weights into safetensors and a card")
    one.add_argument("source", help="the authors' .pth.tar or .pt file")
    one.add_argument("--method", required=True, help="plain, abn or lfi-cam")
    one.add_argument("--backbone", required=True, help="as resnet-110")
    one.add_argument("--num-classes", type=int, default=10, help="default: 10")
    one.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the model, in YAML")
    one.add_argument("--out", metavar="FILE", help="default: beside the source")

    one = command(commands, compare_maps, "iou", "overlap of the attention maps of two models")
    for name in ("base", "target"):
        one.add_argument(name, metavar=name.upper(), help="dump *.safetensors, or folder of the authors' .npy files")
    one.add_argument("--threshold", type=float, default=100, help="on the scale 0..255 (default: 100)")
    one.add_argument("--protocol", default="authors", help="authors (default) or standard")
    one.add_argument("--size", type=int, help="height and width of the images (default: what the dumps say)")
    one.add_argument("--align", action="store_true", help="match images by id where the order differs")


def _training_options(command: ArgumentParser) -> None:
    """What is trained, on what and how, for `train` and `lr-find`."""
    command.add_argument("--method", required=True, help="plain, abn, lfi-cam; l-cam-img, tame ... of a classifier")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--backbone", help="of a classifier to train, as resnet-20")
    what.add_argument("--classifier", dest="backbone", metavar="NAME|BEST.pt", help="that is to be explained")
    command.add_argument("--weights", metavar="NAME|FILE", default="papers", help="of a --classifier given by name")
    command.add_argument("--auxiliary", metavar="NAME|BEST.pt", default="", help="classifier by which p-tame looks")
    command.add_argument("--layers", nargs="+", default=(), help="of the classifier (default: see lficam layers)")
    command.add_argument("--dataset", default="photo-digits", help="as cifar10 (default: photo-digits)")
    command.add_argument("--data-root", default="", metavar="FOLDER", help="where the data lies, if not built in")
    command.add_argument("--size", type=int, help="of the images in pixels (default: the data set's)")
    command.add_argument("--count", type=int, help="training images (default: all)")
    command.add_argument("--authors", action="store_true", help="start from the authors' recipe for this data set")
    recipe = {"epochs": int, "batch-size": int, "lr": float, "weight-decay": float, "gamma": float, "seed": int}
    for name, kind in recipe.items():
        command.add_argument(f"--{name}", type=kind, help="of the recipe")
    command.add_argument("--milestones", type=int, nargs="*", help="epochs at whose start lr is multiplied by gamma")
    command.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the model, in YAML")
    command.add_argument("--workers", type=int, default=0, help="processes that read image files")


def compare_maps(arguments: Namespace) -> None:
    """`lficam iou`."""
    from ..metrics.overlap import compare
    from ..metrics.statistics import average

    options = {name: getattr(arguments, name) for name in ("protocol", "threshold", "size", "align")}
    scores = compare(arguments.base, arguments.target, **options)
    for title in ("IoU", "Dice"):
        mean, low, high, n = average(scores[title.lower()]).values()
        print(
            f"{title:<5} {mean:.4f}  95 % interval {low:.4f} to {high:.4f}  N = {n}"
            f"  ({arguments.protocol} protocol, threshold {arguments.threshold:g})"
        )


def job_of(arguments: Namespace) -> "Job":
    """The job that the options of `train` and `lr-find` describe."""
    from ..training.jobs import Job
    from ..training.recipes import Recipe, explainer_recipe, photos_recipe, settings

    check_numbers(size=arguments.size, count=arguments.count, workers=arguments.workers)
    names = ("epochs", "batch_size", "lr", "weight_decay", "gamma", "seed", "milestones")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    given |= {"schedule": "step"} if {"milestones", "gamma"} & given.keys() else {}  # or they would mean nothing
    job = Job(
        arguments.method,
        arguments.backbone,
        dataset=arguments.dataset,
        data_root=arguments.data_root,
        size=arguments.size or 0,
        train_count=arguments.count or 0,
        options=values_of("--option", arguments.option),
        layers=tuple(arguments.layers),
        weights=arguments.weights,
        auxiliary=arguments.auxiliary,
    )
    if arguments.authors:
        found = settings("authors", job.method, job.dataset, str(job.backbone), job.train_count, **given)
        return dataclasses.replace(job, **found | {"options": found["options"] | job.options})
    own = photos_recipe if job.dataset == "folder" else Recipe
    return dataclasses.replace(job, recipe=(explainer_recipe if job.explains else own)(**given))


def train_model(arguments: Namespace) -> None:
    """`lficam train`."""
    from ..progress import say
    from ..training.jobs import train

    job = job_of(arguments)
    names = ("workers", "tensorboard", "fresh", "compile")
    run = train(job, **{name: getattr(arguments, name) for name in names})
    best = run.history[-1] if job.explains else max(run.history, key=lambda row: row["validation_accuracy"])
    what = "masked images still of their class" if job.explains else "best validation accuracy"
    say(f"{what} {best['validation_accuracy']:.1%} in epoch {best['epoch']}: {run.folder / 'best.pt'}")


def find_lr(arguments: Namespace) -> None:
    """`lficam lr-find`."""
    import matplotlib

    from ..files import atomic
    from ..plots.charts import lr_curve
    from ..training.lr_range import job_range

    matplotlib.use("agg")
    job = job_of(arguments)
    found = job_range(job, arguments.start, arguments.end, arguments.steps, arguments.workers)
    with atomic(arguments.plot) as file:
        lr_curve({job.method: found}).savefig(file, format="png", dpi=150, bbox_inches="tight")
    if found.suggestion is None:
        raise InputError(f"The loss never fell from lr {arguments.start:g} on: see {arguments.plot}, lower --start.")
    print(f"try --lr {found.suggestion:.2g} (a tenth of where the smoothed loss is least): {arguments.plot}")


def evaluate_model(arguments: Namespace) -> None:
    """`lficam evaluate`."""
    from ..explainers.load import load
    from ..losses import correct
    from ..metrics.evaluation import dump, one_class, perturbed_accuracy, predict
    from ..metrics.statistics import percentage
    from ..models import checkpoints
    from ..models.attention import Classifier
    from ..training.jobs import best_device

    check_numbers(size=arguments.size, count=arguments.count, workers=arguments.workers)
    content = checkpoints.read(arguments.checkpoint, lazily=True)
    if "classifier" in content["card"]:
        raise InputError(
            f"{arguments.checkpoint} is an explainer, {content['card']['method']}: use `lficam score --checkpoint`."
        )
    job = (content.get("settings") or {}).get("job", {})
    images = images_of(arguments, job, f"{arguments.checkpoint} does not say what it was trained on: give --dataset.")
    model = cast(Classifier, load(arguments.checkpoint, best_device()))
    if len(images.classes) != model.card["num_classes"]:
        raise InputError(
            f"{images.name} has {len(images.classes)} classes, the model {model.card['num_classes']}: "
            "give a --dataset that has as many."
        )
    predictions = predict(model, images, workers=arguments.workers)
    hits = {"top-1": correct(predictions.logits, predictions.labels)}
    if arguments.perturbation is not None:
        attacked = perturbed_accuracy(model, images, arguments.perturbation, workers=arguments.workers)
        hits[f"top-1 under FGSM {arguments.perturbation:g}"] = attacked
    for title, values in hits.items():
        value, low, high, n = percentage(values).values()
        print(
            f"{title}: {value:.1f} %  95 % interval {low:.1f} to {high:.1f}  N = {n}  ({images.name}, {images.split})"
        )
    if told := one_class(predictions.logits.argmax(1), images.labels, images.classes):
        print(told)
    if arguments.dump:
        print(dump(predictions, images, arguments.dump).path)


def convert_checkpoint(arguments: Namespace) -> None:
    """`lficam convert`."""
    from ..explainers.convert import convert

    options = values_of("--option", arguments.option)
    target = arguments.out or arguments.source.removesuffix(".tar").removesuffix(".pth").removesuffix(".pt")
    print(convert(arguments.source, target, arguments.method, arguments.backbone, arguments.num_classes, **options))
