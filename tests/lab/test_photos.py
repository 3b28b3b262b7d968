"""Photos of every kind are read as a classifier is evaluated, and explained in one clean pass."""

import os
import struct
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import ExifTags, Image

import lficam
from lficam.data import datasets, sources
from lficam.errors import InputError
from lficam.explainers import controls, registry
from lficam.explainers import frozen as classifiers
from lficam.lab import photos
from lficam.maps import normalise_and_upsample
from lficam.models import checkpoints
from lficam.models.imagenet import load


def scene(height=24, width=32):
    """A photo whose upper left corner is red; the rest grows brighter to the right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 1] = np.linspace(0, 200, width)
    image[: height // 2, : width // 2] = (250, 0, 0)
    return Image.fromarray(image)


def noise(size=32):
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return lficam.create("plain", "resnet-8", 10).eval()


def test_read_as_data_sets_are(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(3):
        scene(40 + i, 60).save(tmp_path / "a" / f"{i}.png")
    images = datasets.load("folder", "train", root=tmp_path, size=32)
    assert torch.equal(photos.read_photo(tmp_path / images.ids[0], 32), images.pixels([0])[0])


RED, GREY, CLEAR, HALF = (200, 0, 0), (90, 90, 90), (255, 255, 255), (227, 127, 127)


@pytest.mark.parametrize(
    ("mode", "name", "shown"),
    [
        ("RGBA", "x.png", [RED, CLEAR, HALF]),
        ("RGBA", "x.webp", [RED, CLEAR, HALF]),
        ("RGBA", "x.tif", [RED, CLEAR, HALF]),
        ("LA", "x.png", [GREY, CLEAR, (172, 172, 172)]),
        ("P", "x.png", [RED, CLEAR, HALF]),
        ("P", "x.gif", [RED, CLEAR, RED]),  # which knows no half
        ("RGB", "x.png", [RED, CLEAR, (0, 0, 200)]),  # one colour is transparent
        ("L", "x.png", [GREY, CLEAR, (9, 9, 9)]),
        ("I;16", "x.png", [GREY, CLEAR, (9, 9, 9)]),
    ],
)
def test_what_is_transparent_is_white(tmp_path, mode, name, shown):
    """Three pixels: opaque, clear (whatever colour lies there) and half clear, or of another colour."""
    image, more = Image.new(mode, (3, 1)), {"lossless": True} if name == "x.webp" else {}
    if mode == "RGBA":
        image.putdata([(*RED, 255), (0, 0, 77, 0), (*RED, 128)])
    elif mode == "LA":
        image.putdata([(90, 255), (5, 0), (90, 128)])
    elif mode == "P":
        image.putpalette([*RED, 0, 0, 77, *RED])
        image.putdata([0, 1, 2])
        more["transparency"] = 1 if name == "x.gif" else bytes([255, 0, 128])
    elif mode == "RGB":
        image.putdata([RED, (0, 200, 0), (0, 0, 200)])
        more["transparency"] = (0, 200, 0)
    else:
        scale = 257 if mode == "I;16" else 1
        image.putdata([90 * scale, 200 * scale, 9 * scale])
        more["transparency"] = 200 * scale
    image.save(tmp_path / name, **more)
    pixels = np.asarray(sources.open_rgb(tmp_path / name))[0].tolist()
    assert pixels == [pytest.approx(colour, abs=1) for colour in shown]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_opaque_pixels_stay_to_the_bit(tmp_path, mode):
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    image = colours.convert("P" if "P" in mode else mode)
    image.save(tmp_path / "x.png", **({"transparency": b"\xff" * 256} if mode == "PA" else {}))
    assert np.array_equal(np.asarray(sources.open_rgb(tmp_path / "x.png")), np.asarray(image.convert("RGB")))


def test_a_moving_picture_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert photos.read_photo(tmp_path / "x.gif", 16)[:, 8, 8].tolist() == [1, 0, 0]
    assert [path.name for path in photos.find_photos(tmp_path)] == ["x.gif"]


def test_a_large_jpeg_is_decoded_as_it_is(tmp_path):
    """Half of its resolution would be another picture."""
    Image.new("L", (8192, 8192)).save(tmp_path / "x.jpg")
    assert sources.open_rgb(tmp_path / "x.jpg").size == (8192, 8192)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "CMYK", "YCbCr", "LAB"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    if mode == "PA":
        image = scene().convert("P")
        image.save(tmp_path / "x.png", transparency=bytes(range(256)))  # of which Pillow warns
    else:
        scene().convert("RGB").convert(mode if mode != "LAB" else "L").convert(mode).save(tmp_path / "x.tif")
    (path,) = tmp_path.iterdir()
    pixels = photos.read_photo(path, 16)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == torch.float32
    assert 0 <= pixels.min() < pixels.max() <= 1


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_not_cut(tmp_path, kind):
    """For data sets, too: `convert` alone would make all above 255 white."""
    grey = np.tile(np.linspace(0, 65535, 32), (32, 1)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / f"x.{kind}")
    assert np.array_equal(np.asarray(sources.open_rgb(tmp_path / f"x.{kind}"))[..., 1], grey >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_read_upright(tmp_path, orientation):
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # torchvision's, so that the camera's turn is undone
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = scene(32, 32)
    stored = image.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else image
    stored.save(tmp_path / "turned.png", exif=exif)
    image.save(tmp_path / "upright.png")
    expected = photos.read_photo(tmp_path / "upright.png", 16)
    assert torch.equal(photos.read_photo(tmp_path / "turned.png", 16), expected)
    assert np.array_equal(np.asarray(sources.open_rgb(tmp_path / "turned.png")), np.asarray(stored))
    stored.save(tmp_path / "damaged.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    assert photos.read_photo(tmp_path / "damaged.jpg", 16).shape == (3, 16, 16)  # no reason to refuse


@pytest.mark.parametrize("shape", [(1, 3), (1, 20_000), (20_000, 2)])
def test_tiny_and_thin_photos(tmp_path, shape):
    """Scaled as it is, the thin one would be a strip of 700,000 pixels' length; what is shown is its middle."""
    image = np.full((*shape, 3), 77, np.uint8)
    middle = tuple(slice(max(0, n // 2 - 21), n // 2 + 21) for n in shape)
    image[middle] = (255, 0, 51)
    Image.fromarray(image).save(tmp_path / "x.png")
    pixels = photos.read_photo(tmp_path / "x.png", 32)
    assert torch.allclose(pixels, torch.tensor([1, 0, 0.2])[:, None, None].expand(3, 32, 32))


def white_png(path, width, height):
    """A large PNG of one bit a pixel, made without its pixels in memory."""
    rows = zlib.compress((b"\0" + b"\xff" * (width // 8)) * height, 1)
    parts = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def test_huge_and_odd_photos(tmp_path, monkeypatch):
    """Pillow warns from its limit on, and from twice the limit it refuses; numbers without end are no colours."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    white_png(tmp_path / "large.png", 1200, 1200)
    assert photos.read_photo(tmp_path / "large.png", 16).eq(1).all()
    white_png(tmp_path / "huge.png", 1600, 1600)
    with pytest.raises(InputError, match=r"huge.png \(more than 2,000,000 pixels\): replace or remove it"):
        photos.read_photo(tmp_path / "huge.png", 16)
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=r"Cannot read the image .*: replace or remove it\.$"):
        photos.read_photo(tmp_path / "x.tif", 16)


def test_find_photos(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    names = ["b/c/1.JPG", "b/2.webp", "a.png", "b/notes.txt", "b/.hidden.png", "odd.name"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "b" / "again.png").symlink_to(tmp_path / "a.png")
    found = photos.find_photos([tmp_path / "odd.name", tmp_path / "a.png", tmp_path])
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["odd.name", "a.png", "b/2.webp", "b/c/1.JPG"]
    assert photos.find_photos(str(tmp_path / "b"), skip=[tmp_path / "b/2.webp"])[0].name == "again.png"
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"no photo or folder .*pipe.png"):
        photos.find_photos(tmp_path / "pipe.png")


def test_find_class(plain):
    names = ["tench", "Tiger cat", "tiger", "crane", "Crane", "Egyptian  cat", *"6789"]
    classifier = classifiers.freeze(plain, classes=names)
    for text, index in (("tiger", 2), ("TIGER CAT", 1), ("ench", 0), ("egyp", 5), (9, 9), ("4", 4), (" 3 ", 3)):
        assert photos.find_class(text, classifier) == index
    for text, words in (
        ("cat", "may be 1 Tiger cat, 5 Egyptian  cat: give one number"),
        ("crane", "may be 3 crane, 4 Crane:"),
        ("dog", "No class is called 'dog'"),
        ("", "No class is called ''"),
        ("10", "expected a number from 0 to 9 or a name"),
        ("-1", "expected a number from 0 to 9 or a name"),
    ):
        with pytest.raises(InputError, match=words):
            photos.find_class(text, classifier)
    with pytest.raises(InputError, match=r"expected a number from 0 to 9\.$"):
        photos.find_class("tiger", classifiers.freeze(plain))


def passes(network):
    """Counts the batches that a network sees."""
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))  # noqa: ARG005
    return seen


def check(explanations, pixels, classifier, maps):
    """Against the same, computed class by class."""
    for each, raw in zip(explanations, maps, strict=True):
        masked = pixels * normalise_and_upsample(raw[None], 32)[0]
        expected = [classifier(image[None]).softmax(1)[0, each.index].item() for image in (pixels, masked)]
        assert [each.before, each.after] == pytest.approx(expected, rel=1e-4)
        assert torch.allclose(each.raw, raw, atol=1e-5)
        assert torch.allclose(each.masked, masked, atol=1e-5)
        assert each.drop == pytest.approx(100 * (1 - each.after / each.before))


@torch.no_grad()
def test_explain_by_a_mechanism(plain):
    explainer = lficam.attach(classifiers.freeze(plain, classes="abcdefghij"), "tame")
    explainer.train()  # as it is during training: must not matter
    pixels, seen = noise(), passes(plain.backbone.stem)
    explanations = photos.explain_photo(explainer, pixels, top=5)
    assert seen == [1, 5]
    assert not explainer.training
    classes = explainer.classifier(pixels[None])[0].topk(5).indices
    assert [each.index for each in explanations] == classes.tolist()
    assert [each.name for each in explanations] == ["abcdefghij"[c] for c in classes]
    check(explanations, pixels, explainer.classifier, explainer(pixels.expand(5, 3, 32, 32), classes))
    (own,) = photos.explain_photo(explainer, pixels)
    assert own.index == classes[0]
    assert [each.index for each in photos.explain_photo(explainer, pixels, [7, 0])] == [7, 0]
    assert len(photos.explain_photo(explainer, pixels, top=50)) == 10


@torch.no_grad()
@pytest.mark.parametrize("frozen", [False, True])
def test_explain_by_class_activation_maps(plain, frozen):
    explainer = classifiers.freeze(plain) if frozen else plain
    pixels, seen = noise(), passes(plain.backbone.stem)
    explanations = photos.explain_photo(explainer, pixels, [4, 2])
    assert seen == [1, 2]
    assert explanations[0].of_class
    maps = plain.explain(pixels.expand(2, 3, 32, 32), torch.tensor([4, 2]))
    check(explanations, pixels, classifiers.freeze(plain), maps)


@torch.no_grad()
@pytest.mark.parametrize("method", ["abn", "lfi-cam"])
def test_explain_by_an_attention_of_no_class(method):
    model = lficam.create(method, "resnet-8", 4)
    pixels = noise()
    explanations = photos.explain_photo(model, pixels, top=2)
    assert not any(each.of_class for each in explanations)
    check(explanations, pixels, lambda x: model(x).logits, model.explain(pixels[None]).expand(2, -1, -1))


def test_explain_by_a_baseline_that_needs_gradients(plain, monkeypatch):
    class Gradient(controls.Centre):
        def __call__(self, pixels, target):
            pixels = pixels.clone().requires_grad_()
            scores = self.classifier(pixels).gather(1, target[:, None]).sum()
            return torch.autograd.grad(scores, pixels)[0].abs().sum(1)

    monkeypatch.setitem(registry.METHODS, "gradient", Gradient)
    explainer = lficam.baseline(classifiers.freeze(plain), "gradient")
    one, two = photos.explain_photo(explainer, noise(), [1, 2])
    assert one.raw.shape == (32, 32)
    assert not torch.equal(one.raw, two.raw)
    assert photos.explain_photo(lficam.baseline(plain, "centre"), noise())[0].name.isdecimal()


def test_a_probability_of_zero_cannot_drop():
    nothing = torch.zeros(3, 2, 2)
    assert photos.Explanation(0, "0", 0.0, 0.1, nothing, nothing[0], nothing[0]).drop == 0


def test_a_checkpoint_says_its_size_and_classes(plain, tmp_path):
    content = {"card": plain.card, "model": plain.state_dict()}
    for job, size in (({"dataset": "folder"}, 224), ({"dataset": "cifar10"}, 32), ({"size": 48}, 48), ({}, 32)):
        checkpoints.save(tmp_path / "x.pt", content | {"settings": {"job": job, "classes": list("abcdefghij")}})
        classifier = classifiers.find(tmp_path / "x.pt")
        assert (classifier.size, classifier.describe(1)) == (size, "b")


def test_weights_in_a_file_of_another_order(tmp_path):
    """As safetensors write them: the number of classes is still that of the last layer."""
    state = load("squeezenet1_1", 7).state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert classifiers.find("squeezenet1_1", str(tmp_path / "w.safetensors")).num_classes == 7
    torch.save(dict(sorted(state.items(), reverse=True)), tmp_path / "w.pth")
    assert classifiers.find("squeezenet1_1", str(tmp_path / "w.pth")).num_classes == 7
