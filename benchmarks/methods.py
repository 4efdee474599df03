"""The methods: their settings, and where these are documented."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

REFERENCE = "vi-both"
MYFM_IDS = "myfm-ids"
MYFM_BOTH = "myfm-both"
LIBRARIES = ("Surprise", "cornac", "cmfrec")  # the best method of each is compared


@dataclass(frozen=True)
class Method:
    """A method of one package with one choice of settings.

    Attributes
    ----------
    key, name : str
        For the command line, and for tables.
    module : str
        In `benchmarks.peers`; its function ``fit`` receives ``options``.
    options : dict
    source : str
        Where the settings are documented.
    packages : tuple of str
        Distributions whose versions are reported.
    slow : bool
        Whether only the first seed is run by default.
    curve_apart : bool
        Whether a second fit, in another process, records the curve.
    """

    key: str
    name: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    source: str = "defaults"
    packages: tuple[str, ...] = ()
    slow: bool = False
    curve_apart: bool = False


def _ours(key: str, name: str, options: dict[str, Any]) -> Method:
    source = "defaults of pyro_pmf.fit"
    packages = ("pyro-pmf", "pyro-ppl", "torch")
    return Method(key, f"pyro-pmf {name}", "ours", options, source, packages, curve_apart=True)


def _myfm(key: str, name: str, source: str, slow: bool = False, **options: Any) -> Method:
    return Method(key, f"myFM, {name}", "myfm_gibbs", options, source, ("myfm",), slow)


def _surprise(key: str, algorithm: str, source: str) -> Method:
    options = {"algorithm": algorithm, "cache_ratings": True}
    if algorithm == "SVD":
        del options["cache_ratings"]
    name = algorithm.replace("pp", "++")
    return Method(key, f"Surprise {name}", "surprise_svd", options, source, ("scikit-surprise",))


def _cornac(key: str, name: str, source: str = "defaults", **options: Any) -> Method:
    return Method(key, f"cornac {name}", "cornac_mf", options, source, ("cornac",))


def _cmfrec(key: str, name: str, source: str = "defaults", **options: Any) -> Method:
    return Method(key, f"cmfrec{name}", "cmfrec_als", options, source, ("cmfrec",))


_BOTH = {"users": "hierarchical", "items": "hierarchical"}

METHODS = [
    _ours("vi-both", "VI, both sides", _BOTH),
    _ours("vi-shared", "VI, both sides, shared noise", {"noise": "shared", **_BOTH}),
    _ours("vi", "VI", {}),
    _ours("map-both", "MAP, both sides", {"method": "map", **_BOTH}),
    # The example of myFM's README, on MovieLens-100K, has rank 8 and 100 iterations.
    _myfm(
        MYFM_IDS, "ids only", "README, MovieLens-100K, twice the iterations", rank=8, n_iter=200
    ),
    # The example with these blocks has 512 iterations and by default rank 10.
    _myfm(
        "myfm-svdpp",
        "SVD++ block",
        "features svdpp of examples/ml-100k-regression.py",
        slow=True,
        rank=32,
        n_iter=512,
        items_of_user=True,
    ),
    _myfm(
        MYFM_BOTH,
        "both blocks",
        "features timesvdpp_flipped of examples/ml-100k-regression.py, without time",
        rank=10,
        n_iter=300,
        items_of_user=True,
        users_of_item=True,
    ),
    # The benchmark in Surprise's README uses defaults. SVD++ has the lowest RMSE there.
    _surprise("surprise-svd", "SVD", "defaults, as in the README's benchmark"),
    _surprise("surprise-svdpp", "SVDpp", "defaults, as in the README's benchmark"),
    # The README of cornac, on MovieLens-100K, gives both models settings of their own.
    _cornac("cornac-mf-defaults", "MF, defaults", model="MF"),
    _cornac(
        "cornac-mf",
        "MF",
        "README, MovieLens-100K",
        model="MF",
        k=10,
        max_iter=25,
        learning_rate=0.01,
        lambda_reg=0.02,
        use_bias=True,
    ),
    _cornac("cornac-pmf-defaults", "PMF, defaults", model="PMF"),
    _cornac(
        "cornac-pmf",
        "PMF",
        "README, MovieLens-100K",
        model="PMF",
        k=10,
        max_iter=100,
        learning_rate=0.001,
        lambda_reg=0.001,
    ),
    _cmfrec("cmfrec-defaults", ", defaults", verbose=False),
    # The vignette of cmfrec's R version is on MovieLens-100K.
    _cmfrec("cmfrec", "", "vignette, MovieLens-100K", k=25, lambda_=0.1, scale_lam=True),
    # Lowest RMSE of benchmark/benchmark_explicit_cmfrec.ipynb (MovieLens-10M); the documentation
    # recommends implicit features for small data.
    _cmfrec(
        "cmfrec-implicit",
        ", implicit features",
        "benchmark notebook, variation 5",
        k=50,
        lambda_=0.05,
        scale_lam=True,
        niter=15,
        use_cg=False,
        add_implicit_features=True,
    ),
    Method(
        "article",
        "Dense PyTorch, as in the article",
        "article",
        {
            "n_factors": 30,
            "epochs": 1000,
            "learning_rate": 0.03,
            "sigma": 0.2,
            "sigma_U": 0.3,
            "sigma_V": 0.3,
        },
        "the article; sigma = 0.2 is near the spread of ratings about user and item means",
        ("torch",),
        slow=True,
    ),
    Method(
        "plain-pyro",
        "Plain Pyro, AutoNormal",
        "plain_pyro",
        {"n_factors": 10, "steps": 700, "learning_rate": 0.03},
        "the learning rate and the number of factors of pyro_pmf",
        ("pyro-ppl", "torch"),
    ),
]

BY_KEY = {method.key: method for method in METHODS}
