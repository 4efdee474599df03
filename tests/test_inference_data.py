"""ArviZ data: dimensions, coordinates and values, on ArviZ 0.x and 1."""

import arviz
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pyro_pmf import PMF, PMFError, Ratings, fit
from pyro_pmf.inference_data import scale_summary

FRAME = pd.DataFrame(
    {
        "user": np.repeat(["ann", "bob", "cyd", "dan"], 5),
        "item": np.tile([3, 1, 4, 15, 9], 4),
        "rating": np.random.default_rng(0).integers(1, 6, 20).astype(float),
    }
)


@pytest.fixture(scope="module")
def posterior():
    ratings = Ratings.from_frame(FRAME)
    model = PMF(n_factors=2, users="hierarchical")
    return fit(model, ratings, max_steps=10, progress=False)


def test_scalars_by_default(posterior):
    data = posterior.to_arviz(num_samples=400)
    scalars = {"sigma", "mu", "sigma_U", "sigma_V", "sigma_W", "sigma_b", "sigma_c"}
    assert set(data["posterior"].data_vars) == scalars
    assert dict(data["posterior"].sizes) == {"chain": 1, "draw": 400}
    q = posterior.latents["sigma"]
    draws = np.log(data["posterior"]["sigma"].to_numpy().ravel())
    # Standard errors of the mean and of the sd are sd / 20 and sd / 28: 5 of them.
    sd = q.log_var.sqrt().item()
    assert draws.mean() == pytest.approx(q.log_mean.item(), abs=sd / 4)
    assert draws.std() == pytest.approx(sd, rel=0.18)


def test_sites_have_ids_as_coordinates(posterior):
    data = posterior.to_arviz(sites=["U", "W", "b", "sigma"], num_samples=300)["posterior"]
    assert data["U"].dims == ("chain", "draw", "user", "factor")
    assert data["W"].dims == ("chain", "draw", "item", "factor")
    assert data["b"].dims == ("chain", "draw", "user")
    assert data["sigma"].dims == ("chain", "draw")
    assert list(data["user"].to_numpy()) == ["ann", "bob", "cyd", "dan"]
    assert list(data["item"].to_numpy()) == [1, 3, 4, 9, 15]
    b = posterior.latents["b"]
    error = data["b"].sel(user="cyd").mean().item() - b.mean[2].item()
    assert abs(error) < 5 * b.var[2].sqrt().item() / np.sqrt(300)


def test_groups_about_ratings(posterior):
    pairs = FRAME.iloc[[7, 0, 13]]
    data = posterior.to_arviz(pairs, num_samples=200)
    assert data["observed_data"]["rating"].to_numpy().tolist() == pairs["rating"].tolist()
    assert data["constant_data"]["user_id"].to_numpy().tolist() == ["bob", "ann", "cyd"]
    predicted = data["posterior_predictive"]["rating"]
    assert predicted.shape == (1, 200, 3)
    expected = posterior.predict(pairs)
    error = (predicted.mean(["chain", "draw"]) - expected["mean"].to_numpy()) / expected["sd"]
    assert np.abs(error).max() < 5 / np.sqrt(200)
    # log E exp(log likelihood) is the log predictive density, in rating units.
    pointwise = np.exp(data["log_likelihood"]["rating"].to_numpy()[0]).mean(0)
    normal = scipy.stats.norm.pdf(pairs["rating"], expected["mean"], expected["sd"])
    np.testing.assert_allclose(pointwise, normal, rtol=0.15)


def test_pairs_without_ratings_have_no_likelihood(posterior):
    data = posterior.to_arviz(FRAME[["user", "item"]], num_samples=5)
    groups = set(data.groups()) if callable(data.groups) else set(data.groups)
    names = {name.strip("/") for name in groups}
    assert {"posterior", "posterior_predictive"} <= names
    assert not {"observed_data", "log_likelihood"} & names


def test_unknown_site(posterior):
    with pytest.raises(PMFError, match="nonsense"):
        posterior.to_arviz(sites=["nonsense"], num_samples=2)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
def test_loo_runs(posterior):
    data = posterior.to_arviz(FRAME, num_samples=500)
    loo = arviz.loo(data)
    elpd = loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd
    # The expected log density of 20 ratings on 1 to 5 is of this size, and p_loo costs something.
    in_sample = posterior.evaluate(FRAME)["nll"] * -20
    assert in_sample - 20 < elpd < in_sample


def test_summary_has_no_chain_diagnostics(posterior):
    summary = scale_summary(posterior)
    assert "r_hat" not in summary.columns
    assert summary.loc["sigma", "mean"] == pytest.approx(
        posterior.latents["sigma"].mean.item(), rel=0.02
    )
