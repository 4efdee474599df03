"""Criticism of fitted models: by ArviZ, by held-out ratings, by figures."""

from pyro_pmf.criticism.leave_one_out import compare, loo, plot_loo_pit, plot_ppc
from pyro_pmf.criticism.prior_sensitivity import prior_sensitivity
from pyro_pmf.criticism.ranking import evaluate_ranking
from pyro_pmf.criticism.selection import cross_validate

__all__ = [
    "compare",
    "cross_validate",
    "evaluate_ranking",
    "loo",
    "plot_loo_pit",
    "plot_ppc",
    "prior_sensitivity",
]
