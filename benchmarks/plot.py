"""Draw RMSE against seconds: one panel for each data set, one curve or marker for each method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.methods import BY_KEY
from benchmarks.report import Run, group

WIDTH, HEIGHT = 3.5, 4.2  # of a panel, inches
LEGEND_COLUMNS = 4
HIGHEST = 1.25  # end of the y axis at most, times the lowest RMSE; points above stand at the edge
COLORS = {
    "ours": "tab:red",
    "myfm_gibbs": "tab:blue",
    "surprise_svd": "tab:green",
    "cornac_mf": "tab:orange",
    "cmfrec_als": "tab:purple",
    "article": "tab:brown",
    "plain_pyro": "tab:gray",
}
LINES = ("-", "--", ":")
MARKERS = ("o", "s", "^", "D")


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the first seed of each data set into a PNG file."""
    done = [run for run in results["runs"] if "error" not in run]
    names = list(dict.fromkeys(run["data"] for run in done))
    if not names:
        return
    looks = _looks(done)
    rows = -(-len(looks) // LEGEND_COLUMNS)
    size = max(WIDTH * len(names), 8.5), HEIGHT + 0.2 * rows
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(
            1, len(names), figsize=size, squeeze=False, layout="constrained"
        )
        for panel, name in zip(axes[0], names, strict=True):
            runs = [run for run in done if run["data"] == name]
            first = min(run["seed"] for run in runs)
            _panel(panel, [run for run in runs if run["seed"] == first], looks)
            panel.set_title(name)
            panel.set_xlabel("seconds of fitting")
        axes[0, 0].set_ylabel("RMSE on held-out ratings")
        figure.legend(
            handles=[Line2D([], [], label=BY_KEY[key].name, **looks[key]) for key in looks],
            loc="outside lower center",
            ncols=LEGEND_COLUMNS,
            frameon=False,
            fontsize=8.5,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
        pyplot.close(figure)


def _looks(runs: list[Run]) -> dict[str, dict[str, Any]]:
    """Return the color and the style of each method; only methods with a curve have a line."""
    looks: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for key, own in group(runs).items():
        module = BY_KEY[key].module
        n = counts[module] = counts.get(module, -1) + 1
        has_curve = any(len(run["curve"]) > 1 for run in own)
        looks[key] = {
            "color": COLORS[module],
            "linestyle": LINES[n % len(LINES)] if has_curve else "none",
            "linewidth": 2.2 if module == "ours" else 1.3,
            "marker": MARKERS[n % len(MARKERS)],
            "markersize": 6,
        }
    return looks


def _panel(panel: Axes, runs: list[Run], looks: dict[str, dict[str, Any]]) -> None:
    lowest = min(error for run in runs for _, error in run["curve"])
    final = [run["rmse"] for run in runs]
    top = min(max(final) + 0.1 * (max(final) - lowest) + 0.01 * lowest, HIGHEST * lowest)
    for run in runs:
        seconds, errors = zip(*run["curve"], strict=True)
        panel.plot(seconds, errors, markevery=[-1], **looks[run["method"]])
        if errors[-1] > top:
            look = {**looks[run["method"]], "clip_on": False}
            panel.plot(seconds[-1:], [top], **look)
            panel.annotate(
                f"{errors[-1]:.2f}",
                (seconds[-1], top),
                (0, -8),
                textcoords="offset points",
                ha="center",
                va="top",
                rotation=90,
                fontsize=8,
            )
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_ylim(lowest - 0.05 * (top - lowest), top)
    panel.grid(alpha=0.3)
