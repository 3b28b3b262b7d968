"""What several tests share: a workspace of their own, and the authors' golden outputs."""

import os
from pathlib import Path

import pytest
import torch
from golden_fill import fill_

GOLDEN = Path(__file__).parent / "golden"
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))

HEAVY = ("test_notebooks.py", "test_sweep.py")
HEAVY += ("test_distributed.py", "test_reproduce.py")


def pytest_collection_modifyitems(items):
    """Files that take minutes go first, so that no core is left with one of them alone."""
    items.sort(key=lambda item: item.path.name not in HEAVY)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project folder of the test's own, so that runs and reports never mix with the user's."""
    monkeypatch.setenv("LFICAM_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def golden():
    """Read a golden file; weights that are not stored are made by their recipe, under "state_dict"."""

    def read(name):
        content = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
        if "state_dict" not in content:
            state = {key: torch.zeros(shape) for key, shape in content["names_shapes"]}
            fill_(state)
            content["state_dict"] = state | content["buffers"]
        return content

    return read


@pytest.fixture
def golden_iou():
    """Attention maps, the authors' 8-bit dumps of them and the scores of their metrics.py."""
    return torch.load(GOLDEN / "lfi_iou.pt", weights_only=True)
