"""Frozen classifiers by module, name and file, what is refused, and which classifier a checkpoint belongs to."""

import contextlib
import sys
import types
import urllib.error
from collections import namedtuple

import pytest
import safetensors.torch
import torch
from networks import Small, small, small_vit
from torch import nn
from torchvision import models

import lficam
from lficam.errors import InputError
from lficam.explainers.frozen import find, freeze, native_size
from lficam.models import checkpoints


class Returns(nn.Module):
    """A network that returns what a function makes of its logits."""

    def __init__(self, change):
        super().__init__()
        self.network, self.change = Small(), change

    def forward(self, x):
        return self.change(self.network(x))


def same_outputs(a, b, size=32):
    pixels = torch.rand(2, 3, size, size)
    with torch.no_grad():
        return torch.equal(a(pixels), b(pixels))


# Modules


def test_a_module_is_frozen_in_place():
    network = small().train()
    frozen = freeze(network, mean=0.5, std=0.25, size=32, classes=("a", "b", "c", "d", "e"))
    assert frozen.network is network
    assert not network.training
    assert not any(p.requires_grad for p in frozen.parameters())
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(frozen(pixels), network((pixels - 0.5) / 0.25))
    assert (frozen.num_classes, frozen.size, frozen.describe(1)) == (5, 32, "b")
    assert freeze(frozen) is freeze(frozen, mean=(0.5, 0.5, 0.5), size=64) is frozen
    with pytest.raises(InputError, match=r"was frozen with mean \[0.5, 0.5, 0.5\], not 0.4: give one of them"):
        lficam.attach(frozen, "tame", mean=0.4)
    with pytest.raises(InputError, match=r"was frozen with classes \('a', .*\), not \('of', 'others'\): give"):
        freeze(frozen, classes=("of", "others"))


def test_what_is_not_said_is_the_default():
    frozen = freeze(Returns(lambda logits: namedtuple("Output", "logits")(logits)).double(), size=32)
    assert frozen.normalise.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert frozen.num_classes == 5
    assert frozen.describe(3) == "3"
    assert frozen(torch.rand(2, 3, 32, 32)).dtype == torch.float64
    ours, pixels = lficam.create("plain", "resnet-8", 3, mean=0.3, std=0.7), torch.rand(2, 3, 32, 32)
    frozen = freeze(ours)
    assert frozen.normalise.mean.flatten().tolist() == pytest.approx([0.3] * 3)
    torch.testing.assert_close(frozen(pixels), ours(pixels).logits)  # normalised once


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda: lficam.create("plain", "resnet-20", 2), 32),
        (lambda: lficam.create("abn", "densenet-bc-22-12", 2), 32),
        (lambda: lficam.create("plain", "se-resnet-18", 2), 224),
        (lambda: lficam.create("plain", "lfi-resnet18", 2), 224),
        (lambda: lficam.create("plain", "squeezenet1_1", 2), 224),
        (small_vit, 32),
        (Small, 224),
    ],
)
def test_the_size_that_a_network_is_made_for(build, size):
    assert native_size(build()) == size


def test_the_digest_is_of_the_weights():
    a, b = freeze(small(), size=32), freeze(small(), size=32)
    assert len(a.digest) == 64
    b.network.first[1].num_batches_tracked += 7  # which no output depends on
    assert a.digest == b.digest
    b.network.first[1].running_mean.data[0] += 1e-3
    assert a.digest != b.digest


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), IndexError("list index"), KeyError(3)]
)
def test_errors_that_have_nothing_to_do_with_the_size_stay_what_they_are(error):
    def change(_):
        raise error

    with pytest.raises(type(error)) as found:
        freeze(Returns(change), size=32)
    assert found.value is error


def test_inference_mode():
    network, pixels = small(), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        frozen, made = freeze(network, size=32), small()
        assert not frozen.normalise.mean.is_inference()
        with pytest.raises(InputError, match=r"Small was made in torch.inference_mode, so that it cannot be diff"):
            freeze(made, size=32)
        by_name = find("squeezenet1_1", weights="random", size=64)
    assert frozen.layers == freeze(small(), size=32).layers
    assert not any(p.is_inference() for p in by_name.parameters())
    assert torch.equal(frozen(pixels), freeze(network, size=32)(pixels))
    assert by_name.card == {"classifier": "squeezenet1_1", "weights": "random"}
    assert (by_name.num_classes, by_name.describe(0)) == (1000, "tench")
    assert find(by_name.network, size=64).network is by_name.network


# Names


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No connection, and nothing downloaded before."""

    def refuse(url, *_, **__):
        raise urllib.error.URLError(f"no route to {url.split('/')[2]}")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return tmp_path


@pytest.mark.parametrize(
    ("weights", "file"),
    [("papers", "resnet50-0676ba61.pth"), ("IMAGENET1K_V2", "resnet50-11ad3fa6.pth"), ("DEFAULT", "resnet50-11ad3fa6")],
)
def test_a_download_that_fails_names_the_file_to_put_where(offline, weights, file):
    with pytest.raises(InputError, match=r"Cannot download the weights .* of resnet50 \(.*no route to") as error:
        find("resnet50", weights)
    assert f"or put {file}" in str(error.value)
    assert str(error.value).endswith(f"into {offline}/hub/checkpoints.")


# Weights of a file


@pytest.mark.parametrize(("file", "prefix"), [("mine.pth", "module."), ("mine.safetensors", "")])
def test_weights_of_a_file(tmp_path, file, prefix):
    torch.manual_seed(0)
    network, path = models.squeezenet1_1(num_classes=7).eval(), tmp_path / file
    state = {prefix + name: value.contiguous() for name, value in network.state_dict().items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3}, path)
    frozen = find("squeezenet1_1", path, size=64, mean=0, std=1)
    assert frozen.num_classes == 7
    assert frozen.classes is None  # ImageNet's names do not fit
    assert same_outputs(frozen, network, 64)
    assert frozen.card == {"classifier": "squeezenet1_1", "weights": str(path)}
    explainer = lficam.attach("squeezenet1_1", "l-cam-img", weights=path, size=64)
    assert same_outputs(lficam.load(saved(explainer, tmp_path / "last.pt")), explainer, 64)
    with pytest.raises(
        InputError, match=rf"Cannot load .*{file} into the classifier mobilenet_v2 with 7 classes: 260 missing"
    ):
        find("mobilenet_v2", path)


# timm


def test_models_of_timm(monkeypatch):
    """What is asked of timm, and that its own normalisation and size are taken."""
    asked = []

    def create_model(name, pretrained):
        asked.append((name, pretrained))
        if pretrained:
            raise urllib.error.URLError("no route to hub")
        network = small()
        network.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": (3, 48, 48)}
        return network

    timm = types.SimpleNamespace(is_model=lambda name: name == "tiny", create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", timm)
    frozen = find("timm/tiny", weights="random")
    assert (frozen.size, frozen.num_classes) == (48, 5)
    assert frozen.normalise.std.flatten().tolist() == [0.25] * 3
    assert frozen.card == {"classifier": "timm/tiny", "weights": "random"}
    with pytest.raises(InputError, match=r"Cannot get the weights of timm/tiny \(.*no route to hub.*\): check the"):
        find("timm/tiny")
    assert asked == [("tiny", False), ("tiny", True)]
    with pytest.raises(InputError, match="timm knows no model 'huge'"):
        find("timm/huge")


def test_a_real_model_of_timm():
    pytest.importorskip("timm", reason="timm is optional")
    torch.manual_seed(0)
    explainer = lficam.attach("timm/vit_tiny_patch16_224", "t-tame", weights="random")
    assert [layer.name for layer in explainer.layers] == ["blocks.9.norm1", "blocks.10.norm1", "blocks.11.norm1"]
    assert explainer(torch.rand(1, 3, 224, 224)).shape == (1, 14, 14)


# Checkpoints


def saved(explainer, path):
    checkpoints.save(path, {"card": explainer.card, "model": explainer.state_dict()})
    return path


@pytest.fixture
def classifier_file(tmp_path):
    torch.manual_seed(0)
    model = lficam.create("plain", "resnet-8", 3, mean=0.4, std=0.2)
    path = tmp_path / "classifier" / "best.pt"
    checkpoints.save(path, {"card": model.card, "model": model.state_dict(), "settings": {"classes": list("abc")}})
    return path


def test_a_checkpoint_is_a_classifier(classifier_file):
    frozen = find(classifier_file)
    assert frozen.card == {"classifier": str(classifier_file)}
    assert frozen.classes == ("a", "b", "c")
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(frozen(pixels), lficam.load(classifier_file)(pixels).logits)


@pytest.mark.parametrize("method", ["l-cam-fm", "tame-no-skip", "t-tame"])
def test_an_explainer_finds_the_classifier_of_its_card(classifier_file, tmp_path, method):
    explainer = lficam.attach(classifier_file, method, ["backbone.stages.2"], masks="own", area=0.5)
    again = lficam.load(saved(explainer, tmp_path / "last.pt"))
    assert again.card == explainer.card
    assert again.settings == explainer.settings
    assert again.layers == explainer.layers
    assert not again.training
    assert same_outputs(again, explainer)


def test_an_explainer_of_an_own_module(tmp_path):
    """The card knows its size and normalisation, not the module."""
    explainer = lficam.attach(small_vit(), "t-tame", mean=0.1, std=0.7)
    path = saved(explainer, tmp_path / "last.pt")
    with pytest.raises(
        InputError,
        match=r"last.pt explains a VisionTransformer of your own: .*classifier= in Python; --classifier",
    ):
        lficam.load(path)
    assert same_outputs(lficam.load(path, classifier=small_vit()), explainer)
    other = small_vit()
    nn.init.zeros_(other.heads.head.weight)
    with pytest.raises(InputError, match="was trained on another VisionTransformer than this one"):
        lficam.load(path, classifier=other)
    explainer = lficam.attach(small(), "tame", size=48, mean=0, std=1)
    again = lficam.load(saved(explainer, path), classifier=small())
    assert again.classifier.size == 48
    assert same_outputs(again, explainer)


def kept(explainer, folder):
    """The last.pt that a training leaves."""
    optimizer = torch.optim.SGD(explainer.mechanism.parameters())
    checkpoints.keep(explainer, optimizer, [{"validation_accuracy": 0.5}], folder, {}, checkpoints.identity(explainer))
    return folder / "last.pt"


def test_an_explainer_knows_the_function_that_it_explains_not_the_weights_alone(tmp_path):
    explainer = lficam.attach(small(), "tame", ["first", "third"], size=32)
    path, other = kept(explainer, tmp_path), small()
    other.third[0].stride = (1, 1)  # the same weights, the last of them at more places: another function
    assert freeze(other, size=32).digest == explainer.classifier.digest
    with pytest.raises(InputError, match=r"last.pt was trained on another Small .*its logits of an image are not"):
        lficam.load(path, classifier=other)
    changed = lficam.attach(other, "tame", ["first", "third"], size=32)
    assert changed.card == explainer.card
    with pytest.raises(InputError, match="its logits of an image are not"):
        checkpoints.resume(changed, torch.optim.SGD(explainer.mechanism.parameters()), path, "cpu")
    lficam.load(path, classifier=small().to(memory_format=torch.channels_last))
    for same in (small(), freeze(small(), size=64)):
        assert same_outputs(lficam.load(path, classifier=same), explainer)
    content = checkpoints.read(path)
    logits = torch.tensor(content["answer"])
    for noise, fits in ((1e-4, True), (1e-2, False)):
        content["answer"] = (logits + noise * logits.std() * torch.tensor([1, -1, 1, -1, 1])).tolist()
        with contextlib.nullcontext() if fits else pytest.raises(InputError, match=r"a\.pt was trained on another"):
            checkpoints.check_answer(explainer, content, "a.pt")
    del content["answer"]  # as before there were answers
    checkpoints.save(path, content)
    lficam.load(path, classifier=other)
