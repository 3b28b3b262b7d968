"""Notebook 01 as people run it: JupyterLab, in a real browser, every cell; and who may not open it."""

import json
import re
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
import yaml
from browser import chromium, keep_screenshot, needs_browser, served

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
pytestmark = [needs_browser, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
NAME = "01_train_lficam"
TOKEN = "of-this-test"
PATIENCE = 120_000  # milliseconds
FEW = {
    "train_count": 60,
    "validation_count": 30,
    "test_count": 20,
    "examples": 2,
}  # its results are looked at elsewhere


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the notebooks, in which 01 has few images and the smoke profile's settings, as one would type them."""
    home = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "notebooks", home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    path = home / "notebooks" / f"{NAME}.ipynb"
    notebook = nbformat.read(path, 4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    smoke = yaml.safe_load((home / f"notebooks/profiles/smoke/{NAME}.yaml").read_text())
    for name, value in (smoke | FEW).items():
        cell.source, count = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value!r}  ", cell.source, flags=re.M)
        assert count == 1
    nbformat.write(notebook, path)
    return home


@pytest.fixture(scope="module")
def lab(project, tmp_path_factory):
    """The address of a JupyterLab with a token and with nobody's settings."""
    folder = tmp_path_factory.mktemp("lab")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0"]
    command += [f"--ServerApp.root_dir={project / 'notebooks'}", f"--IdentityProvider.token={TOKEN}"]
    command += ["--allow-root"]  # where tests run in a container
    nobodys = {f"JUPYTER{name}_DIR": str(folder / name) for name in ("_CONFIG", "_RUNTIME", "LAB_SETTINGS")}
    nobodys |= {"JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
    settings = {  # nothing from the network; cells stay in the page when they are scrolled out of sight
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "notebook-extension/tracker": {"windowingMode": "none"},
    }
    for name, values in settings.items():
        path = folder / "LAB_SETTINGS" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    with served(command, folder, LFICAM_HOME=str(project), **nobodys) as server:
        yield server.wait_for(r"http://127\.0\.0\.1:\d+/lab").removesuffix("/lab")


def test_every_cell_of_notebook_01_runs(lab, project, tmp_path):
    with chromium(tmp_path, 1200, 1000) as page:
        page.goto(f"{lab}/lab/tree/{NAME}.ipynb?token={TOKEN}")
        expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=PATIENCE)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        progress = page.locator(".jp-OutputArea .widget-hprogress")
        expect(progress.first).to_be_visible(timeout=PATIENCE)
        cells = page.locator(".jp-Notebook .jp-CodeCell")
        done = cells.filter(has_text=re.compile(r"Done in [\d.]+ s: 3 tables, 6 figures"))
        expect(done).to_be_visible(timeout=PATIENCE)
        expect(cells.last).to_contain_text("No answer yet", timeout=PATIENCE)  # the last exercise
        counted = re.compile(r"trainings:\s100%\s+3/3")
        expect(page.locator(".jp-OutputArea .widget-hbox").filter(has_text=counted)).to_be_visible()
        assert not page.locator('.jp-OutputArea [data-mime-type="application/vnd.jupyter.error"]').count()
        assert not page.locator('.jp-OutputArea [data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
        numbers = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
        assert numbers == [f"[{n}]:" for n in range(1, cells.count() + 1)]
        pictures = page.locator(".jp-OutputArea img")
        assert pictures.count() == 6
        for picture in pictures.all():
            picture.scroll_into_view_if_needed()
            expect(picture).to_be_visible()
            assert picture.evaluate("image => image.naturalWidth") > 300
        keep_screenshot(page, tmp_path, "jupyterlab.png")
        page.set_viewport_size({"width": 1200, "height": 7000})
        page.locator(".jp-Notebook .jp-MarkdownCell").first.scroll_into_view_if_needed()
        page.wait_for_timeout(1000)
        keep_screenshot(page, tmp_path, "jupyterlab-whole.png")
        assert not page.problems
    assert json.loads((project / "reports" / "lab" / NAME / "record.json").read_text())["profile"] == "lab"


@pytest.mark.parametrize("token", ["", "?token=wrong"])
def test_nobody_gets_in_without_the_token(lab, token):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{lab}/api/contents/{NAME}.ipynb{token}")
    refused.value.close()
    assert refused.value.code == 403
    with urllib.request.urlopen(f"{lab}/api/contents/{NAME}.ipynb?token={TOKEN}") as answer:
        assert answer.status == 200
