"""What all figures share: axes, rows and legends, and that nothing global changes."""

from __future__ import annotations

import sys

import matplotlib as mpl
import pytest
from figures import draw, texts
from matplotlib import pyplot
from matplotlib.text import Text

from pyro_pmf import PMFError
from pyro_pmf.criticism.plots import (
    plot_calibration,
    plot_elbo,
    plot_error_by_sd,
    plot_factor_norms,
    plot_pit,
    plot_scales,
    plot_user,
    style,
)


@pytest.mark.slow
def test_all_draw_on_given_axes(posterior, split):
    figure, axes = pyplot.subplots(3, 3, layout="constrained", figsize=(20, 18))
    user = split[1].to_frame()["user"].iloc[0]
    elbo, calibrated, users, scales, pit, errors, factors, *_ = axes.flat
    assert plot_elbo(posterior, ax=elbo) is elbo
    assert plot_calibration({"VI": posterior}, split[1], ax=calibrated) is calibrated
    assert plot_user(posterior, split[1], user, ax=users) is users
    assert plot_scales(posterior, ax=scales) is scales
    assert plot_pit(posterior, split[1], ax=pit) is pit
    assert plot_error_by_sd(posterior, split[1], ax=errors) is errors
    assert plot_factor_norms(posterior, ax=factors) is factors
    assert pyplot.get_fignums() == [figure.number]
    figure.canvas.draw()


def test_change_no_defaults(posterior, split):
    before = dict(mpl.rcParams)
    plot_elbo(posterior)
    plot_calibration(posterior, split[1])
    plot_pit(posterior, split[1])
    plot_error_by_sd(posterior, split[1])
    plot_factor_norms(posterior)
    plot_scales(posterior)
    plot_user(posterior, split[1], split[1].to_frame()["user"].iloc[0])
    assert dict(mpl.rcParams) == before


FIGURES = {
    "elbo": lambda posterior, test, user: plot_elbo(posterior),
    "scales": lambda posterior, test, user: plot_scales(posterior),
    "factor_norms": lambda posterior, test, user: plot_factor_norms(posterior),
    "calibration": lambda posterior, test, user: plot_calibration(posterior, test),
    "pit": lambda posterior, test, user: plot_pit(posterior, test),
    "error_by_sd": lambda posterior, test, user: plot_error_by_sd(posterior, test),
    "user": plot_user,
}


@pytest.mark.parametrize("name", FIGURES)
def test_without_matplotlib(posterior, split, user, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PMFError, match=r"pip install 'pyro-pmf\[plots\]'"):
        FIGURES[name](posterior, split[1], user)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_no_frame(posterior, split, user, name):
    ax = FIGURES[name](posterior, split[1], user)
    assert not ax.spines["top"].get_visible()
    assert not ax.spines["right"].get_visible()


def test_axes_are_new_or_the_given_ones():
    new = style.axes_or_new(None, (4.0, 2.5))
    assert new.figure.get_size_inches().tolist() == [4.0, 2.5]
    assert style.axes_or_new(new, (9.0, 9.0)) is new
    assert new.figure.get_size_inches().tolist() == [4.0, 2.5]


def test_a_legend_names_each_label_once():
    ax = style.axes_or_new(None, (4.0, 2.5))
    for label in ("a", "b", "a"):
        ax.plot([0, 1], [0, 1], label=label)
    ax.set_title("above the legend", loc="left", pad=style.LEGEND_HEIGHT)
    style.legend_above(ax)
    draw(ax)
    assert texts(ax) == ["a", "b"]
    (title,) = (text for text in ax.findobj(Text) if text.get_text() == "above the legend")
    title, legend, box = (x.get_window_extent() for x in (title, ax.get_legend(), ax))
    assert box.y1 <= legend.y0 + 1
    assert legend.y1 <= title.y0 + 1


def test_rows_have_names_without_ticks():
    ax = style.axes_or_new(None, (4.0, 2.5))
    ax.plot([0, 1], [0, 1])
    style.style_rows(ax)
    draw(ax)
    assert not ax.spines["left"].get_visible()
    assert all(tick.tick1line.get_markersize() == 0 for tick in ax.yaxis.get_major_ticks())
    assert all(line.get_visible() for line in ax.get_xgridlines())
    assert not any(line.get_visible() for line in ax.get_ygridlines())
