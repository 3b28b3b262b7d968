"""The explorer without a browser: what it computes and remembers, widgets set by code, sentences, the command."""

import asyncio
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from networks import TinyVGG, small
from PIL import Image
from tornado.ioloop import IOLoop

import lficam
from lficam.cli import explore, main
from lficam.data import datasets
from lficam.errors import InputError
from lficam.explainers.frozen import freeze
from lficam.lab.explore import explorer
from lficam.lab.explore.session import TEST_IMAGES, Session, newest, open_session, training_free
from lficam.lab.photos import Opened, read_photo
from lficam.maps import finish
from lficam.metrics.faithfulness import keep_top
from lficam.models import checkpoints
from lficam.training.jobs import Job, Recipe, train


@pytest.fixture
def photos(tmp_path):
    """Two photos of one name in two folders, and a file that is none."""
    draw = np.random.default_rng(0)
    for name in ("one/x.png", "two/x.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(draw.integers(0, 255, (40, 50, 3), np.uint8)).save(path)
    (tmp_path / "photos" / "two" / "broken.png").write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.fixture
def session(photos):
    """TAME, a trained classifier's place holder, on photos of 32 pixels; and the methods without training."""
    classifier = freeze(small(), size=32, classes=["cat", "dog", "owl", "fox", "hen"])
    torch.manual_seed(1)
    tame = Opened(lficam.attach(classifier, "tame"), 32, "tame of small")
    return Session([tame, *training_free(classifier, 32)], [photos])


@pytest.fixture
def live(monkeypatch):
    """As if a notebook were open."""
    monkeypatch.setattr(explorer, "headless", lambda: False)


@pytest.fixture
def panel(session, live):  # noqa: ARG001
    return explorer.Panel(session)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A project with a classifier and two explainers of it, an epoch each, under runs/."""
    home, few = tmp_path_factory.mktemp("home"), {"train_count": 40, "validation_count": 20}
    recipe = Recipe(epochs=1, batch_size=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LFICAM_HOME", str(home))
        plain = train(Job("plain", "resnet-8", recipe=recipe, **few)).folder / "best.pt"
        for method in ("l-cam-img", "tame"):
            train(Job(method, plain, recipe=recipe, **few))
    return home


@pytest.fixture
def trained(once, home):
    """A copy of that project; the paths of its checkpoints: plain, l-cam-img, tame, the newest last."""
    shutil.copytree(once / "runs", home / "runs")
    return sorted(map(str, (home / "runs").rglob("best.pt")), key=os.path.getmtime)


def test_look_is_keep_top_of_the_finished_map_times_the_photo(session, photos):
    whole, kept = (session.look("one/x.png", "tame of small", 3, keep) for keep in (1, 0.15))
    pixels = read_photo(photos / "one" / "x.png", 32)
    opened = session.method("tame of small").explainer
    heat = finish(opened(pixels[None], [3]), 32)
    masked = pixels * keep_top(heat, 0.15)
    before, after = (opened.classifier(x[None]).softmax(1)[0, 3].item() for x in (pixels, masked))
    assert torch.equal(whole.map, heat[0])
    assert torch.equal(kept.masked, masked)
    assert (kept.before, kept.after) == pytest.approx((before, after))
    assert whole.after != kept.after
    assert (whole.name, kept.index) == ("fox", 3)


def test_a_map_is_computed_once_and_the_slider_costs_one_pass_of_one_image(session, monkeypatch):
    network, passes = session.classifier("rise of Small").network, []
    session.look("one/x.png", "rise of Small")
    network.register_forward_hook(lambda _, images, __: passes.append(len(images[0])))
    session.look("one/x.png", "rise of Small")
    assert passes == []
    session.look("one/x.png", "rise of Small", keep=0.5)
    assert passes == [1]
    monkeypatch.setattr("lficam.lab.explore.session._KEPT", 2)  # memory is bounded
    for target in range(4):
        session.look("one/x.png", "tame of small", target)
    assert [session.knows("one/x.png", "tame of small", target) for target in range(4)] == [False, False, True, True]


def test_the_controls_are_followed(session, panel):
    assert panel.photo.options == ("one/x.png", "two/broken.png", "two/x.png")
    ranking = session.ranking("one/x.png", "tame of small")
    assert [value for _, value in panel.target.options] == [k for k, _, _ in ranking]
    assert panel.target.value == ranking[0][0]
    assert ranking[0][2] == max(chance for _, _, chance in ranking)

    seen = [panel.view.value]
    for control, value in ((panel.keep, 15), (panel.target, ranking[-1][0]), (panel.method, "centre of Small")):
        control.value = value
        seen.append(panel.view.value)
    assert len(set(seen)) == 4
    explanation = session.look("one/x.png", "centre of Small", ranking[-1][0], 0.15)
    for text in (f"{100 * explanation.after:.1f} %", f"<b>{max(explanation.drop, 0):.1f} %</b>", "top 15 %"):
        assert text in seen[-1]
    panel.photo.value = "two/x.png"
    assert panel.target.value == session.ranking("two/x.png", "centre of Small")[0][0]  # the predicted one again


def test_whatever_fails_is_a_sentence_and_the_next_thing_works(session, panel, monkeypatch):
    panel.photo.value = "two/broken.png"
    assert "broken.png" in panel.status.value
    assert panel.view.value == ""
    panel.photo.value = "two/x.png"
    assert "lficam-after" in panel.view.value
    assert "broken" not in panel.status.value
    monkeypatch.setattr(session, "look", lambda *_: (_ for _ in ()).throw(MemoryError("no <room>")))
    panel.keep.value = 50
    assert "MemoryError: no &lt;room&gt;" in panel.status.value
    assert not any(control.disabled for control in (panel.photo, panel.method, panel.keep))


@pytest.mark.parametrize("page", ["open", "gone"])
def test_slow_methods_say_what_they_do_and_how_far_they_are(session, panel, monkeypatch, page):
    """A page that is gone leaves no traceback of the thread that moves the bar."""
    said, counted, lost, moved = [], [], [], threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda given: lost.append(given.exc_value))
    panel.status.observe(lambda change: said.append((change["new"], panel.method.disabled)), "value")

    def bar(change):
        counted.append(change["new"])
        if change["new"] == 4000 or (change["new"] and page == "gone"):
            moved.set()
        if page == "gone":
            raise OSError("the page is gone")

    panel.progress.observe(bar, "value")
    slow = session.method("rise of Small").explainer
    compute = slow._maps

    def slower(*arguments):
        maps = compute(*arguments)
        assert moved.wait(10)
        return maps

    slow._maps = slower
    panel.method.value = "rise of Small"
    assert "computing rise of Small, 4000 forward passes" in said[0][0]
    assert said[0][1] is False  # said before anything is held
    assert counted[-1] == 4000 or page == "gone"
    assert not lost
    assert panel.progress.layout.display == "none"
    assert "computing" not in panel.status.value
    said.clear()
    panel.keep.value = 50
    assert not [text for text, _ in said if "computing" in text]


def test_an_explainer_of_another_classifier_brings_its_classes(photos, live):  # noqa: ARG001
    names = [f"<script>{k}</script> & co" for k in range(5)]
    five, three = freeze(small(5), size=32, classes=names), freeze(small(3, seed=1), size=32)
    opened = [Opened(lficam.baseline(c, "centre"), 32, name) for name, c in (("<b>five", five), ("three", three))]
    panel = explorer.Panel(Session(opened, [photos / "one"]))
    assert "<script>" not in panel.view.value  # names are escaped
    assert "<b>five" not in panel.view.value
    assert "&lt;script&gt;" in panel.view.value
    panel.target.value = 4
    panel.method.value = "three"
    assert len(panel.target.options) == 3
    assert panel.target.value == panel.session.ranking("x.png", "three")[0][0]
    panel.target.value = 2
    panel.method.value = "<b>five"
    assert (len(panel.target.options), panel.target.value) == (5, 2)
    with pytest.raises(InputError, match=r"\[32, 64\] pixels"):
        Session([opened[0], opened[1]._replace(size=64)], [photos])


def test_explore_in_a_live_notebook_and_without_one(live, monkeypatch, capsys):  # noqa: ARG001
    images = datasets.load("photo-digits", "test", count=3)
    tame = lficam.attach(lficam.create("plain", "resnet-8", 10), "tame")
    panel = lficam.explore({"mine": tame, "attention": lficam.create("abn", "resnet-8", 10)}, images)
    assert panel.method.options[:3] == ("mine", "attention", "grad-cam of plain resnet-8")
    assert panel.photo.options == ("image 0, class 0", "image 1, class 1", "image 2, class 2")
    assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= set(panel._repr_mimebundle_())
    for module, name, value in ((explorer, "headless", True), (explorer.importlib.util, "find_spec", None)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_, value=value: value)
            assert isinstance(lficam.explore({"mine": tame}, images), Figure)
        assert "still picture" in capsys.readouterr().out


def test_a_classifier_that_does_not_explain_itself_is_a_sentence(photos, live):  # noqa: ARG001
    panel = lficam.explore({"no explainer": TinyVGG()}, photos / "one", size=64)  # which has a part named classifier
    assert "does not explain itself" in panel.status.value
    panel.method.value = panel.method.options[1]
    assert "lficam-after" in panel.view.value


def test_the_newest_finished_and_those_of_the_same_classifier(trained):
    plain, lcam, tame = trained
    assert newest() == [tame, lcam]
    cut = checkpoints.read(tame)
    cut["settings"]["job"]["recipe"]["epochs"] = 2  # of which one is done
    checkpoints.save(tame, cut)
    Path(lcam).write_bytes(b"damaged")
    assert newest() == [plain]


def test_a_session_of_checkpoints_has_one_classifier_and_test_images(trained):
    _, lcam, tame = trained
    session = open_session([tame, lcam])
    assert len(session.photos) == TEST_IMAGES
    names = [f"{method} of plain resnet-8" for method in ("tame", "l-cam-img", "grad-cam")]
    assert session.methods[:3] == names
    assert session.classifier(names[0]) is session.classifier(names[1])
    assert open_session([tame], first="rise").methods[:3] == ["rise of plain resnet-8", names[0], names[2]]


def test_a_network_by_name_sees_photographs():
    session = open_session(classifier="mobilenet_v3_small", weights="random", size=64, first="centre")
    assert session.photos[0] == "chelsea.png"
    assert session.look("chelsea.png", session.methods[0]).pixels.shape == (3, 64, 64)
    assert "random" in session.method(session.methods[0]).warning


# --- The command


def test_what_is_wrong_is_said_before_anything_is_served(home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr(explore, "_serve", lambda *_: pytest.fail("served"))
    of = ["--classifier", "resnet18", "--weights", "random"]
    for arguments, sentence in (
        ([], "lficam run 01_train_lficam --profile smoke"),
        (["--method", "rize", *of], "'rise'"),
        (["nowhere.jpg", *of], "There is no photo or folder nowhere.jpg"),
    ):
        assert main(["explore", *arguments]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1


@pytest.mark.usefixtures("trained")
def test_a_port_that_is_taken(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["explore", "--port", str(port), "--no-browser"]) == 2
    assert f"--port {port}: " in capsys.readouterr().err
    assert main(["explore", "--port", "70000", "--no-browser"]) == 2


def test_the_notebook_that_is_served_opens_the_same_session(trained, photos, monkeypatch, live):  # noqa: ARG001
    served, silenced, names = [], [], {}
    monkeypatch.setattr(explore, "_serve", lambda *given: served.append(given))
    monkeypatch.chdir(photos)
    odd = photos / 'it\'s "odd" {x}.png'
    (photos / "one" / "x.png").rename(odd)
    assert main(["explore", odd.name, "--checkpoint", trained[-1], "--method", "centre", "--no-browser"]) == 0
    ((notebook, port, browser),) = served
    assert port
    assert not browser
    (cell,) = nbformat.reads(notebook, 4).cells
    monkeypatch.chdir(Path(trained[-1]).parent)
    monkeypatch.setattr(logging, "disable", lambda: silenced.append(True))
    exec(cell.source.replace("\nPanel(", "\npanel = Panel("), names)
    assert silenced
    assert names["panel"].photo.options == (odd.name,)
    assert names["panel"].method.value == "centre of plain resnet-8"


def test_the_check_leaves_no_gpu_taken(monkeypatch):
    seen = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    look = lambda *_: seen.append(os.environ["CUDA_VISIBLE_DEVICES"])  # noqa: E731
    session = SimpleNamespace(photos=["a"], methods=["m"], look=look)
    monkeypatch.setattr("lficam.lab.explore.session.open_session", lambda *_, **__: session)
    monkeypatch.setattr(explore, "_serve", look)
    assert main(["explore", "--no-browser"]) == 0
    assert seen == ["", "3"]


def test_the_browser_is_led_by_a_file_that_only_this_user_and_any_browser_can_read(home, monkeypatch, capsys):
    """Neither on a command line nor in the temporary folder, of which a browser in a sandbox has its own."""
    seen = []

    class Server:
        def start(self):
            IOLoop.current().run_sync(lambda: asyncio.sleep(0.1))

    def opened(address):
        door = Path(urllib.parse.urlsplit(address).path)
        seen.append((door.parent, oct(door.stat().st_mode & 0o777), door.read_text()))
        return True

    monkeypatch.setattr(explore, "_voila", lambda *_: Server())
    monkeypatch.setattr("webbrowser.open", opened)
    explore._serve("{}", 4321, True)
    (address,) = re.findall(r"http://127.0.0.1:4321/\?token=\w+", capsys.readouterr().out)
    ((folder, mode, text),) = seen
    assert (folder, mode) == (home / "reports", "0o600")
    assert f"url={address}" in text
    assert not list(folder.iterdir())


def test_a_page_that_was_closed_leaves_no_kernel_and_no_word(tmp_path):
    (tmp_path / "x.ipynb").write_text("{}")
    page = explore._voila(tmp_path / "x.ipynb", 0, "token")
    page.connection_dir = str(tmp_path)
    page.init_settings()
    assert page.kernel_manager.cull_idle_timeout == explore.IDLE
    assert page.kernel_manager.cull_interval == 60
    assert not page.kernel_manager.cull_connected  # a page that is open keeps its own
    assert not any(logging.getLogger(name).isEnabledFor(logging.ERROR) for name in ("asyncio", "tornado.application"))


@pytest.mark.slow
def test_help_imports_nothing_heavy():
    code = "import sys, lficam.cli; lficam.cli.parser().format_help(); "
    code += "print({'torch', 'ipywidgets', 'voila', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
