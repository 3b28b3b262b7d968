"""Authors' checkpoints become safetensors and a card; nothing in them is executed."""

import argparse
import hashlib
import json

import pytest
import torch

import lficam
from lficam.errors import InputError
from lficam.explainers.convert import convert


def authors_file(golden, path, prefix="module."):
    """A checkpoint as the authors' script writes it."""
    state = {prefix + name: tensor for name, tensor in golden("lfi_cifar_resnet20")["state_dict"].items()}
    torch.save({"epoch": 300, "state_dict": state, "acc": 93.1, "best_acc": 93.4, "optimizer": {"state": {}}}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
def test_converted_weights_give_the_authors_outputs(golden, tmp_path, prefix):
    source = authors_file(golden, tmp_path / "model_best.pth.tar", prefix)
    path = convert(source, tmp_path / "out" / "lfi", "lfi-cam", "resnet-20", 10, mean=0, std=1)
    assert path == tmp_path / "out" / "lfi.safetensors"
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["card"]["method"] == "lfi-cam"
    assert len(card["sha256"]) == 64
    reference = golden("lfi_cifar_resnet20")
    output = lficam.load(path)(reference["x"])
    torch.testing.assert_close(output.logits, reference["eval"]["logits"], rtol=0, atol=1e-4)


def test_a_file_that_holds_more_than_weights_is_refused(tmp_path):
    torch.save({"state_dict": {}, "args": argparse.Namespace(arch="resnet")}, tmp_path / "a.pth.tar")
    with pytest.raises(InputError, match=r"a\.pth\.tar holds code or objects beside weights"):
        convert(tmp_path / "a.pth.tar", tmp_path / "b", "plain", "resnet-20", 10)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth.tar"]


def test_wrong_model_missing_file_and_no_state_dict(golden, tmp_path):
    source = authors_file(golden, tmp_path / "lfi.pth.tar")
    with pytest.raises(InputError, match=r"Cannot load these weights into plain resnet-20 .* unknown \(attention"):
        convert(source, tmp_path / "b", "plain", "resnet-20", 10)
    with pytest.raises(InputError, match="No checkpoint"):
        convert(tmp_path / "none", tmp_path / "b", "plain", "resnet-20", 10)
    torch.save({"epoch": 3}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        convert(tmp_path / "c.pt", tmp_path / "b", "plain", "resnet-20", 10)


def test_a_card_without_weights_or_weights_without_a_card(golden, tmp_path):
    path = convert(authors_file(golden, tmp_path / "a.tar"), tmp_path / "lfi", "lfi-cam", "resnet-20", 10)
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="is not a checkpoint of lficam"):
        lficam.load(path)


def test_converted_weights_have_a_checksum(golden, tmp_path):
    path = convert(authors_file(golden, tmp_path / "a.tar"), tmp_path / "lfi", "lfi-cam", "resnet-20", 10)
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
