"""What the papers' trainings on ImageNet would take, by arithmetic: nothing here is measured.

    python -m benchmarks.plan                              # the table of docs/scaling.md
    python -m benchmarks.plan --tflops 250 --gpus 1 8 64   # with the throughput that you measured

FLOP of a training step (forward and backward pass, a multiply-add is two) are counted by torch on two images; epochs
are those of lficam/data/tables/recipes.csv. The throughput is an assumption: what a GPU sustains, not what its data
sheet says.
"""

import argparse

import torch
from torch.utils.flop_counter import FlopCounterMode

import lficam
from lficam.training.recipes import authors_recipe

IMAGES = 1_281_167  # ImageNet's training set
MODELS = [("lfi-cam", "lfi-resnet50"), ("abn", "resnet50"), ("abn", "resnet101"), ("abn", "resnet152")]
MODELS += [("l-cam-img", "vgg16"), ("l-cam-img", "resnet50"), ("tame", "vgg16"), ("tame", "resnet50")]
MODELS += [("t-tame", "vit_b_16")]


def needs(method, network, size=224):
    """FLOP of a training step, and bytes that its forward pass keeps in float32 for the backward pass, per image."""
    if method in ("lfi-cam", "abn"):
        model = lficam.create(method, network, 1000)
    else:
        model = lficam.attach(network, method, weights="random")
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    pixels, labels, kept = torch.rand(2, 3, size, size), torch.tensor([0, 1]), {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model.loss(pixels, labels)[0]["total"]
        memory = sum(kept.values())
        loss.backward()
    return counter.get_total_flops() / len(pixels), memory / len(pixels)


def hours(each, epochs, tflops, gpus):
    """Hours for epochs of ImageNet at `each` FLOP per image."""
    return each * IMAGES * epochs / (tflops * 1e12 * gpus) / 3600


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--tflops", type=float, default=60, help="that a GPU is assumed to sustain (default: 60)")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8], help="default: 1 8")
    parser.add_argument(
        "--model", nargs=2, action="append", metavar=("METHOD", "NETWORK"), help="instead of the table's"
    )
    given = parser.parse_args(arguments)
    cells = [f"hours, {n} GPU{'s' * (n > 1)}" for n in given.gpus]
    print(f"Estimated, at an assumed {given.tflops:g} TFLOP/s a GPU; {IMAGES:,} images an epoch.\n")
    print("| training | epochs | batch | GFLOP an image | MB an image | images/s a GPU |", " | ".join(cells), "|")
    print("| --- | --- | --- | --- | --- | --- |", " | ".join(["---"] * len(cells)), "|")
    for method, network in given.model or MODELS:
        recipe, (each, memory) = authors_recipe(method, "imagenet", network), needs(method, network)
        cells = [f"{hours(each, recipe.epochs, given.tflops, n):.3g}" for n in given.gpus]
        speed = given.tflops * 1e12 / each
        what = f"| {method} {network} | {recipe.epochs} | {recipe.batch_size} | {each / 1e9:.1f} | {memory / 1e6:,.0f}"
        print(f"{what} | {speed:,.0f} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
