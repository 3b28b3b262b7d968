"""A folder of explanations: a figure and a map for each class of each photo, and explanations.csv, which lists them.

Results of the same photo and class are replaced; nothing else in the folder is ever overwritten.
"""

import contextlib
import csv
import io
import itertools
import os
import re
import sys
import time
from pathlib import Path

from ...errors import InputError
from ...files import atomic
from ...plots.panels import explanation_panels, save_figure, save_map, share
from ...progress import Progress, say
from ..photos import explain_photo, read_photo

COLUMNS = (
    "photo",  # relative to the folder of the table
    "class_index",
    "class_name",
    "probability",
    "probability_masked",
    "drop_percent",
    "explainer",
    "figure",
)


class Gallery:
    """The folder and its table, which is on the disk, whole, soon after every photo and in any case on leaving.

    with Gallery("explanations") as gallery:
        gallery.add("cat.jpg", explanation)

    Raises `InputError` for a folder that cannot be written, or whose explanations.csv is something else.
    """

    def __init__(self, folder):
        self.folder = Path(os.path.realpath(folder))
        self.shown = Path(folder)
        self.path = self.folder / "explanations.csv"
        self.rows = self._read()  # {(photo, class index, class name): row}
        self.files = {path.name.casefold() for path in self.listed()}
        self.written, self.cost = 0.0, 0.0

    def _read(self):
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                table = csv.DictReader(file, strict=True)
                foreign = tuple(table.fieldnames or ()) != COLUMNS
                rows = list(table)
                foreign = foreign or not all(map(_is_ours, rows))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, UnicodeDecodeError, csv.Error):
            foreign = True
        if foreign:
            raise InputError(f"{self.path} is no table of `lficam explain`: move it away, or choose another folder.")
        return {tuple(row[column] for column in COLUMNS[:3]): row for row in rows}

    def listed(self):
        """The paths of all figures and maps in the table."""
        return [self.folder / name for row in self.rows.values() for name in _pair(row["figure"])]

    def __enter__(self):
        self.write()  # now, not after an hour, the disk may refuse
        return self

    def __exit__(self, *_):
        self.write()

    def write(self):
        """Replace the table on the disk."""
        started = time.monotonic()
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows.values())
        with atomic(self.path, "w") as file:
            file.write(text.getvalue())
        self.written = time.monotonic()
        self.cost = self.written - started

    def add(self, photo, explanation, explainer="", warning=""):
        """Draw an explanation of a photo (a path) and list it. Returns the path of the figure."""
        key = self._relative(photo), str(explanation.index), explanation.name
        figure, grey = (self.folder / name for name in self._names(Path(photo), explanation, key))
        new = [path for path in (figure, grey) if not path.exists()]
        try:
            save_map(explanation.raw, grey)
            save_figure(explanation_panels(explanation, explainer, warning), figure)
        except BaseException:  # an interrupt, too, leaves no file that is not in the table
            for path in new:
                path.unlink(missing_ok=True)
            raise
        self.files |= {path.name.casefold() for path in (figure, grey)}
        self.rows.pop(key, None)
        values = *key, *(f"{p:.6g}" for p in (explanation.before, explanation.after))
        values += f"{explanation.drop:.4g}", ", ".join(filter(None, (explainer, warning))), figure.name
        self.rows[key] = dict(zip(COLUMNS, values, strict=True))
        if time.monotonic() - self.written > 10 * self.cost:  # of a long table, a tenth of the time at most
            self.write()
        return self.shown / figure.name

    def _relative(self, photo):
        path = os.path.abspath(photo)
        with contextlib.suppress(ValueError):  # another drive
            path = os.path.relpath(path, self.folder)
        return os.fsencode(Path(path).as_posix()).decode("utf-8", "backslashreplace")

    def _names(self, photo, explanation, key):
        """File names of figure and map: this photo's and class's from before, or free ones."""
        if key in self.rows:
            return _pair(self.rows[key]["figure"])
        name = "" if explanation.name == str(explanation.index) else _plain(explanation.name.lower(), 60, r"[\W_]+")
        tail = f"{explanation.index}-{name}".strip("-")
        stem = _plain(photo.stem, 110) or "photo"
        folder = _plain(Path(os.path.abspath(photo)).parent.name, 50)
        heads = itertools.chain([stem, f"{folder}-{stem}"], (f"{stem}-{n}" for n in itertools.count(2)))
        pairs = (_pair(f"{head}-{tail}.png") for head in heads)
        return next(pair for pair in pairs if all(map(self._is_free, pair)))

    def _is_free(self, name):
        return name.casefold() not in self.files and not (self.folder / name).exists()


def _is_ours(row):
    return None not in row and None not in row.values() and os.path.basename(row["figure"]) == row["figure"]


def _pair(figure):
    return figure, figure.removesuffix(".png") + "-map.png"


def _plain(text, most, strange=r'[\s\\/:*?"<>|\x00-\x1f\x7f\ud800-\udfff-]+'):
    """A text as part of a file name on any system, of at most so many bytes."""
    return re.sub(strange, "-", text).encode()[:most].decode("utf-8", "ignore").strip("-.")


def explain_photos(paths, explainer, size, gallery, *, targets=None, top=1, name="", warning=""):
    """Explain photos one by one, with a line for each class. Returns the paths of those that failed, and why.

    size: of the image that the classifier sees; targets, top: see `photos.explain_photo`; name of the explainer and
    warning: for figures and table. A photo that cannot be read or explained is told at once and does not end the run.
    """
    failed = {}
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(len(paths), "photos")) if len(paths) > 1 else None
        stack.enter_context(gallery)
        for path in paths:
            try:
                explanations = explain_photo(explainer, read_photo(path, size), targets, top)
            except InputError as error:
                failed[path] = error
                say(f"lficam: {error}", sys.stderr)
                explanations = []
            for each in explanations:
                figure = gallery.add(path, each, name, warning)
                say(line(path, each, figure))
            if progress:
                progress.update()
    return failed


def line(photo, explanation, figure):
    """What is printed of one class of one photo."""
    what = explanation.name if explanation.name != str(explanation.index) else "class"
    change = f"{share(explanation.before)} -> {share(explanation.after)}"
    change += f", {'drop' if explanation.drop >= 0 else 'rise'} {abs(explanation.drop):.1f} %"
    return f"{photo}: {what} {explanation.index}  {change}  {figure}"
