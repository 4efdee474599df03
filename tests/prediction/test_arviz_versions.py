"""ArviZ, which is imported when it is first needed, and what its two major versions share."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from pyro_pmf import PMF, VI, Ratings, fit
from pyro_pmf.prediction import arviz_versions

FRAME = pd.DataFrame(
    {
        "user": np.repeat(["ann", "bob", "cyd"], 4),
        "item": np.tile([3, 1, 4, 15], 3),
        "rating": np.random.default_rng(0).integers(1, 6, 12).astype(float),
    }
)


@pytest.fixture(scope="module")
def posterior():
    model = PMF(1, noise="shared")
    return fit(
        model, Ratings.from_frame(FRAME), VI(max_steps=5, learn_scales=None), progress=False
    )


# The import

USE = """
import sys
import warnings

import numpy as np
import pandas as pd


def require_neither(when):
    found = {"arviz", "matplotlib"} & {name.partition(".")[0] for name in sys.modules}
    assert not found, f"{when} imports {found}"


import pyro_pmf
require_neither("import pyro_pmf")
import pyro_pmf.criticism
require_neither("import pyro_pmf.criticism")
import pyro_pmf.criticism.plots
require_neither("import pyro_pmf.criticism.plots")

warnings.simplefilter("error")  # such as the FutureWarning with which ArviZ 0.23 announces 1
from pyro_pmf import PMF, VI, Ratings, fit

frame = pd.DataFrame({"user": [0, 0, 1, 1], "item": [0, 1, 0, 1], "rating": [1.0, 2, 3, 5]})
posterior = fit(PMF(0, noise="shared"), Ratings.from_frame(frame), VI(max_steps=3), progress=False)
posterior.evaluate(frame)
require_neither("a fit")

summary = posterior.summary()
assert "arviz" in sys.modules
assert np.isfinite(summary.loc["sigma", "mean"])
print("summary of", *sorted(summary.index))
"""


@pytest.mark.slow
def test_a_fresh_interpreter_imports_arviz_only_for_a_summary():
    """Import, fit and evaluate without ArviZ and Matplotlib; then summarize without a warning."""
    done = subprocess.run(
        [sys.executable, "-c", USE], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "summary of mu sigma sigma_b sigma_c\n"


def test_arviz_is_the_module():
    import arviz

    assert arviz_versions.arviz() is arviz
    assert arviz_versions.is_arviz_1() == (arviz.__version__.split(".")[0] != "0")


# What the versions share


def test_summary_has_a_row_for_each_scalar_site(posterior):
    summary = posterior.summary()
    assert set(summary.index) == set(posterior.to_arviz(n_draws=1)["posterior"].data_vars)
    assert {"mean", "sd"} <= set(summary.columns)


def test_summary_is_of_90_percent_intervals(posterior):
    """Check that they hold 90% of the draws and are as short as that allows."""
    data = posterior.to_arviz(n_draws=1000)
    draws = np.sort(data["posterior"]["mu"].to_numpy().ravel())
    low, high = arviz_versions.summary(data, "stats").loc["mu"].drop(["mean", "sd"])
    assert ((low <= draws) & (draws <= high)).mean() == pytest.approx(0.9, abs=0.004)
    assert high - low == pytest.approx((draws[900:] - draws[:-900]).min(), rel=0.01)


def test_data_have_groups_and_dimensions():
    groups = {"posterior": {"x": np.arange(6.0).reshape(1, 2, 3)}}
    data = arviz_versions.from_dict(groups, coords={"user": ["a", "b", "c"]}, dims={"x": ["user"]})
    x = data["posterior"]["x"]
    assert x.dims == ("chain", "draw", "user")
    assert x.sel(user="b").to_numpy().tolist() == [[1.0, 4.0]]


def test_only_the_named_warnings_are_suppressed():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with arviz_versions.quiet("Found chain"):
            warnings.warn("Found chain dimension", UserWarning, stacklevel=1)
            warnings.warn("old", DeprecationWarning, stacklevel=1)
            warnings.warn("Something else", UserWarning, stacklevel=1)
            warnings.warn("Found chain dimension", RuntimeWarning, stacklevel=1)
    assert [str(each.message) for each in said] == ["Something else", "Found chain dimension"]
    assert said[1].category is RuntimeWarning
