"""Real data sets as tables, and simulated ratings."""

from pyro_pmf.datasets.insteval import insteval
from pyro_pmf.datasets.lastfm import lastfm_hetrec
from pyro_pmf.datasets.movielens import movielens
from pyro_pmf.datasets.simulated import simulate

__all__ = ["insteval", "lastfm_hetrec", "movielens", "simulate"]
