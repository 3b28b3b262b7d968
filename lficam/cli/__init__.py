# PYTHON_ARGCOMPLETE_OK
"""`lficam COMMAND ...`. Nothing heavy is imported before a command needs it."""

import argparse
import contextlib
import dataclasses
import os
import re
import sys
import time

LAB = ["IPython", "ipywidgets", "jinja2", "jupyter_client", "nbclient", "nbconvert", "nbformat", "papermill"]
LAB += ["snakemake", "voila"]


def main(argv=None):
    """Run one command and return the exit code: 0 success, 2 wrong input, 130 interrupted, else `RunError.code`."""
    if sys.platform == "win32":
        print("lficam: lficam works on Linux and macOS; on Windows start it in WSL, which is a Linux.", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character must not end a training
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could follow; this answers and ends the process
        import argcomplete

        argcomplete.autocomplete(parser())
    arguments, rest = parser().parse_known_args(argv)
    try:
        _check_rest(arguments, rest)
        if os.environ.get("WORLD_SIZE", "1") != "1" and arguments.call is not train_model:
            from ..errors import InputError

            raise InputError("Only `lficam train` works in a launcher's processes (see also `lficam score --shard`).")
        return arguments.call(arguments) or 0
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"lficam: {str(error) or 'interrupted.'}", file=sys.stderr)
        return 130
    except Exception as error:
        from ..errors import InputError
        from ..lab.notebooks.run import RunError
        from ..progress import first

        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in LAB:
            error = InputError(f"{error.name} is not installed, which this needs: `pip install 'lficam[lab]'`.")
        if not isinstance(error, (InputError, RunError)):
            raise
        code = getattr(error, "code", 2)
        if code == 2 and not first():
            time.sleep(20)  # what all processes of a launcher say is said once: it ends this one when the first ended
        print(f"lficam: {error}", file=sys.stderr)
        return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as all of lficam does."""

    def error(self, message):
        from ..errors import InputError, choose

        option, _, what = message.removeprefix("argument ").partition(": ")
        kind, _, given = what.removeprefix("invalid ").partition(" value: ")
        if given:
            message = f"{option}: expected a {'whole ' * (kind == 'int')}number, got {given}"
        if what.startswith("invalid choice: "):
            try:
                choose("command", what.split("'")[1], what.split("'")[3::2])
            except InputError as error:
                self.exit(2, f"lficam: {error}\n")
        self.exit(2, f"lficam: {message}; see `{self.prog} --help`.\n")


def _check_rest(arguments, rest):
    """Raise `InputError` for what the command does not know."""
    if rest:
        from ..errors import InputError, choose

        name, known = rest[0].partition("=")[0], re.findall(r"--[\w-]+", arguments.usage)
        if name.startswith("-"):
            choose("option", name, known)
        raise InputError(f"{rest[0]} is one argument too many: leave it out, or put what holds spaces into quotes.")


def parser():
    """The whole command line; a further command is one more paragraph here and one function below."""
    from .. import __version__
    from . import explain, explore, graph, report, score

    top = _Parser(prog="lficam", description="Trainable visual explanations of image classifiers.")
    top.add_argument("--version", action="version", version=f"lficam {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    command = _command(commands, run_notebooks, "run", "execute notebooks and write their report")
    command.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="name of a notebook (default: all)")
    command.add_argument("--profile", default="desk", help="folder of parameter files (default: desk)")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one parameter, in YAML")
    command.add_argument("--timeout", type=int, metavar="SECONDS", help="limit of one cell (default: none)")
    command.add_argument("--list", action="store_true", help="print profiles and notebooks")

    command = _command(commands, compare_maps, "iou", "overlap of the attention maps of two models")
    for name in ("base", "target"):
        command.add_argument(name, metavar=name.upper(), help="dump *.safetensors, or a folder of the authors' .npy")
    command.add_argument("--threshold", type=float, default=100, help="on the scale 0..255 (default: 100)")
    command.add_argument("--protocol", default="authors", help="authors (default) or standard")
    command.add_argument("--size", type=int, help="height and width of the images (default: what the dumps say)")
    command.add_argument("--align", action="store_true", help="match images by id where the order differs")

    _model_commands(commands)
    for part in (explain, explore, score, report, graph):
        part.add_commands(commands, _command)
    for command in commands.choices.values():
        command.set_defaults(usage=command.format_usage())
    return top


def _model_commands(commands):
    """`train`, `evaluate` and `convert`."""
    command = _command(commands, train_model, "train", "train a classifier, or an explainer of one; continue if cut")
    _training_options(command)
    command.add_argument("--tensorboard", action="store_true", help="write scalars for TensorBoard too")
    command.add_argument("--compile", action="store_true", help="compile the steps (torch.compile), for long trainings")
    again = command.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue what was cut (the default)")
    again.add_argument("--fresh", action="store_true", help="forget an earlier run of the same settings")

    command = _command(commands, find_lr, "lr-find", "learning-rate range test: a plot, and what to try")
    _training_options(command)
    command.add_argument("--start", type=float, default=1e-6, help="first learning rate (default: 1e-6)")
    command.add_argument("--end", type=float, default=10.0, help="last one (default: 10)")
    command.add_argument("--steps", type=int, default=100, help="batches (default: 100)")
    command.add_argument("--plot", metavar="FILE.png", default="lr-find.png", help="default: lr-find.png")

    command = _command(commands, evaluate_model, "evaluate", "accuracy of a trained model, and its maps")
    command.add_argument("checkpoint", help="a best.pt, or a converted .safetensors")
    command.add_argument("--dataset", help="default: what it was trained on")
    command.add_argument("--data-root", metavar="FOLDER", help="where the data lies, if not built in")
    command.add_argument("--split", default="test", help="train, validation or test (default: test)")
    command.add_argument("--size", type=int, help="of the images in pixels")
    command.add_argument("--count", type=int, help="images (default: all)")
    command.add_argument("--dump", metavar="FILE.safetensors", help="write the attention maps, with image ids")
    command.add_argument("--perturbation", type=float, metavar="EPSILON", help="FGSM attack first, in units of [0, 1]")
    command.add_argument("--workers", type=int, default=0, help="processes that read image files")

    command = _command(commands, convert_checkpoint, "convert", "turn the authors' weights into safetensors and a card")
    command.add_argument("source", help="the authors' .pth.tar or .pt file")
    command.add_argument("--method", required=True, help="plain, abn or lfi-cam")
    command.add_argument("--backbone", required=True, help="as resnet-110")
    command.add_argument("--num-classes", type=int, default=10, help="default: 10")
    command.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the model, in YAML")
    command.add_argument("--out", metavar="FILE", help="default: beside the source")


def _training_options(command):
    """What is trained, on what and how, for `train` and `lr-find`."""
    command.add_argument("--method", required=True, help="plain, abn, lfi-cam; l-cam-img, tame ... of a classifier")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--backbone", help="of a classifier to train, as resnet-20")
    what.add_argument("--classifier", dest="backbone", metavar="NAME|BEST.pt", help="that is to be explained")
    command.add_argument("--weights", metavar="NAME|FILE", default="papers", help="of a --classifier given by name")
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


def _command(commands, call, name, text):
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(call=call)
    return command


def run_notebooks(arguments):
    """`lficam run`."""
    from ..errors import InputError
    from ..lab.notebooks.run import notebooks, profiles, run, run_all

    if arguments.list:
        print("\n".join(["notebooks", *(f"  {name}" for name in notebooks())]))
        for profile, settings in profiles().items():
            print("\n".join([f"profile {profile}", *(f"  {name}" for name in settings)]))
    elif len(arguments.notebooks) == 1:
        run(arguments.notebooks[0], arguments.profile, _values("--set", arguments.set), arguments.timeout)
    elif arguments.set:
        raise InputError("--set belongs to one notebook: name it, as in `lficam run 03_lcam --set seed=2`.")
    else:
        run_all(arguments.notebooks, arguments.profile, arguments.timeout)


def _values(flag, texts):
    """NAME=VALUE texts as a mapping, the values read as YAML."""
    import yaml

    from ..errors import InputError

    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InputError(f"{flag} {text}: expected NAME=VALUE.")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"{flag} {text}: {getattr(error, 'problem', None) or error}.") from None
    return values


def compare_maps(arguments):
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


def _job(arguments):
    """The job that the options of `train` and `lr-find` describe."""
    from ..errors import check_numbers
    from ..training.jobs import Job
    from ..training.recipes import Recipe, explainer_recipe, find, photos_recipe

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
        options=_values("--option", arguments.option),
        layers=tuple(arguments.layers),
        weights=arguments.weights,
    )
    if arguments.authors:
        recipe = find("authors", job.method, job.dataset, str(job.backbone), **given)
    else:
        own = photos_recipe if job.dataset == "folder" else Recipe
        recipe = (explainer_recipe if job.explains else own)(**given)
    return dataclasses.replace(job, recipe=recipe)


def train_model(arguments):
    """`lficam train`."""
    from ..progress import say
    from ..training.jobs import train

    job = _job(arguments)
    names = ("workers", "tensorboard", "fresh", "compile")
    run = train(job, **{name: getattr(arguments, name) for name in names})
    best = run.history[-1] if job.explains else max(run.history, key=lambda row: row["validation_accuracy"])
    what = "masked images still of their class" if job.explains else "best validation accuracy"
    say(f"{what} {best['validation_accuracy']:.1%} in epoch {best['epoch']}: {run.folder / 'best.pt'}")


def find_lr(arguments):
    """`lficam lr-find`."""
    import matplotlib

    from ..errors import InputError
    from ..files import atomic
    from ..numerics import exact
    from ..plots.charts import lr_curve
    from ..training.jobs import relabelled
    from ..training.loop import best_device, memory_format
    from ..training.lr_range import lr_range

    matplotlib.use("agg")
    job, device = _job(arguments), best_device()
    images = job.images("train", job.train_count)
    if arguments.steps * job.recipe.batch_size < len(images):  # labels of no more images than are looked at
        images = images.subset(range(arguments.steps * job.recipe.batch_size))
    with exact(job.recipe.seed):
        model = job.model(images).to(device, memory_format=memory_format(device, images.size))
    images = relabelled(model, images, arguments.workers)
    limits = {"start": arguments.start, "end": arguments.end, "steps": arguments.steps}
    found = lr_range(model, images, job.recipe, **limits, workers=arguments.workers)
    with atomic(arguments.plot) as file:
        lr_curve({job.method: found}).savefig(file, format="png", dpi=150, bbox_inches="tight")
    if found.suggestion is None:
        raise InputError(f"The loss never fell from lr {arguments.start:g} on: see {arguments.plot}, lower --start.")
    print(f"try --lr {found.suggestion:.2g} (a tenth of where the smoothed loss is least): {arguments.plot}")


def evaluate_model(arguments):
    """`lficam evaluate`."""
    from ..data import datasets
    from ..errors import InputError, check_numbers
    from ..explainers.load import load
    from ..losses import correct
    from ..metrics.evaluation import dump, one_class, perturbed_accuracy, predict
    from ..metrics.statistics import percentage
    from ..models import checkpoints
    from ..training.jobs import best_device

    check_numbers(size=arguments.size, count=arguments.count, workers=arguments.workers)
    content = checkpoints.read(arguments.checkpoint, lazily=True)
    if "classifier" in content["card"]:
        raise InputError(
            f"{arguments.checkpoint} is an explainer, {content['card']['method']}: use `lficam score --checkpoint`."
        )
    job = (content.get("settings") or {}).get("job", {})
    dataset = arguments.dataset or job.get("dataset")
    if not dataset:
        raise InputError(f"{arguments.checkpoint} does not say what it was trained on: give --dataset.")
    same = dataset == job.get("dataset")
    root = arguments.data_root or (job.get("data_root") if same else None) or None
    size = arguments.size or (job.get("size") if same else None) or None
    images = datasets.load(dataset, arguments.split, root=root, size=size, count=arguments.count)
    model = load(arguments.checkpoint, best_device())
    if len(images.classes) != model.card["num_classes"]:
        raise InputError(
            f"{dataset} has {len(images.classes)} classes, the model {model.card['num_classes']}: "
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


def convert_checkpoint(arguments):
    """`lficam convert`."""
    from ..explainers.convert import convert

    options = _values("--option", arguments.option)
    target = arguments.out or arguments.source.removesuffix(".tar").removesuffix(".pth").removesuffix(".pt")
    print(convert(arguments.source, target, arguments.method, arguments.backbone, arguments.num_classes, **options))
