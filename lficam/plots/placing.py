"""Texts beside the marks of a scatter plot, where they cover nothing."""

import itertools
import math

ANGLES = (0, 180, 35, -35, 145, -145, 90, -90, 60, -60, 120, -120)
DISTANCES = (6, 10, 15, 22, 30, 40)  # in points; from 12 on a thin line leads to the mark


def place(figure, axis, texts, points, spans, colours):
    """Write each text at the first place around its point where it covers no text, mark or interval.

    points [(x, y)] in data coordinates, spans [(low, high)] intervals in y, colours: one a text; the axes' limits and
    scales have to be final. Where no place is free, the least covered one is taken.
    """
    figure.canvas.draw()  # fixes the layout that the places are measured in
    scale, frame = figure.dpi / 72, axis.get_window_extent().extents
    taken, written = [], []
    for (x, y), (low, high) in zip(points, spans, strict=True):
        (left, bottom), (_, middle), (_, top) = axis.transData.transform([(x, low), (x, y), (x, high)])
        taken.append((left - 4 * scale, middle - 4 * scale, left + 4 * scale, middle + 4 * scale))
        taken.append((left - scale, bottom, left + scale, top))
    for text, point, colour in zip(texts, points, colours, strict=True):
        tried = []
        for distance, angle in itertools.product(DISTANCES, ANGLES):
            note = _write(axis, text, point, colour, distance, angle)
            box = note.get_window_extent().extents
            note.remove()
            cover = sum(_overlap(box, other) for other in taken) + 10 * _outside(box, frame)
            cover += sum(50 * _crosses(axis.transData.transform(point), box, other) for other in written)
            tried.append((cover, len(tried), box))
            if not tried[-1][0]:
                break
        _, index, box = min(tried, key=lambda found: found[:2])
        distance, angle = DISTANCES[index // len(ANGLES)], ANGLES[index % len(ANGLES)]
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        _write(axis, text, point, colour, distance, angle, line if distance > 12 else None)
        taken.append(box)
        written.append(box)


def _write(axis, text, point, colour, distance, angle, line=None):
    x, y = (distance * part(math.radians(angle)) for part in (math.cos, math.sin))
    ha = "center" if abs(x) < 1e-6 else "left" if x > 0 else "right"
    va = "center" if abs(y) < 1e-6 else "bottom" if y > 0 else "top"
    look = {"fontsize": 8, "color": colour, "ha": ha, "va": va, "arrowprops": line}
    return axis.annotate(text, point, (x, y), textcoords="offset points", **look)


def _crosses(point, box, other):
    """Whether the way from a point to the middle of a box leads through another box."""
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    way = [[a + step / 10 * (b - a) for a, b in zip(point, middle, strict=True)] for step in range(1, 10)]
    return any(other[0] < x < other[2] and other[1] < y < other[3] for x, y in way)


def _overlap(a, b):
    """Area that two boxes (left, bottom, right, top) share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box, frame):
    """How far a box lies outside of a frame, in pixels."""
    return max(0, frame[0] - box[0], box[2] - frame[2], frame[1] - box[1], box[3] - frame[3])
