"""How far a long loop is: a widget in a live notebook, otherwise a plain line now and then.

with Progress(len(images), "scoring") as progress:
    for pixels, labels, _ in batches:
        progress.update(len(labels), loss=loss)
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Self, TextIO

EVERY = 30.0  # seconds between two plain lines


def headless() -> bool:
    """Whether nobody watches: LFICAM_HEADLESS is set, or this is no notebook kernel."""
    ipython = sys.modules.get("IPython")
    return bool(os.environ.get("LFICAM_HEADLESS")) or not hasattr(ipython and ipython.get_ipython(), "kernel")


def first() -> bool:
    """Whether this is the first of the processes that a launcher has started, or the only one."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def say(text: str, stream: TextIO | None = None) -> None:
    """Print one line at once, even into a pipe; of several processes that train together the first alone does."""
    if stream is None and not first():
        return
    print(text, file=stream or sys.stdout, flush=True)


class Progress:
    """A count towards `total` (None: unknown), shown as a widget or as one line per `every` seconds and one at the end.

    initial: what an earlier, interrupted run had done; it does not enter the rate. clock, stream: for tests.
    """

    def __init__(
        self,
        total: int | None,
        label: str,
        initial: int = 0,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
    ) -> None:
        self.total, self.label, self.initial, self.n = total, label, initial, initial
        self.every, self.clock, self.stream = every, clock, stream
        self.values: dict[str, Any] = {}
        self.started = self.printed = clock()
        self.widget = None if headless() or not importlib.util.find_spec("ipywidgets") else self._widget()

    def _widget(self) -> Any:
        from tqdm.notebook import tqdm

        bar = tqdm(total=self.total, desc=self.label, initial=self.initial)
        bar.container.children[0].layout.flex = "0 0 auto"  # else a label of several words breaks around the bar
        return bar

    def update(self, n: int = 1, **values: Any) -> None:
        """Count n more; values (loss=0.3) are shown beside the count."""
        self.n += n
        self.values |= values
        if self.widget is not None:
            self.widget.update(n)
            if values:
                self.widget.set_postfix(values)
        elif self.clock() - self.printed >= self.every:
            self.printed = self.clock()
            say(self.line(), self.stream)

    def line(self, last: bool = False) -> str:
        """The state as one line of text."""
        seconds, done = self.clock() - self.started, self.n - self.initial
        parts = [f"{self.label}: {self.n}" + (f"/{self.total}" if self.total else "")]
        if self.total and not last:
            parts[0] += f" ({self.n / self.total:.0%})"
        if done and seconds:
            parts.append(rate(done / seconds))
        if last:
            parts.append(f"took {duration(seconds)}")
        elif self.total and done:
            parts.append(f"{duration(seconds / done * (self.total - self.n))} left")
        shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.values.items())
        return ", ".join([*parts, *shown])

    def close(self) -> None:
        """Show the final state."""
        if self.widget is not None:
            self.widget.close()
        else:
            say(self.line(last=True), self.stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def rate(per_second: float) -> str:
    """A speed for reading: 410/s, 2.5/s, or 12 s each.

    >>> rate(410.3), rate(0.25)
    ('410/s', '4.0 s each')
    """
    if per_second < 1:
        return f"{1 / per_second:.1f} s each"
    return f"{per_second:.{0 if per_second >= 10 else 1}f}/s"


def duration(seconds: float) -> str:
    """A time for reading.

    >>> duration(8), duration(200), duration(7500)
    ('8 s', '3 min 20 s', '2 h 05 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours = seconds // 60, seconds // 3600
    return f"{hours} h {minutes % 60:02d} min" if hours else f"{minutes} min {seconds % 60:02d} s"
