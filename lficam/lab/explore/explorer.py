"""A panel to look at explanations: choose image, class, method and how much of the map is kept.

lficam.explore()                                        # the newest finished trainings under runs/
lficam.explore("runs/.../best.pt", "holiday/")          # a checkpoint, or several; image files and folders
lficam.explore({"tame": explainer}, test)               # explainers in memory, on a `datasets.Images`

Without a live notebook (a run without a screen, nbconvert) it is a still figure instead.
"""

import base64
import contextlib
import html
import importlib.util
import io
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ...errors import InputError, reason
from ...explainers.frozen import Frozen, freeze
from ...plots.style import MAP_COLOURS
from ...progress import headless, say
from ..photos import Explanation, Opened, describe, doubts
from .gallery import explanation_panels, share
from .session import Session, classifier_of, open_session, training_free

CONVENTION = (
    "The probability is the classifier's softmax. Map: before the sigmoid, min-max normalised, upsampled bilinearly; "
    "its top pixels, with their soft values, multiply the pixels in [0, 1], and the rest is black. "
    "Average Drop of one image: 100 · max(0, before − after) / before. The papers average it over a data set, for the "
    "predicted classes, at 100, 50 and 15 %."
)
_COARSE = 128  # pixels up to which an image is enlarged without smoothing, as its pixels are
_STYLE = """<style>
.lficam-explorer {max-width: 1160px; margin: 0 auto; padding: 4px 10px; overflow: hidden}
.lficam-explorer .lficam-row {display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 12px}
@media (max-width: 640px) {.lficam-explorer .lficam-row {grid-template-columns: repeat(2, minmax(0, 1fr))}}
.lficam-explorer figure {margin: 0}
.lficam-explorer img {width: 100%; display: block; border-radius: 3px}
.lficam-explorer figcaption {font-size: 13px; line-height: 1.4; margin-top: 4px}
.lficam-explorer .lficam-bar {height: 8px; border-radius: 2px; background: #0072B2}
.lficam-explorer table.lficam-change {border-collapse: collapse; font-size: 14px; margin: 10px 0 4px}
.lficam-explorer table.lficam-change td {padding: 2px 14px 2px 0; text-align: left; background: none}
.lficam-explorer .lficam-small {font-size: 12px; line-height: 1.45; opacity: 0.75; margin: 6px 0}
.lficam-explorer .lficam-stale {opacity: 0.3}
.lficam-explorer .lficam-error {color: #B2480A; font-weight: 600}
</style>"""


def explore(explainers: Any = (), photos: Any = (), size: int | None = None) -> "Panel | Figure":
    """A `Panel` in a live notebook, else a still figure of the first image, method and predicted class.

    explainers: a checkpoint's path or several; {name: explainer} in memory, of one frozen classifier or explaining
    themselves, as `attach`, `baseline`, `create` and `lficam.load` give them; by default the newest finished
    trainings. photos: paths of files and folders, or `datasets.Images`; by default test images of the training.
    size: of the images that the classifier sees, if not as it was trained. Training-free methods join in.
    Raises `InputError` for what cannot be found, read or explained.
    """
    if isinstance(explainers, dict):
        session = Session(_in_memory(explainers, photos, size), photos)
    else:
        paths = [explainers] if isinstance(explainers, (str, os.PathLike)) else explainers
        session = open_session(paths, photos, size=size)
    if headless() or not importlib.util.find_spec("ipywidgets"):
        say("No live notebook with widgets here: this is a still picture; `lficam explore` opens the panel.")
        return still(session)
    return Panel(session)


def _in_memory(explainers: Mapping[str, Any], photos: Any, size: int | None) -> list[Opened]:
    """`photos.Opened` of explainers by name, and the training-free methods for the first one's classifier."""
    if not explainers:
        raise InputError("There is no explainer to explore: give {name: explainer}, or the path of a checkpoint.")
    opened = []
    for name, explainer in explainers.items():
        of_another = isinstance(getattr(explainer, "classifier", None), Frozen)  # VGG has a part of that name
        own = explainer.classifier if of_another else freeze(explainer)
        seen = size or getattr(photos, "size", None) or own.size
        opened.append(Opened(explainer if of_another else own, seen, str(name), doubts(own)))
    return opened + training_free(classifier_of(opened[0].explainer), opened[0].size)


def still(session: Session) -> Figure:
    """The first image, method and predicted class of a session as a figure."""
    method = session.methods[0]
    return explanation_panels(session.look(session.photos[0], method), method, session.method(method).warning)


class Panel:
    """Widgets on a `session.Session`; shown by being a cell's last value. `box` holds all of them.

    photo, target, method, keep: the controls, which can be set by code as well: `panel.keep.value = 15`.
    status: what is being computed, or what went wrong; view: images and numbers, in HTML.
    """

    def __init__(self, session: Session) -> None:
        import ipywidgets as widgets

        self.session = session
        wide = {"style": {"description_width": "76px"}, "layout": widgets.Layout(width="auto")}
        self.photo = widgets.Dropdown(options=session.photos, description="Image", **wide)
        self.target = widgets.Dropdown(options=[("", None)], description="Class", **wide)
        self.method = widgets.Dropdown(options=session.methods, description="Method", **wide)
        self.keep = widgets.IntSlider(100, 5, 100, 5, description="Keep top %", **wide)
        self.progress = widgets.IntProgress(layout=widgets.Layout(width="240px", display="none"))
        self.status, self.view = widgets.HTML(), widgets.HTML(layout=widgets.Layout(width="100%"))
        self._controls = self.photo, self.target, self.method, self.keep
        fitting = widgets.Layout(grid_template_columns="repeat(auto-fit, minmax(260px, 1fr))", grid_gap="0 12px")
        line = widgets.Layout(min_height="30px", align_items="center")
        self.box = widgets.VBox(
            [
                widgets.HTML(_STYLE),
                widgets.GridBox([*self._controls], layout=fitting),
                widgets.Box([self.progress, self.status], layout=line),
                self.view,
            ]
        )
        self.box.add_class("lficam-explorer")
        self._quiet = False
        self._classifier: Any = None  # whose classes are listed
        for control in self._controls:
            control.observe(self._changed, "value")
        self._changed({"owner": self.photo})

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        bundle = self.box._repr_mimebundle_()
        picture = io.BytesIO()  # what a page without a kernel shows, as a notebook that is only read
        still(self.session).savefig(picture, format="png", bbox_inches="tight")
        return bundle | {"image/png": base64.b64encode(picture.getvalue()).decode()}

    def _changed(self, change: Mapping[str, Any]) -> None:
        """Follow a control; whatever fails is a sentence in the panel."""
        if self._quiet:
            return
        self._quiet = True
        try:
            if change["owner"] in (self.photo, self.method):
                self._list_classes(anew=change["owner"] is self.photo)
            self._show()
        except Exception as error:  # nobody sees a traceback in a page
            self.view.value = ""
            self._say(_sentence(error), "lficam-error")
        finally:
            self._quiet = False

    def _say(self, text: str, kind: str = "") -> None:
        self.status.value = f'<span class="{kind}">{html.escape(text)}</span>'

    def _list_classes(self, anew: bool) -> None:
        """The classes of the method's classifier, the most probable first; the chosen one stays, or the predicted."""
        classifier = self.session.classifier(self.method.value)
        if not anew and classifier is self._classifier:
            return
        chosen, ranking = self.target.value, self.session.ranking(self.photo.value, self.method.value)
        self.target.options = [
            (f"{share(chance)} · {name if name == str(k) else f'{k} {name}'}", k) for k, name, chance in ranking
        ]
        known = not anew and chosen is not None and chosen < len(ranking)
        self.target.value, self._classifier = chosen if known else ranking[0][0], classifier

    def _show(self) -> None:
        asked = self.photo.value, self.method.value, self.target.value
        with contextlib.nullcontext() if self.session.knows(*asked) else self._computing():
            whole = self.session.look(*asked)
        kept = self.session.look(*asked, self.keep.value / 100)
        warning = self.session.method(self.method.value).warning
        self._say(f"WARNING: {warning}." if warning else "", "lficam-error")
        classifier = describe(self.session.classifier(self.method.value))
        self.view.value = page(whole, kept, self.keep.value, self.method.value, classifier)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """Say what is computed, how far it is where it takes many forward passes, and hold the controls meanwhile."""
        explainer = self.session.method(self.method.value).explainer
        total, done = getattr(explainer, "forward_passes", 1), threading.Event()
        many = f", {total} forward passes of the classifier" * (total > 1)
        self._say(f"computing {self.method.value}{many} …")
        self.progress.max, self.progress.value = max(total, 1), 0
        self.progress.layout.display = None if total > 1 else "none"

        def watch() -> None:
            with contextlib.suppress(Exception):  # the page may be gone
                while not done.wait(0.25):
                    self.progress.value = min(total, explainer.counted)

        watcher = threading.Thread(target=watch, daemon=True)
        try:
            self.view.add_class("lficam-stale")
            for control in self._controls:
                control.disabled = True
            if total > 1:
                watcher.start()
            yield
        finally:
            done.set()
            if watcher.ident:
                watcher.join()
            self.progress.layout.display = "none"
            self.view.remove_class("lficam-stale")
            for control in self._controls:
                control.disabled = False


def _sentence(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return f"This failed with {type(error).__name__}: {reason(error)} (choose another image, class or method)."


def page(whole: Explanation, kept: Explanation, percent: int, method: str, classifier: str) -> str:
    """The panel's images and numbers as HTML: the explanation by the whole map, and by its top `percent`."""
    photo, masked = (pixels.permute(1, 2, 0).numpy() for pixels in (kept.pixels, kept.masked))
    heat, kept_heat = (matplotlib.colormaps[MAP_COLOURS](seen.map.numpy())[..., :3] for seen in (whole, kept))
    shown = 0.65 * ((kept.map > 0) | (percent == 100)).numpy()[..., None]
    mixed = (1 - shown) * photo.mean(2, keepdims=True) + shown * kept_heat
    top = "the map" if percent == 100 else f"the top {percent} % of the map"
    kind = "heat map," if whole.of_class else "attention, the same for every class;"
    images = {"photo": photo, f"{kind} dark 0 to bright 1": heat}
    images |= {f"{top} over the grey photo": mixed, f"photo × {top}": masked}
    row = "".join(_figure(values, caption) for caption, values in images.items())
    return f'<div class="lficam-row">{row}</div>{_numbers(kept, top, method, classifier)}'


def _figure(values: np.ndarray, caption: str) -> str:
    png = io.BytesIO()
    Image.fromarray(np.uint8(np.round(255 * values.clip(0, 1)))).save(png, format="PNG")
    data = base64.b64encode(png.getvalue()).decode()
    look = ' style="image-rendering: pixelated"' if len(values) <= _COARSE else ""
    image = f'<img alt="{caption}"{look} src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _numbers(kept: Explanation, top: str, method: str, classifier: str) -> str:
    """The probability before and after, the change, and Average Drop, with its convention."""
    rows = "".join(
        f'<tr><td>{text}</td><td class="{name}">{share(value)}</td>'
        f'<td style="width: 180px"><div class="lficam-bar" style="width: {100 * value:.1f}%"></div></td></tr>'
        for text, name, value in (
            ("in the photo", "lficam-before", kept.before),
            (f"in photo × {top}", "lficam-after", kept.after),
        )
    )
    name = f"{kept.name} ({kept.index})" if kept.named else kept.name
    return (
        f'<table class="lficam-change"><tr><td colspan="3">Probability of <b>{html.escape(name)}</b>, by '
        f"{html.escape(classifier)}:</td></tr>{rows}</table>"
        f'<div class="lficam-summary" style="font-size: 14px">Change {100 * (kept.after - kept.before):+.1f} points · '
        f"Average Drop of this image <b>{max(0.0, kept.drop):.1f} %</b> · "
        f"Increase in Confidence: {'yes' if kept.after > kept.before else 'no'}</div>"
        f'<div class="lficam-small">{html.escape(method)}. {CONVENTION}</div>'
    )
