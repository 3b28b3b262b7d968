"""Checkpoints: read without running code, refused in one sentence, never half-written."""

import hashlib
import os
import pickle
import struct

import pytest
import torch

import lficam
from lficam.errors import InputError, reason
from lficam.explainers.frozen import find
from lficam.models import checkpoints


class Malicious:
    """Would create a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    ("method", "backbone", "options"),
    [
        ("lfi-cam", "resnet-8", {"fin": "1x1", "softmax": False, "mean": 0.5, "std": 0.25}),
        ("abn", "wrn-10-1", {"dropout": 0.3, "attention_map": "log-sum"}),
        ("plain", "densenet-bc-10-4", {}),
    ],
)
def test_the_card_rebuilds_the_model(tmp_path, method, backbone, options):
    model = lficam.create(method, backbone, 3, **options).eval()
    scale = {name: [options[name]] * 3 for name in ("mean", "std") if name in options}
    assert {key: model.card.get(key) for key in options} == options | scale
    checkpoints.save(tmp_path / "best.pt", {"card": model.card, "model": model.state_dict()})
    again, pixels = lficam.load(tmp_path / "best.pt"), torch.rand(1, 3, 32, 32)
    assert again.card == model.card
    assert not again.training
    assert torch.equal(again(pixels).maps, model(pixels).maps)


def test_options_at_their_default_leave_the_card_as_it_was():
    old = {"method": "lfi-cam", "backbone": "resnet-8", "num_classes": 2, "mean": [0.5] * 3, "std": [0.25] * 3}
    assert lficam.create(**old).card == old
    assert lficam.create(**old, fin="released", softmax=True).card == old


def test_authors_weights_are_loaded_strictly_with_and_without_dataparallel(golden):
    state = golden("lfi_cifar_resnet20")["state_dict"]
    model, other = (lficam.create("lfi-cam", "resnet-20", 10) for _ in range(2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    broken = {key: value for key, value in state.items() if key != "conv1.weight"} | {"extra": torch.zeros(1)}
    with pytest.raises(InputError, match=r"1 missing \(backbone.stem.0.weight\); 1 unknown \(extra\)"):
        lficam.load_authors(model, broken)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match=r"into lfi-cam resnet-20 with 7 classes: 2 of another shape"):
        lficam.load_authors(lficam.create("lfi-cam", "resnet-20", 7), state)
    assert lficam.load_authors(model, state) is model
    lficam.load_authors(other, {f"module.{key}": value for key, value in state.items()})
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path):
    trap = tmp_path / "executed"
    for name, write in (("zip.pt", torch.save), ("old.pt", lambda o, f: f.write_bytes(pickle.dumps(o)))):
        write({"model": Malicious(str(trap)), "card": {}}, tmp_path / name)
        with pytest.raises(InputError, match=rf"{name} (holds code or objects beside|is not a checkpoint)") as error:
            lficam.load(tmp_path / name)
        assert not any(word in str(error.value) for word in ("\n", "weights_only", "PyTorch"))
    assert not trap.exists()


def zeroed(data):
    middle = len(data) // 2
    return data[:middle] + bytes(200) + data[middle + 200 :]


@pytest.mark.parametrize("read", [checkpoints.read, checkpoints.read_state, lambda path: find("squeezenet1_1", path)])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", r"is not .*, or is damaged \(it is empty\): copy it again"),  # noqa: ARG005
        (lambda data: data[: len(data) // 2], r"is not .*, or is damaged \("),
        (lambda data: b"<html>404</html>", "is not .*, or is damaged"),  # noqa: ARG005
        (zeroed, "is damaged, its checksum is wrong: copy it again"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, read, damage, words):
    path = tmp_path / "a.pt"
    checkpoints.save(path, {"card": {}, "model": {"w": torch.ones(1000)}, "state_dict": {"w": torch.ones(1000)}})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=words) as error:
        read(path)
    assert "a.pt" in str(error.value)
    assert "\n" not in str(error.value)


def test_files_of_before_zip_have_no_checksum_and_load(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(checkpoints.read_state(tmp_path / "old.pth")["w"], torch.ones(3))


def test_read_lazily_leaves_the_weights_in_the_file(tmp_path):
    path = tmp_path / "a.pt"
    checkpoints.save(path, {"card": {"method": "abn"}, "model": {"w": torch.ones(1000)}})
    path.write_bytes(zeroed(path.read_bytes()))
    assert checkpoints.read(path, lazily=True)["card"] == {"method": "abn"}


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    model = lficam.create("plain", "resnet-8", 3)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["backbone.fc.bias"][1] = value
    checkpoints.save(tmp_path / "a.pt", {"card": model.card, "model": state})
    for load in (lambda: lficam.load(tmp_path / "a.pt"), lambda: lficam.load_authors(model, state)):
        with pytest.raises(InputError, match=r"backbone.fc.bias hold values that are not finite \(NaN or infinite\)"):
            load()


def test_the_digest_of_weights_by_hand():
    """A formula that does not change, since checkpoints of explainers have its results; any type of number."""
    state = {"b": torch.tensor([1.5, -2.0]), "a": torch.tensor(3), "bn.num_batches_tracked": torch.tensor(7)}
    by_hand = b"a" + struct.pack("<q", 3) + b"b" + struct.pack("<2f", 1.5, -2)
    assert checkpoints.digest(state) == hashlib.sha256(by_hand).hexdigest()
    half = {"b": state["b"].bfloat16()}
    assert checkpoints.digest(half) == hashlib.sha256(b"b" + struct.pack("<2H", 0x3FC0, 0xC000)).hexdigest()
    turned = torch.arange(6.0).view(2, 3).mT
    assert checkpoints.digest({"a": turned}) == checkpoints.digest({"a": turned.contiguous()})


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (EOFError(), "EOFError"),
        (KeyError("101"), "KeyError"),
        (ValueError("\n one\ntwo"), "one"),
        (OSError("x" * 200), "x" * 120),
    ],
)
def test_the_reason_of_any_error_is_a_line(error, words):
    assert reason(error) == words


def test_a_disk_that_refuses_leaves_the_earlier_file(tmp_path):
    """A real refusal by the system: the process may write no file above 1 kB."""
    resource = pytest.importorskip("resource", reason="file size limits exist on Unix only")
    path = tmp_path / "last.pt"
    checkpoints.save(path, {"card": {}, "model": {}})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(InputError, match=r"Cannot write .*the earlier file is unchanged"):
            checkpoints.save(path, {"card": {}, "model": {"w": torch.rand(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
