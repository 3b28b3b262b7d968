"""Authors' checkpoints become safetensors and a card; nothing in them is executed."""

import argparse
import hashlib
import json

import pytest
import torch

import lficam
from lficam.errors import InputError
from lficam.explainers.convert import convert


@pytest.fixture
def source(golden, tmp_path):
    """A checkpoint as the authors' script writes it."""
    state = {"module." + name: tensor for name, tensor in golden("lfi_cifar_resnet20")["state_dict"].items()}
    content = {"epoch": 300, "state_dict": state, "acc": 93.1, "best_acc": 93.4, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "model_best.pth.tar")
    return tmp_path / "model_best.pth.tar"


def test_converted_weights_give_the_authors_outputs(golden, source, tmp_path):
    path = convert(source, tmp_path / "out" / "lfi", "lfi-cam", "resnet-20", 10, mean=0, std=1)
    assert path == tmp_path / "out" / "lfi.safetensors"
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["card"]["method"] == "lfi-cam"
    assert len(card["sha256"]) == 64
    reference = golden("lfi_cifar_resnet20")
    output = lficam.load(path)(reference["x"])
    torch.testing.assert_close(output.logits, reference["eval"]["logits"], rtol=0, atol=1e-4)
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="is not a checkpoint of lficam: no card, lfi"):
        lficam.load(path)


def test_what_is_refused_leaves_nothing(source, tmp_path):
    torch.save({"state_dict": {}, "args": argparse.Namespace(arch="resnet")}, tmp_path / "a.tar")
    torch.save({"epoch": 3}, tmp_path / "c.pt")
    files = sorted(tmp_path.iterdir())
    for name, words in {
        "a.tar": r"a\.tar holds code or objects beside weights",
        source.name: r"Cannot load these weights into plain resnet-20 .* unknown \(attention",
        "c.pt": "holds no state dict",
        "none": "No checkpoint",
    }.items():
        with pytest.raises(InputError, match=words):
            convert(tmp_path / name, tmp_path / "b", "plain", "resnet-20", 10)
    assert sorted(tmp_path.iterdir()) == files


def test_converted_weights_have_a_checksum(source, tmp_path):
    path = convert(source, tmp_path / "lfi", "lfi-cam", "resnet-20", 10)
    data = path.read_bytes()
    path.write_bytes(data[:50_000] + bytes(200) + data[50_200:])
    with pytest.raises(InputError, match=r"lfi.safetensors is damaged, its checksum is wrong"):
        lficam.load(path)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card.pop("file") == hashlib.sha256(data).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(card))  # as before there were checksums
    lficam.load(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"lfi.safetensors is not a checkpoint of lficam, or is damaged \("):
        lficam.load(path)
