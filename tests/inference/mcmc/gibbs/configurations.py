"""Models that between them have every option of a `PMF`, each with an own path of the sampler."""

from __future__ import annotations

from pyro_pmf import (
    PMF,
    BernoulliLogit,
    Fixed,
    HalfNormal,
    LogNormal,
    NegativeBinomialLog,
    Normal,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Priors,
)

BOTH = {"users": "hierarchical", "items": "hierarchical"}
COUNTS = Priors(  # counts of a few hundred at most
    mu=Normal(0.0, 1.0),
    sigma=HalfNormal(0.5),
    sigma_U=HalfNormal(0.5),
    sigma_V=HalfNormal(0.5),
    sigma_b=HalfNormal(0.3),
    sigma_c=HalfNormal(0.3),
)
LOG_NORMAL = Priors(
    mu=Fixed(0.2),
    sigma=LogNormal(0.4, 0.5),
    tau=LogNormal(1.0, 0.4),
    sigma_U=LogNormal(0.6, 0.4),
    sigma_b=LogNormal(0.5, 0.4),
    sigma_s=LogNormal(0.3, 0.4),
)
PARTLY_FIXED = Priors(sigma_V=Fixed(0.7), tau=Fixed(1.3), sigma=LogNormal(0.5, 0.5))
MODELS = {
    "ordered": PMF(2, likelihood=OrderedLogit(4), **BOTH),
    "ordered, history": PMF(1, likelihood=OrderedLogit(3), noise="item", biases="user", **BOTH),
    "ordered, no factors": PMF(0, likelihood=OrderedLogit(3)),
    "sigmoid": PMF(2, likelihood=NormalSigmoid(0.0), **BOTH),
    "sigmoid, rounded": PMF(2, likelihood=NormalSigmoid(0.5), means=False, **BOTH),
    "sigmoid, no biases": PMF(
        1, likelihood=NormalSigmoid(0.25), users="hierarchical", biases=False, noise="shared"
    ),
    "sigmoid, log-normal": PMF(
        1,
        likelihood=NormalSigmoid(0.0),
        users="hierarchical",
        biases="user",
        divisor="count",
        noise="user",
        means=False,
        priors=LOG_NORMAL,
    ),
    "identity": PMF(2, likelihood=NormalIdentity(0.0), **BOTH),
    "identity, independent": PMF(2, likelihood=NormalIdentity(0.3), noise="item", biases="item"),
    "identity, partly fixed": PMF(
        2,
        likelihood=NormalIdentity(0.0),
        items="hierarchical",
        biases=False,
        divisor="count",
        means=False,
        noise="shared",
        priors=PARTLY_FIXED,
    ),
    "Bernoulli": PMF(2, likelihood=BernoulliLogit(), users="hierarchical", noise="user"),
    "counts": PMF(2, likelihood=NegativeBinomialLog(), noise="shared", priors=COUNTS, **BOTH),
    "counts, ceiling": PMF(
        2, likelihood=NegativeBinomialLog(ceiling=2.0), noise="item", priors=COUNTS, **BOTH
    ),
}
