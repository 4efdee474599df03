"""Figures of a fit and of its predictions. Needs matplotlib: ``pip install 'pyro-pmf[plots]'``.

Each function draws on ``ax``, or on a new figure, and returns the Axes. None changes global state:
no style, no backend, no pyplot default.
"""

from pyro_pmf.criticism.plots.of_fits import plot_elbo, plot_factor_norms, plot_scales
from pyro_pmf.criticism.plots.of_predictions import (
    plot_calibration,
    plot_error_by_sd,
    plot_pit,
    plot_user,
)
from pyro_pmf.criticism.plots.style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION

__all__ = [
    "BLUE",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "SKY",
    "VERMILLION",
    "plot_calibration",
    "plot_elbo",
    "plot_error_by_sd",
    "plot_factor_norms",
    "plot_pit",
    "plot_scales",
    "plot_user",
]
