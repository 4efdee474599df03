"""Run simulation-based calibration: test whether the truth ranks like a posterior draw.

python -m benchmarks.sbc             # 100 replications: about an hour on one core

Parameters and ratings are drawn from the model's own prior. The true value of any quantity is then
an exact draw from the posterior given these ratings, so its rank among the draws of an exact
sampler is uniform (Talts, Betancourt, Simpson, Vehtari & Gelman, Validating Bayesian inference
algorithms with simulation-based calibration, 2018). Finished replications stay in sbc.csv, and a
later command continues from there.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import arviz
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.uniformity import Uniformity
from pyro_pmf import HMC, NUTS, PMF, VI, Fixed, LogNormal, Normal, Posterior, Priors, Ratings, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.random_state import isolated_random_state

N_RANKS = 60  # the truth exceeds 0, 1, ..., or 59 of 59 draws
SAMPLERS = {"NUTS": NUTS, "HMC": HMC}
THIN = {"NUTS": 4, "HMC": 16}  # every 4th, or 16th, draw of a chain is ranked
N_VI_DRAWS = 1000  # for means, standard deviations and coverage
FALSE_ALARM = 0.01  # level of all tests of one method together
BY_NUTS, BY_HMC, BY_VI, SCALES_KNOWN = METHODS = (*SAMPLERS, "VI", "VI, scales known")

# The priors know each standard deviation to a factor of about two. So there are no narrow necks,
# and the ratings alone determine none of them.
PRIORS = Priors(
    mu=Normal(0.0, 0.5),
    sigma=LogNormal(0.15, 0.3),
    sigma_U=LogNormal(0.5, 0.3),
    sigma_V=LogNormal(0.5, 0.3),
    sigma_W=LogNormal(0.3, 0.3),
    sigma_b=LogNormal(0.4, 0.3),
    sigma_c=LogNormal(0.4, 0.3),
)
MODEL = PMF(2, users="hierarchical", noise="shared", priors=PRIORS)
SIZE = {"n_users": 12, "n_items": 10, "n_ratings": 80}
SCALES = ("sigma", "sigma_b", "sigma_c", "sigma_U", "sigma_V", "sigma_W")
N_PAIRS = 3  # of each kind
PAIR = ("user", "item")
FAMILIES = {  # rows of the report
    "mu": ["mu"],
    **{name: [name] for name in SCALES},
    "log likelihood": ["log likelihood"],
    "scores, observed pairs": [f"observed {k + 1}" for k in range(N_PAIRS)],
    "scores, other pairs": [f"unobserved {k + 1}" for k in range(N_PAIRS)],
    "held-out ratings": [f"rating {k + 1}" for k in range(N_PAIRS)],
}


def main() -> None:
    """Run the missing replications, print the report, and save it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sbc", description=__doc__)
    parser.add_argument("--replications", type=int, default=100)
    parser.add_argument("--warm-up", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of fits that find no factors
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "sbc.csv"
    done = set(pd.read_csv(path)["seed"]) if path.exists() else set()
    for seed in sorted(set(range(options.replications)) - done):
        rows = pd.DataFrame(replication(seed, options.warm_up))
        rows.to_csv(path, mode="a", header=not path.exists(), index=False, float_format="%.5g")
        print(
            f"{seed}: {rows.groupby('method')['seconds'].first().round(1).to_dict()}", flush=True
        )
    rows = pd.read_csv(path)
    text = report(rows)
    (options.out / "sbc.md").write_text(text)
    draw(rows, options.out / "sbc.png")
    print(text)


def replication(seed: int, n_warmup: int) -> Iterator[dict[str, Any]]:
    """Yield the rank of each quantity's true value in each method's posterior."""
    ratings, truth = simulate(MODEL, **SIZE, seed=seed)
    ratings = ratings.to("cpu", torch.float64)
    truth = {name: value.double() for name, value in truth.items()}
    held_out = _held_out(ratings, truth, seed)
    true = {name: float(x) for name, x in quantities(truth, ratings, held_out).items()}
    known = {name: Fixed(float(truth[name])) for name in SCALES}
    for method in METHODS:
        started = time.process_time()
        posterior = fit_by(method, ratings, known, seed, n_warmup)
        seconds = time.process_time() - started
        draws = quantities(posterior_draws(posterior, N_VI_DRAWS, seed), ratings, held_out)
        pit = posterior.scores(held_out)["pit"].to_numpy()
        shared = {
            "seed": seed,
            "method": method,
            "converged": posterior.converged,
            "divergent": int(posterior.steps.get("divergent", pd.Series([False])).sum()),
            "seconds": seconds,
        }
        thin = THIN.get(method, 1)
        for name, value in draws.items():
            if method == SCALES_KNOWN and name in SCALES:
                continue
            x = value.numpy()
            few = x[thin - 1 :: thin][: N_RANKS - 1]
            yield shared | {
                "quantity": name,
                "rank": int((few < true[name]).sum()),
                "below": float((x < true[name]).mean()),
                "mean": x.mean(),
                "sd": x.std(),
                "true": true[name],
                "ess": float(arviz.ess(x[None])) if method in THIN else np.nan,
                "ess_thinned": float(arviz.ess(few[None])) if method in THIN else np.nan,
            }
        for k, below in enumerate(pit):
            rank = min(int(below * N_RANKS), N_RANKS - 1)
            yield shared | {"quantity": f"rating {k + 1}", "rank": rank, "below": below}


def fit_by(
    method: str, ratings: Ratings, known: dict[str, Fixed], seed: int, n_warmup: int
) -> Posterior:
    """Fit the model by one of the methods."""
    if method in SAMPLERS:
        n_draws = THIN[method] * N_RANKS
        sampler = SAMPLERS[method](n_draws=n_draws, n_warmup=n_warmup, n_chains=1)
        return fit(MODEL, ratings, sampler, seed=seed, progress=False)
    priors = replace(PRIORS, **known) if method == SCALES_KNOWN else PRIORS
    model = replace(MODEL, priors=priors)
    return fit(model, ratings, VI(learn_scales="elbo"), seed=seed, progress=False)


def _held_out(ratings: Ratings, truth: dict[str, Tensor], seed: int) -> pd.DataFrame:
    """Draw ratings of pairs outside the training ratings from the true parameters."""
    generator = np.random.default_rng([seed, 1])
    seen = ratings.user.numpy() * ratings.n_items + ratings.item.numpy()
    free = np.setdiff1d(np.arange(ratings.n_users * ratings.n_items), seen)
    user, item = np.divmod(generator.choice(free, N_PAIRS, replace=False), ratings.n_items)
    score = scores_of(truth, torch.from_numpy(user), torch.from_numpy(item)).numpy()
    rating = generator.normal(1 / (1 + np.exp(-score)), float(truth["sigma"]))
    return pd.DataFrame({"user": user, "item": item, "rating": rating})


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
    assert ratings.value is not None
    score = scores_of(sites, ratings.user, ratings.item)
    noise = torch.distributions.Normal(score.sigmoid(), sites["sigma"][..., None])
    found["log likelihood"] = noise.log_prob(ratings.value).sum(-1)
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
    n = rows["seed"].nunique()
    uniformity = Uniformity(n, N_RANKS)
    first = rows.drop_duplicates(["seed", "method"]).groupby("method")
    facts = [", ".join(f"{k}: {v}" for k, v in machine.describe().items()) + "."]
    command = " ".join(["python -m benchmarks.sbc", *sys.argv[1:]])
    seconds = first["seconds"].mean()
    times = ", ".join(f"{m} {seconds[m]:.1f} s" for m in METHODS)
    levels = {m: FALSE_ALARM / rows[rows["method"] == m]["quantity"].nunique() for m in METHODS}
    lines = [
        "# Simulation-based calibration",
        "",
        f"`{command}`, {datetime.date.today().isoformat()}",
        "",
        *facts,
        "",
        f"{n} replications of {SIZE['n_users']} users, {SIZE['n_items']} items and "
        f"{SIZE['n_ratings']} ratings, drawn from the prior of",
        "",
        f"    {MODEL}",
        "",
        *(chain_report(rows[rows["method"] == method], method) for method in THIN),
        f"A fit takes on average {times} of processor time.",
        "",
        "p is the p-value of the test of uniform ranks by the simultaneous envelope of their "
        "empirical distribution function (Säilynoja, Bürkner & Vehtari 2022). A row has the "
        f"smallest p of its quantities. A method fails where p < {levels[BY_NUTS]:.1g} "
        f"({levels[SCALES_KNOWN]:.1g} with scales known): {FALSE_ALARM:.0%} for all its "
        "quantities together.",
        "",
        *table(rows, uniformity, levels),
    ]
    for method in METHODS:
        theirs = rows[rows["method"] == method]
        p = {q: uniformity.p_value(x["rank"].to_numpy()) for q, x in theirs.groupby("quantity")}
        failed = sum(value < levels[method] for value in p.values())
        verdict = f"{failed} of {len(p)} quantities fail" if failed else "passes"
        lines += ["", f"{method}: {verdict}; smallest p {min(p.values()):.2g}."]
    return "\n".join(lines) + "\n"


def table(rows: pd.DataFrame, uniformity: Uniformity, levels: dict[str, float]) -> Iterator[str]:
    """Yield the lines of the table: one for each method and family of quantities."""
    sd = rows.pivot(index=["seed", "quantity"], columns="method", values="sd")
    yield "| | | p | in 50% interval | in 90% interval | sd, times the sd by NUTS | bias, sds |"
    yield "|---|---|---|---|---|---|---|"
    for method in METHODS:
        theirs = rows[rows["method"] == method]
        for family, members in FAMILIES.items():
            own = theirs[theirs["quantity"].isin(members)]
            if own.empty:
                continue
            p = min(uniformity.p_value(x["rank"].to_numpy()) for _, x in own.groupby("quantity"))
            mark = " **fails**" if p < levels[method] else ""
            inside = [(own["below"] - 0.5).abs().le(width / 2).mean() for width in (0.5, 0.9)]
            ratio = bias = ""
            if own["sd"].notna().all():
                these = sd.loc[sd.index.isin(members, level="quantity")]
                ratio = f"{(these[method] / these[BY_NUTS]).median():.2f}"
                bias = f"{((own['mean'] - own['true']) / own['sd']).mean():+.2f}"
            yield (
                f"| {method} | {family} | {p:.2g}{mark} | {inside[0]:.0%} | {inside[1]:.0%} "
                f"| {ratio} | {bias} |"
            )


def chain_report(rows: pd.DataFrame, method: str) -> str:
    """Report the effective sample sizes of a sampler and the convergence of its chains."""
    all_draws, ranked = rows.groupby("quantity")[["ess", "ess_thinned"]].median().to_numpy().T
    worst = rows.groupby("quantity")["ess"].median().idxmin()
    chains = rows.drop_duplicates("seed")
    return (
        f"{method}: one chain, {THIN[method] * N_RANKS} draws; every {THIN[method]}th is ranked. "
        "Effective sample size of all draws, median over replications: "
        f"{np.nanmin(all_draws):.0f} for the worst quantity ({worst}), "
        f"{np.nanmedian(all_draws):.0f} for the median one; of the {N_RANKS - 1} thinned draws "
        f"{np.nanmin(ranked):.0f} and {np.nanmedian(ranked):.0f}. Divergent draws: "
        f"{chains['divergent'].sum()} in all. Chains that `Posterior.converged` accepts: "
        f"{chains['converged'].sum()} of {len(chains)}.\n"
    )


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Draw the difference between each rank distribution and the uniform one."""
    from matplotlib import pyplot

    from pyro_pmf.criticism.plots import BLUE, GREEN, VERMILLION

    looks = {BY_NUTS: (BLUE, "-"), BY_HMC: (GREEN, "-"), BY_VI: (VERMILLION, "-")}
    looks[SCALES_KNOWN] = (VERMILLION, (0, (4, 1.5)))
    n = rows["seed"].nunique()
    uniformity = Uniformity(n, N_RANKS)
    level = FALSE_ALARM / rows[rows["method"] == BY_NUTS]["quantity"].nunique()
    low, high = (x - uniformity.at for x in uniformity.envelope(level))
    figure, grid = pyplot.subplots(
        3, 4, figsize=(10, 7), sharex=True, sharey=True, layout="constrained"
    )
    panels = grid.flat
    for panel, (family, members) in zip(panels, FAMILIES.items(), strict=False):
        panel.spines[["top", "right"]].set_visible(False)
        panel.fill_between(uniformity.at, low, high, color="0.88", linewidth=0)
        panel.axhline(0, color="0.5", linewidth=0.8)
        for method, (color, style) in looks.items():
            theirs = rows[(rows["method"] == method) & rows["quantity"].isin(members)]
            for _, own in theirs.groupby("quantity"):
                counts = np.bincount(own["rank"], minlength=N_RANKS).cumsum()[:-1]
                difference = counts / len(own) - uniformity.at
                panel.plot(uniformity.at, difference, color=color, linestyle=style, linewidth=1.3)
        panel.set_title(family, loc="left", fontsize="medium")
    legend = grid.flat[-1]
    legend.axis("off")
    for method, (color, style) in looks.items():
        legend.plot([], [], color=color, linestyle=style, label=method)
    legend.fill_between([], [], color="0.88", label=f"uniform ranks,\n{1 - level:.2%} of the time")
    legend.legend(loc="center", frameon=False)
    grid[2, 3].tick_params(labelbottom=False)
    grid[1, 3].tick_params(labelbottom=True)
    for panel in grid[:, 0]:
        panel.set_ylabel("ECDF minus uniform")
    for panel in grid[2, :3]:
        panel.set_xlabel("rank of the truth, as a share")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
