"""Run simulation-based calibration: test whether the truth ranks like a posterior draw.

python -m benchmarks.sbc             # 500 replications of three models: half an hour

Parameters and ratings are drawn from the model's own prior. The true value of any quantity is then
an exact draw from the posterior given these ratings, so its rank among the draws of an exact
sampler is uniform (Talts, Betancourt, Simpson, Vehtari & Gelman, Validating Bayesian inference
algorithms with simulation-based calibration, 2018). Finished replications stay in sbc.csv, and a
later command continues from there.
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import chisquare
from torch import Tensor

from benchmarks import machine
from benchmarks.uniformity import Uniformity
from pyro_pmf import (
    PMF,
    Fixed,
    Gibbs,
    LogNormal,
    NegativeBinomialLog,
    Normal,
    NormalIdentity,
    OrderedLogit,
    Posterior,
    Priors,
    Ratings,
)
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.conditions import Conditions
from pyro_pmf.inference.mcmc.chains import sample_chains
from pyro_pmf.model.running import run
from pyro_pmf.moments.chains import ess_mean
from pyro_pmf.random_state import isolated_random_state

N_RANKS = 10  # the truth exceeds 0, 1, ..., or 9 of 9 draws
THIN = 9  # sweeps for each draw that is ranked
N_WARMUP = 40  # sweeps, in which the sampler adapts
FALSE_ALARM = 0.01  # level of all tests of one model together
SIZE = {"n_users": 12, "n_items": 10, "n_ratings": 80}
SCALES = ("sigma", *(f"sigma_{site}" for site in "UVWZbcst"))
N_PAIRS = 3  # of each kind
PAIR = ("user", "item")


def known_within(factor: float = 0.3, **medians: float) -> Priors:
    """Return priors that know each scale to a factor of about two.

    So there are no narrow necks, and the ratings alone determine no scale.
    """
    scales = {name: LogNormal(median, factor) for name, median in medians.items()}
    return Priors(mu=Normal(0.0, 0.5), tau=LogNormal(1.0, factor), **scales)


_OF_FACTORS = {"sigma_U": 0.7, "sigma_V": 0.7, "sigma_W": 0.4}
_OF_BIASES = {"sigma_b": 0.5, "sigma_c": 0.5}
MODELS = {
    "ordered levels": PMF(
        2,
        users="hierarchical",
        items="hierarchical",
        likelihood=OrderedLogit(4),
        priors=known_within(
            sigma_U=1.0,
            sigma_V=1.0,
            sigma_W=0.5,
            sigma_Z=0.5,
            sigma_b=0.8,
            sigma_c=0.8,
            sigma_s=0.3,
            sigma_t=0.3,
        ),
    ),
    "counts": PMF(
        2,
        users="hierarchical",
        noise="shared",
        likelihood=NegativeBinomialLog(ceiling=math.inf),  # the prior knows no table
        priors=known_within(sigma=0.5, **_OF_FACTORS, **_OF_BIASES),
    ),
    "identity": PMF(
        2,
        users="hierarchical",
        noise="shared",
        likelihood=NormalIdentity(rounding=0.0),
        priors=known_within(sigma=0.4, **_OF_FACTORS, **_OF_BIASES),
    ),
}
FAMILIES = {  # rows of the report
    "mu": ["mu"],
    "levels": [f"below level {k}" for k in (2, 3, 4)],
    **{name: [name] for name in SCALES},
    "strength of factors": ["strength of factors"],
    "log likelihood": ["log likelihood"],
    "scores, observed pairs": [f"observed {k + 1}" for k in range(N_PAIRS)],
    "scores, other pairs": [f"unobserved {k + 1}" for k in range(N_PAIRS)],
    "held-out ratings": [f"rating {k + 1}" for k in range(N_PAIRS)],
}


def main() -> None:
    """Run the missing replications, print the report, and save it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sbc", description=__doc__)
    parser.add_argument("--replications", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of short chains
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "sbc.csv"
    found = pd.read_csv(path) if path.exists() else pd.DataFrame({"model": [], "seed": []})
    done = set(zip(found["model"], found["seed"], strict=True))
    for seed in range(options.replications):
        for name in MODELS:
            if (name, seed) in done:
                continue
            rows = pd.DataFrame(replication(name, seed))
            rows.to_csv(path, mode="a", header=not path.exists(), index=False, float_format="%.4g")
            print(f"{name}, {seed}: {rows['seconds'][0]:.1f} s", flush=True)
    rows = pd.read_csv(path)
    text = report(rows)
    (options.out / "sbc.md").write_text(text)
    draw(rows, options.out / "sbc.png")
    print(text)


def replication(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the rank of each quantity's true value among posterior draws."""
    model = MODELS[name]
    ratings, truth = simulate(model, **SIZE, seed=seed)
    ratings = ratings.to("cpu", torch.float64)
    truth = {site: value.double() for site, value in truth.items()}
    held_out = _held_out(model, ratings, truth, seed)
    method = Gibbs(n_draws=(N_RANKS - 1) * THIN, n_warmup=N_WARMUP, n_chains=1)
    started = time.process_time()
    # not `fit`, which refuses counts without a ceiling whose predictions are too wide
    drawn = sample_chains(
        model, ratings, method, Conditions(seed, torch.device("cpu"), None, False)
    )
    posterior = Posterior(**vars(drawn))
    shared = {"model": name, "seed": seed, "seconds": time.process_time() - started}
    true = quantities(truth, ratings, held_out)
    rating = run(model, truth, ratings, ratings)["rating"]["fn"]
    true["log likelihood"] = rating.log_prob(ratings.value).sum()
    draws = quantities(posterior_draws(posterior, 0), ratings, held_out)
    draws["log likelihood"] = torch.tensor(posterior.steps["log_likelihood"].to_numpy())
    for quantity, value in draws.items():
        x, at = value.numpy(), float(true[quantity])
        yield shared | {
            "quantity": quantity,
            "rank": int((x[THIN - 1 :: THIN] < at).sum()),
            "below": (x < at).mean(),
            "bias": (x.mean() - at) / x.std(),
            "ess": float(ess_mean(x[None, :, None])[0]),
        }
    generator = np.random.default_rng([seed, 2])
    sampled = posterior.sample(held_out, len(x), seed=seed)
    for k, at in enumerate(held_out["rating"]):
        yield shared | {
            "quantity": f"rating {k + 1}",
            "rank": _rank(sampled[THIN - 1 :: THIN, k], at, generator),
            "below": _rank(sampled[:, k], at, generator) / len(sampled),
        }


def _rank(draws: np.ndarray, at: float, generator: np.random.Generator) -> int:
    """Return how many draws are below a value; a draw that equals it is by chance."""
    return int((draws < at).sum() + generator.integers((draws == at).sum() + 1))


def _held_out(model: PMF, ratings: Ratings, truth: dict[str, Tensor], seed: int) -> pd.DataFrame:
    """Draw ratings of pairs outside the training ratings from the true parameters."""
    generator = np.random.default_rng([seed, 1])
    seen = ratings.user.numpy() * ratings.n_items + ratings.item.numpy()
    free = np.setdiff1d(np.arange(ratings.n_users * ratings.n_items), seen)
    cells = np.sort(generator.choice(free, N_PAIRS, replace=False))
    user, item = np.divmod(cells, ratings.n_items)
    pairs = Pairs(
        *map(torch.from_numpy, (user, item)),
        ratings.n_users,
        ratings.n_items,
        dtype=torch.float64,
    )
    with isolated_random_state(int(generator.integers(2**31))):
        rating = run(model, truth, pairs, ratings)["rating"]["fn"].sample().numpy()
    return pd.DataFrame({"user": user, "item": item, "rating": ratings.to_rating(rating)})


def scores_of(sites: dict[str, Tensor], user: Tensor, item: Tensor) -> Tensor:
    """Return mu + b_i + c_j + U_i . V_j of draws, shape (..., n_pairs).

    No rotation of the factors changes it.
    """
    score = sites["b"][..., user] + sites["c"][..., item]
    if "mu" in sites:
        score = score + sites["mu"][..., None]
    if "U" in sites:
        score = score + (sites["U"][..., user, :] * sites["V"][..., item, :]).sum(-1)
    return score


def quantities(
    sites: dict[str, Tensor], ratings: Ratings, held_out: pd.DataFrame
) -> dict[str, Tensor]:
    """Return the quantities that are ranked, each of the shape of the draws."""
    found = {name: sites[name] for name in ("mu", *SCALES) if name in sites}
    found["strength of factors"] = (
        sites["sigma_U"] * sites["sigma_V"] * sites["tau"].square().sum(-1).sqrt()
    )
    if "shares" in sites:
        below = sites["shares"].cumsum(-1)
        found |= {f"below level {k + 2}": below[..., k] for k in range(below.shape[-1] - 1)}
    score = scores_of(sites, ratings.user, ratings.item)
    other = scores_of(sites, *(torch.tensor(held_out[side].to_numpy()) for side in PAIR))
    for k in range(N_PAIRS):
        found[f"observed {k + 1}"] = score[..., k * len(ratings) // N_PAIRS]
        found[f"unobserved {k + 1}"] = other[..., k]
    return found


def posterior_draws(posterior: Posterior, n_draws: int, seed: int = 0) -> dict[str, Tensor]:
    """Return draws of all sites, float64; a posterior that consists of draws returns its own."""
    with isolated_random_state(seed):
        draws = list(posterior.draws(posterior.n_draws or n_draws))
    sites = {name: torch.stack([draw[name] for draw in draws]).double() for name in draws[0]}
    priors = getattr(posterior.model, "priors", None)
    fixed = {name: getattr(priors, name, None) for name in ("mu", *SCALES)}
    return sites | {
        name: torch.full((len(draws),), prior.value, dtype=torch.float64)
        for name, prior in fixed.items()
        if isinstance(prior, Fixed) and name not in sites
    }


def report(rows: pd.DataFrame) -> str:
    """Return the Markdown report."""
    facts = [", ".join(f"{k}: {v}" for k, v in machine.describe().items()) + "."]
    command = " ".join(["python -m benchmarks.sbc", *sys.argv[1:]])
    lines = [
        "# Simulation-based calibration of the Gibbs sampler",
        "",
        f"`{command}`, {datetime.date.today().isoformat()}",
        "",
        *facts,
        "",
        f"{rows['seed'].nunique()} replications of {SIZE['n_users']} users, {SIZE['n_items']} "
        f"items and {SIZE['n_ratings']} ratings, drawn from the prior of each model. One chain, "
        f"{N_WARMUP} sweeps before its draws; every {THIN}th of the next "
        f"{THIN * (N_RANKS - 1)} is ranked. Each table has the number of replications in which "
        f"the truth exceeds 0, 1, ..., {N_RANKS - 1} of these draws.",
        "",
        "p is the p-value of uniform ranks: by the simultaneous envelope of their empirical "
        "distribution function (Säilynoja, Bürkner & Vehtari 2022), and by chi-square. A row has "
        "the ranks of all its quantities, the smallest p of them, and the smallest median of "
        "their effective numbers of all draws. Coverage and bias (mean minus truth, in standard "
        f"deviations) are of all draws. A model fails with {FALSE_ALARM:.0%} probability though "
        "its sampler is exact.",
    ]
    for name, model in MODELS.items():
        own = rows[rows["model"] == name]
        if not own.empty:
            lines += ["", f"## {name.capitalize()}", "", f"    {model}", "", *table(own)]
    return "\n".join(lines) + "\n"


def p_values(rows: pd.DataFrame) -> pd.DataFrame:
    """Return p-values of uniform ranks by quantity, with the columns envelope and chi_square."""
    uniformity = Uniformity(rows["seed"].nunique(), N_RANKS)
    return pd.DataFrame(
        {
            quantity: {
                "envelope": uniformity.p_value(own["rank"].to_numpy()),
                "chi_square": chisquare(np.bincount(own["rank"], minlength=N_RANKS)).pvalue,
            }
            for quantity, own in rows.groupby("quantity")
        }
    ).T


def table(rows: pd.DataFrame) -> Iterator[str]:
    """Yield the verdict on one model, and the lines of its table."""
    p = p_values(rows)
    level = FALSE_ALARM / len(p)
    failed = p.index[p["envelope"] < level]
    verdict = f"**{len(failed)} of {len(p)} quantities fail**" if len(failed) else "Passes"
    seconds = rows.drop_duplicates("seed")["seconds"].mean()
    yield (
        f"{verdict}: p is to be above {level:.1g} for each of {len(p)} quantities; the smallest "
        f"is {p['envelope'].min():.2g}. A fit takes {seconds:.1f} s of processor time on average."
    )
    yield ""
    yield "| | p, envelope | p, chi-square | ranks | in 50% | in 90% | bias | effective draws |"
    yield "|---|---|---|---|---|---|---|---|"
    for family, members in FAMILIES.items():
        own = rows[rows["quantity"].isin(members)]
        if own.empty:
            continue
        smallest = p.loc[p.index.isin(members)].min()
        mark = " **fails**" if smallest["envelope"] < level else ""
        counts = " ".join(str(n) for n in np.bincount(own["rank"], minlength=N_RANKS))
        inside = [(own["below"] - 0.5).abs().le(width / 2).mean() for width in (0.5, 0.9)]
        bias = effective = ""
        if own["ess"].notna().any():
            bias = f"{own['bias'].mean():+.2f}"
            effective = f"{own.groupby('quantity')['ess'].median().min():.0f}"
        yield (
            f"| {family} | {smallest['envelope']:.2g}{mark} | {smallest['chi_square']:.2g} "
            f"| {counts} | {inside[0]:.0%} | {inside[1]:.0%} | {bias} | {effective} |"
        )


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Draw the difference between each rank distribution and the uniform one."""
    from matplotlib import pyplot

    from pyro_pmf.criticism.plots import BLUE, GREEN, VERMILLION

    colors = dict(zip(MODELS, (BLUE, GREEN, VERMILLION), strict=True))
    uniformity = Uniformity(rows["seed"].nunique(), N_RANKS)
    level = FALSE_ALARM / rows.groupby("model")["quantity"].nunique().max()
    low, high = (x - uniformity.at for x in uniformity.envelope(level))
    figure, grid = pyplot.subplots(
        4, 4, figsize=(10, 9), sharex=True, sharey=True, layout="constrained"
    )
    panels = list(grid.flat)
    for panel, (family, members) in zip(panels, FAMILIES.items(), strict=True):
        panel.spines[["top", "right"]].set_visible(False)
        panel.fill_between(uniformity.at, low, high, color="0.88", linewidth=0)
        panel.axhline(0, color="0.5", linewidth=0.8)
        here = rows[rows["quantity"].isin(members)]
        for (name, _), own in here.groupby(["model", "quantity"]):
            counts = np.bincount(own["rank"], minlength=N_RANKS).cumsum()[:-1]
            difference = counts / len(own) - uniformity.at
            panel.plot(uniformity.at, difference, color=colors[name], linewidth=1.3)
        panel.set_title(family, loc="left", fontsize="medium")
    for name, color in colors.items():
        panels[0].plot([], [], color=color, label=name)
    figure.legend(loc="outside lower center", ncols=len(colors), frameon=False)
    figure.supylabel("ECDF minus uniform", fontsize="medium")
    for panel in panels[-4:]:
        panel.set_xlabel("rank, as a share")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
