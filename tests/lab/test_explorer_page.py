"""`lficam explore` as people use it: its page in a real browser, and who may not open it."""

import re
import sys
import urllib.error
import urllib.parse
import urllib.request

import pytest
from browser import chromium, keep_screenshot, needs_browser, served

from lficam.training import jobs
from lficam.training.recipes import Recipe, explainer_recipe

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
pytestmark = [needs_browser, pytest.mark.slow]
PATIENCE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project folder with a small classifier and an explainer of it, trained for an epoch."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LFICAM_HOME", str(home))
        few = {"train_count": 300, "validation_count": 50}
        plain = jobs.train(jobs.Job("plain", "resnet-8", recipe=Recipe(2, 16, 0.05), **few))
        recipe = explainer_recipe(epochs=1, batch_size=16)
        jobs.train(jobs.Job("tame", plain.folder / "best.pt", recipe=recipe, **few))
    return home


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    command = [sys.executable, "-m", "lficam", "explore", "--no-browser"]
    with served(command, tmp_path_factory.mktemp("server"), LFICAM_HOME=str(trained)) as server:
        yield server.wait_for(r"http://127\.0\.0\.1:\d+/\?token=\w+")


def test_the_panel_follows_its_controls(server, tmp_path):
    with chromium(tmp_path) as page:
        page.goto(server)
        after = page.locator(".lficam-after")
        expect(after).to_have_text(re.compile(r"\d %"), timeout=PATIENCE)
        expect(page.locator(".lficam-row img")).to_have_count(4)
        assert all(page.eval_on_selector_all(".lficam-row img", "all => all.map(i => i.naturalWidth > 0)"))
        expect(page.locator(".lficam-summary")).to_contain_text("Average Drop")

        seen = {after.inner_text()}
        page.locator(".noUi-handle").focus()
        for _ in range(17):  # from 100 to 15 %
            page.keyboard.press("ArrowLeft")
        expect(page.locator(".lficam-row")).to_contain_text("top 15 %", timeout=PATIENCE)
        seen.add(after.inner_text())
        assert len(seen) == 2

        image, target, method = (page.locator("select").nth(n) for n in range(3))
        options = [text.replace("\xa0", " ") for text in method.locator("option").all_inner_texts()]
        assert options[0] == "tame of plain resnet-8"
        method.select_option(index=options.index("rise of plain resnet-8"))
        expect(page.locator(".lficam-explorer")).to_contain_text(re.compile("computing rise .*4000 forward passes"))
        bar = page.locator(".lficam-explorer .progress-bar")
        expect(bar).not_to_have_attribute("style", re.compile(r"width: 0%"), timeout=PATIENCE)  # meanwhile
        expect(page.locator(".lficam-small")).to_contain_text("rise of", timeout=PATIENCE)
        seen.add(after.inner_text())

        before = page.locator(".lficam-before").inner_text()
        target.select_option(index=4)
        expect(page.locator(".lficam-before")).not_to_have_text(before, timeout=PATIENCE)
        image.select_option(index=5)
        expect(page.locator(".lficam-change")).to_contain_text("by plain resnet-8", timeout=PATIENCE)
        assert len(seen) == 3
        method.select_option(index=0)
        expect(page.locator(".lficam-small")).to_contain_text("tame of", timeout=PATIENCE)
        for width in (1200, 800):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(500)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            keep_screenshot(page, tmp_path, f"explorer-{width}.png")
        assert not page.problems


@pytest.mark.parametrize("token", ["", "?token=wrong"])
def test_nobody_gets_in_without_the_token(server, token):
    address = urllib.parse.urlsplit(server)
    place = f"http://{address.netloc}"
    with urllib.request.urlopen(f"{place}/{token}") as answer:
        page = answer.read().decode()  # of a form, to which it redirects
    assert "lficam-explorer" not in page
    assert 'type="password"' in page
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{place}/api/kernels/00000000-0000-0000-0000-000000000000/channels{token}")
    refused.value.close()
    assert refused.value.code == 403
