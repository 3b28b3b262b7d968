"""Checkpoints: read without running code, refused in one sentence, never half-written."""

import os
import pickle

import pytest
import torch

import lficam
from lficam import checkpoints
from lficam.errors import InputError


class Malicious:
    """Would create a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_round_trip_rebuilds_the_model(tmp_path):
    model = lficam.create("abn", "resnet-8", 3, mean=0.5, std=0.2).eval()
    checkpoints.save(tmp_path / "best.pt", {"card": model.card, "model": model.state_dict()})
    again = checkpoints.load(tmp_path / "best.pt")
    pixels = torch.rand(2, 3, 32, 32)
    assert again.card == model.card
    assert not again.training
    assert torch.equal(again(pixels).maps, model(pixels).maps)


def test_authors_names_with_and_without_dataparallel(golden):
    state = golden("lfi_cifar_resnet20")["state_dict"]
    prefixed = {f"module.{key}": value for key, value in state.items()}
    models = [lficam.load_authors(lficam.create("lfi-cam", "resnet-20", 10), s) for s in (state, prefixed)]
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_authors_weights_are_loaded_strictly(golden):
    state = golden("lfi_cifar_resnet20")["state_dict"]
    model = lficam.create("lfi-cam", "resnet-20", 10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    broken = {key: value for key, value in state.items() if key != "conv1.weight"} | {"extra": torch.zeros(1)}
    with pytest.raises(InputError, match=r"1 missing \(backbone.stem.0.weight\); 1 unknown \(extra\)"):
        lficam.load_authors(model, broken)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match=r"into lfi-cam resnet-20 with 7 classes: 2 of another shape"):
        lficam.load_authors(lficam.create("lfi-cam", "resnet-20", 7), state)


def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path):
    trap = tmp_path / "executed"
    for name, write in (("zip.pt", torch.save), ("old.pt", lambda o, f: f.write_bytes(pickle.dumps(o)))):
        write({"model": Malicious(str(trap)), "card": {}}, tmp_path / name)
        with pytest.raises(InputError, match="is not a checkpoint of lficam"):
            checkpoints.load(tmp_path / name)
    assert not trap.exists()


def test_missing_damaged_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="No checkpoint"):
        checkpoints.read(tmp_path / "none.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match="is not a checkpoint of lficam, or is damaged"):
        checkpoints.read(tmp_path / "cut.pt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match="it has no model and card"):
        checkpoints.read(tmp_path / "foreign.pt")


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
