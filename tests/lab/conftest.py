"""What the tests of the real notebooks share."""

import json
import shutil
from pathlib import Path

import pytest

from lficam.lab.graph import plan
from lficam.lab.notebooks import run
from lficam.training import jobs

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


class Project:
    """A copy of the project's notebooks, and what they leave at the profile smoke."""

    def __init__(self, home):
        self.reports = home / "reports" / "smoke"

    def train(self, *names):
        """Train in this process what these notebooks will find, which is cheaper than a process for each core."""
        for name in names:
            for job in plan.execute(run.prepare(name, "smoke"), ("jobs",))["jobs"].values():
                jobs.train(job)

    def run(self, *names):
        """Run notebooks; returns the record of each."""
        run.run_all(names, "smoke")
        return {name: json.loads((self.reports / name / "record.json").read_text()) for name in names}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    home = tmp_path_factory.mktemp("project")
    shutil.copytree(NOTEBOOKS, home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LFICAM_HOME", str(home))
        yield Project(home)
