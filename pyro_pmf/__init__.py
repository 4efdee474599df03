"""Bayesian probabilistic matrix factorization in Pyro; predictions say how sure they are."""

from pyro_pmf.errors import FitError, PMFError, RatingsError, StorageError
from pyro_pmf.inference import fit
from pyro_pmf.likelihoods import (
    BernoulliLogit,
    Likelihood,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
)
from pyro_pmf.models import PMF
from pyro_pmf.posterior import Posterior, load
from pyro_pmf.priors import Fixed, HalfNormal, LogNormal, Normal, Priors
from pyro_pmf.ratings import Ratings
from pyro_pmf.svi import Progress

__all__ = [
    "PMF",
    "BernoulliLogit",
    "FitError",
    "Fixed",
    "HalfNormal",
    "Likelihood",
    "LogNormal",
    "NegativeBinomialLog",
    "Normal",
    "NormalIdentity",
    "NormalSigmoid",
    "OrderedLogit",
    "PMFError",
    "Posterior",
    "Priors",
    "Progress",
    "Ratings",
    "RatingsError",
    "StorageError",
    "fit",
    "load",
]
