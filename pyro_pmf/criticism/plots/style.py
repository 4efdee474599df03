"""Style of all figures: colours, axes and legends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_pmf.errors import PMFError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: distinct for colour-blind readers, and in this order also in grey.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "0.45"

LEGEND_HEIGHT = 24  # points between axes and title


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the axes, or the axes of a new figure, without a frame.

    Parameters
    ----------
    ax : matplotlib.axes.Axes or None
        Axes to draw on.
    size : (float, float)
        Width and height of a new figure, in inches.

    Returns
    -------
    matplotlib.axes.Axes
        Axes without top and right spines.

    Raises
    ------
    PMFError
        If matplotlib is not installed.
    """
    if ax is None:
        try:
            from matplotlib import pyplot  # optional
        except ImportError as error:
            raise PMFError("Plots need matplotlib: pip install 'pyro-pmf[plots]'") from error
        _, ax = pyplot.subplots(figsize=size, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def style_rows(ax: Axes) -> None:
    """Style axes whose y axis names rows.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes to change.
    """
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)


def legend_above(ax: Axes) -> None:
    """Put a legend of one line between the axes and the title, each label once.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes to change.
    """
    handles, labels = ax.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    ax.legend(
        list(once.values()),
        list(once),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(once),
        frameon=False,
        fontsize="small",
        borderpad=0.2,
        borderaxespad=0.1,
        columnspacing=1.2,
        handlelength=1.2,
        handletextpad=0.4,
    )
