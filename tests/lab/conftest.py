"""What the tests of the real notebooks share."""

import builtins
import json
import shutil
from pathlib import Path

import pytest

from lficam.lab.graph import plan
from lficam.lab.notebooks import run
from lficam.plots import pictures
from lficam.training import jobs

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FEW = {"train_count": 60, "validation_count": 30, "test_count": 20}  # images, instead of the profile's


class Project:
    """A copy of the project's notebooks, and what they leave at the profile smoke with few images."""

    def __init__(self, home):
        self.reports = home / "reports" / "smoke"

    def run(self, name, **overrides):
        """Run a notebook as people do. Returns its record."""
        return json.loads(run.run(name, "smoke", FEW | overrides).read_text())

    def execute(self, name, **overrides):
        """Execute every cell of a notebook in this process, which has all imported already; its trainings before.

        Figures are drawn coarsely. Returns its record.
        """
        prepared = run.prepare(name, "smoke", FEW | overrides)
        for job in plan.execute(prepared, ("jobs",))["jobs"].values():
            jobs.train(job)
        space = run.read_defaults(prepared.source) | prepared.parameters
        space |= {"profile": "smoke", "output": str(prepared.folder)}
        for cell in json.loads(prepared.source.read_text())["cells"]:
            if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", ()):
                exec(compile("".join(cell["source"]), f"{name}, {cell['id']}", "exec"), space)
        return json.loads((prepared.folder / "record.json").read_text())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    home = tmp_path_factory.mktemp("project")
    shutil.copytree(NOTEBOOKS, home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LFICAM_HOME", str(home))
        patch.setenv("LFICAM_HEADLESS", "1")
        patch.setattr(builtins, "display", repr, raising=False)
        patch.setattr(pictures, "save", lambda figure, folder, name: figure.savefig(folder / f"{name}.png", dpi=50))
        yield Project(home)
