"""Bayesian probabilistic matrix factorization in Pyro; predictions say how sure they are."""

from importlib.metadata import version

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import FitError, PMFError, RatingsError, StorageError
from pyro_pmf.fitting import Progress, fit
from pyro_pmf.inference.checkpoint import Checkpoint
from pyro_pmf.inference.methods import MAP, NUTS, VI, Gibbs
from pyro_pmf.model.likelihoods import (
    BernoulliLogit,
    Likelihood,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
)
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.priors import FactorHalfNormal, Fixed, HalfNormal, LogNormal, Normal, Priors
from pyro_pmf.posterior import Posterior, load

__version__ = version("pyro-pmf")

__all__ = [
    "MAP",
    "NUTS",
    "PMF",
    "VI",
    "BernoulliLogit",
    "Checkpoint",
    "FactorHalfNormal",
    "FitError",
    "Fixed",
    "Gibbs",
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
    "__version__",
    "fit",
    "load",
]
