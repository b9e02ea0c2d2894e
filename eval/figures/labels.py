"""Texts beside groups of marks, each where it covers nothing, or least."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import cast

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from eval.figures.series import Point

# Where a text may stand: points from its group, and the side of it.
DISTANCES = (2, 6, 11, 17, 24, 32, 41)
SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
FAR = 7  # from so many points on, a line leads from the text to its group
MARK = 3  # half the size of a mark in points


def place(axes: Axes, groups: Mapping[str, Sequence[Point]], points: Sequence[Point]) -> list[Annotation]:
    """Write the name of each group of points beside it, clear of all `points`, their error bars and other names.

    The figure must be complete otherwise: what is drawn later is not seen, and limits that change move the marks.
    """
    cast(Figure, axes.figure).draw_without_rendering()
    taken = [_box(axes, [point]) for point in points]
    written = []
    for text, members in groups.items():
        around = _box(axes, members)
        tried = [_write(axes, text, around, distance, side) for distance, side in product(DISTANCES, SIDES)]
        best = min(tried, key=lambda one: (_covered(_extent(one), taken, axes.bbox), _distance(_extent(one), around)))
        for one in tried:
            if one is not best:
                one.remove()
        taken.append(_extent(best))
        written.append(best)
    return written


def _write(axes: Axes, text: str, group: Bbox, distance: float, side: tuple[int, int]) -> Annotation:
    """`text` at a distance from one side, or corner, of a group's box."""
    right, up = side
    edge = (group.x0 + group.width * (1 + right) / 2, group.y0 + group.height * (1 + up) / 2)
    annotation = axes.annotate(
        text,
        tuple(axes.transData.inverted().transform(edge)),
        xytext=(distance * right, distance * up),
        textcoords="offset points",
        horizontalalignment=("right", "center", "left")[right + 1],
        verticalalignment=("top", "center", "bottom")[up + 1],
        arrowprops={"arrowstyle": "-", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0} if distance >= FAR else None,
    )
    annotation.set_in_layout(False)  # else the frame would move away from under the marks
    return annotation


def _extent(annotation: Annotation) -> Bbox:
    """What the text covers of the canvas, in pixels."""
    canvas = cast(FigureCanvasAgg, cast(Figure, annotation.figure).canvas)
    annotation.update_positions(canvas.get_renderer())
    return Text.get_window_extent(annotation, canvas.get_renderer())  # without the leading line


def _box(axes: Axes, points: Sequence[Point]) -> Bbox:
    """What marks and their error bars cover, in pixels."""
    size = MARK * cast(Figure, axes.figure).dpi / 72
    ends = [(point.x, point.mean + sign * (point.deviation or 0)) for point in points for sign in (-1, 1)]
    box = Bbox.null()
    box.update_from_data_xy(axes.transData.transform(ends))
    return box.padded(size)


def _covered(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> float:
    """The area that a text would share with what is there, or have outside of the frame."""
    within = Bbox.intersection(box, frame)
    outside = _area(box) - (_area(within) if within else 0)
    shared = (Bbox.intersection(box, other) for other in taken)
    return outside + sum(_area(part) for part in shared if part)


def _distance(box: Bbox, group: Bbox) -> float:
    """From the middle of a text to the nearest point of its group's box."""
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    return math.hypot(x - min(max(x, group.x0), group.x1), y - min(max(y, group.y0), group.y1))


def _area(box: Bbox) -> float:
    return float(box.width * box.height)
