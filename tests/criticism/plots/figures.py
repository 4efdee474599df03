"""What tests read off a figure."""

from __future__ import annotations


def draw(ax):
    """Render the figure, so that whatever fails only then fails here."""
    ax.figure.canvas.draw()
    return ax


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def inside_the_figure(ax):
    """Return whether every text lies wholly on the canvas."""
    draw(ax)
    canvas = ax.figure.bbox
    low, high = sorted(ax.get_ylim())
    ticks = [tick for tick in ax.get_yticklabels() if low <= tick.get_position()[1] <= high]
    artists = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts, *ticks]
    boxes = [a.get_window_extent() for a in artists if a.get_text()]
    if ax.get_legend() is not None:
        boxes.append(ax.get_legend().get_window_extent())
    return all(
        canvas.x0 <= box.x0 + 1
        and box.x1 - 1 <= canvas.x1
        and canvas.y0 <= box.y0 + 1
        and box.y1 - 1 <= canvas.y1
        for box in boxes
    )
