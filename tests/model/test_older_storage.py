"""A folder that the first version saved, format 2, predicts what it predicted then."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from pyro_pmf import PMF, Fixed, HalfNormal, Normal, NormalSigmoid, Priors, load
from pyro_pmf.model.learned import Converged

PRIORS = {
    "mu": {"family": "Normal", "loc": 0.0, "scale": 1.0},
    "sigma": {"family": "HalfNormal", "scale": 0.5},
    "sigma_U": {"family": "HalfNormal", "scale": 1.0},
    "sigma_V": {"family": "HalfNormal", "scale": 1.0},
    "sigma_W": {"family": "HalfNormal", "scale": 0.3},
    "sigma_Z": {"family": "HalfNormal", "scale": 0.3},
    "sigma_b": {"family": "HalfNormal", "scale": 1.0},
    "sigma_c": {"family": "HalfNormal", "scale": 1.0},
    "sigma_s": {"family": "HalfNormal", "scale": 0.5},
    "sigma_t": {"family": "HalfNormal", "scale": 0.5},
}
HEADER = {
    "format": 2,
    "version": "0.1.0",
    "model": {
        "n_factors": 1,
        "users": "hierarchical",
        "items": "independent",
        "biases": True,
        "divisor": "sqrt_count",
        "noise": "user",
        "priors": PRIORS,
        "likelihood": {"family": "NormalSigmoid"},
    },
    "latents": {
        **dict.fromkeys(("sigma_U", "sigma_V", "sigma_W"), "Tensor"),
        **dict.fromkeys(("sigma", "sigma_b", "sigma_c", "sigma_s"), "LogGaussian"),
        **dict.fromkeys(("mu", "b", "c", "W", "U", "V", "s"), "Gaussian"),
    },
    "n_draws": None,
    "n_chains": None,
    "converged": True,
    "scale": [1.0, 5.0],
    "transform": {"family": "Affine", "origin": 1.0, "width": 4.0, "bounds": [1.0, 5.0]},
    "dtype": "float64",
}
LATENTS = {
    "U.mean": [[-1.0], [0.8]],
    "U.var": [[0.1], [0.09]],
    "V.mean": [[0.7], [-0.5], [0.2]],
    "V.var": [[0.08], [0.09], [0.07]],
    "W.mean": [[0.3], [0.1], [-0.2]],
    "W.var": [[0.04], [0.05], [0.03]],
    "b.mean": [-0.12, 0.13],
    "b.var": [0.07, 0.08],
    "c.mean": [-0.44, 0.28, 0.16],
    "c.var": [0.07, 0.08, 0.09],
    "mu.mean": 0.1,
    "mu.var": 0.12,
    "s.mean": [0.1, -0.2],
    "s.var": [0.02, 0.03],
    "sigma.log_mean": -1.8,
    "sigma.log_var": 0.01,
    "sigma_U": 0.25,
    "sigma_V": 0.3,
    "sigma_W": 0.2,
    "sigma_b.log_mean": -1.1,
    "sigma_b.log_var": 0.01,
    "sigma_c.log_mean": -1.2,
    "sigma_c.log_var": 0.01,
    "sigma_s.log_mean": -1.8,
    "sigma_s.log_var": 0.01,
}
PAIRS = pd.DataFrame({"user": ["ann", "bob", "ann"], "item": [9, 8, 8]})
# Printed by the first version from this folder.
PREDICTED = {
    "mean": [2.944641236, 3.101288749, 3.671554029],
    "sd": [0.935468439, 0.793637225, 0.914782961],
    "lower": [1.412633678, 1.792788713, 2.143012939],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "posterior.json").write_text(json.dumps(HEADER))
    tensors = {name: torch.tensor(x, dtype=torch.float64) for name, x in LATENTS.items()}
    save_file(tensors, tmp_path / "latents.safetensors")
    tables = {
        "users": {"id": ["ann", "bob"]},
        "items": {"id": [7, 8, 9]},
        "ratings": {"user": [0, 0, 1, 1], "item": [0, 2, 0, 1], "rating": [1.0, 4.0, 2.0, 5.0]},
        "steps": {"step": [1, 2], "elbo": [-9.0, -8.0], "seconds": [0.1, 0.2]},
    }
    for name, columns in tables.items():
        pd.DataFrame(columns).to_parquet(tmp_path / f"{name}.parquet", index=False)
    return tmp_path


def test_it_is_the_model_without_scales_of_factors(folder):
    posterior = load(folder)
    priors = {
        name: HalfNormal(x["scale"]) for name, x in PRIORS.items() if x["family"] == "HalfNormal"
    }
    assert posterior.model == PMF(
        1,
        users="hierarchical",
        means=False,
        noise="user",
        priors=Priors(mu=Normal(0.0, 1.0), tau=Fixed(1.0), **priors),
        likelihood=NormalSigmoid(rounding=None),
    )
    assert posterior.history is None
    assert posterior.converged == Converged(True, True)
    assert posterior.ratings.recorded.gap == 1.0


def test_it_predicts_what_it_did(folder):
    predicted = load(folder).predict(PAIRS)
    for name, values in PREDICTED.items():
        np.testing.assert_allclose(predicted[name], values, rtol=1e-6)


def test_it_is_saved_again_in_the_present_format(folder, tmp_path):
    posterior = load(folder)
    posterior.save(tmp_path / "again.pmf")
    again = load(tmp_path / "again.pmf")
    assert again.model == posterior.model
    pd.testing.assert_frame_equal(again.predict(PAIRS), posterior.predict(PAIRS))
