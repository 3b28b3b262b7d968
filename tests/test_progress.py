"""Progress without a notebook: few, whole lines."""

import importlib.util
import io
import sys
from types import SimpleNamespace

import pytest

from lficam.progress import Progress, duration, headless, rate, say


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def progress():
    """A plain progress of 100, its clock and what it printed."""
    clock, stream = Clock(), io.StringIO()
    return Progress(100, "scoring", clock=clock, stream=stream), clock, stream


def test_one_line_per_half_minute_and_one_at_the_end(progress):
    bar, clock, stream = progress
    for _ in range(10):
        clock.now += 10
        bar.update(10, loss=0.123456, epoch=1)
    bar.close()
    assert stream.getvalue().splitlines() == [
        "scoring: 30/100 (30%), 1.0/s, 1 min 10 s left, loss 0.1235, epoch 1",
        "scoring: 60/100 (60%), 1.0/s, 40 s left, loss 0.1235, epoch 1",
        "scoring: 90/100 (90%), 1.0/s, 10 s left, loss 0.1235, epoch 1",
        "scoring: 100/100, 1.0/s, took 1 min 40 s, loss 0.1235, epoch 1",
    ]


def test_what_an_earlier_run_did_is_not_in_the_rate():
    clock, stream = Clock(), io.StringIO()
    with Progress(100, "x", initial=50, every=1, clock=clock, stream=stream) as bar:
        clock.now += 10
        bar.update(10)
    assert stream.getvalue().splitlines()[0] == "x: 60/100 (60%), 1.0/s, 40 s left"


def test_unknown_total_and_a_failure_inside():
    clock, stream = Clock(), io.StringIO()
    bar = Progress(None, "x", every=5, clock=clock, stream=stream)
    for _ in range(3):
        clock.now += 4
        bar.update()
    with pytest.raises(KeyError), bar:
        raise KeyError
    assert stream.getvalue().splitlines() == ["x: 2, 4.0 s each", "x: 3, 4.0 s each, took 12 s"]


def test_headless(monkeypatch):
    monkeypatch.delenv("LFICAM_HEADLESS", raising=False)
    assert headless()
    shell = type("Shell", (), {"kernel": 1})()
    monkeypatch.setitem(sys.modules, "IPython", type("IPython", (), {"get_ipython": staticmethod(lambda: shell)}))
    assert not headless()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert Progress(1, "x").widget is None
    monkeypatch.setenv("LFICAM_HEADLESS", "1")
    assert headless()


def test_widget_in_a_live_notebook(monkeypatch):
    monkeypatch.setattr("lficam.progress.headless", lambda: False)
    seen = []
    label = SimpleNamespace(layout=SimpleNamespace())

    class Bar:
        container = SimpleNamespace(children=[label])

        def __init__(self, **options):
            seen.append(options)

        def update(self, n):
            seen.append(n)

        def set_postfix(self, values):
            seen.append(values)

        def close(self):
            seen.append("closed")

    monkeypatch.setattr("tqdm.notebook.tqdm", Bar)
    with Progress(10, "x", initial=2) as bar:
        bar.update(3, loss=1.0)
    assert seen == [{"total": 10, "desc": "x", "initial": 2}, 3, {"loss": 1.0}, "closed"]
    assert label.layout.flex == "0 0 auto"


def test_words():
    stream = io.StringIO()
    say("epoch 1", stream)
    assert stream.getvalue() == "epoch 1\n"
    assert (rate(410.3), rate(2.5), rate(0.25)) == ("410/s", "2.5/s", "4.0 s each")
    assert (duration(8.4), duration(200), duration(7500)) == ("8 s", "3 min 20 s", "2 h 05 min")
