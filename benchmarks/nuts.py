"""Compare variational inference and Gibbs sampling with NUTS: means, sds, accuracy.

python -m benchmarks.nuts            # some minutes on one core
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import arviz
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.sbc import posterior_draws, scores_of
from pyro_pmf import NUTS, PMF, VI, Fixed, Gibbs, Posterior, Priors, Ratings, fit
from pyro_pmf.datasets import movielens, simulate

# One scale of all factors, so that each standard deviation has a true value of its own.
MODEL = PMF(2, users="hierarchical", noise="shared", priors=Priors(tau=Fixed(1.0)))
SCALES = ("sigma", "sigma_U", "sigma_V", "sigma_W", "sigma_b", "sigma_c")
TRUE = {
    "sigma": 0.1,
    "sigma_U": 0.6,
    "sigma_V": 0.6,
    "sigma_W": 0.3,
    "sigma_b": 0.4,
    "sigma_c": 0.4,
}
BY_NUTS, BY_GIBBS, LEARNT, HELD = METHODS = (
    "NUTS",
    "Gibbs",
    "VI, scales learnt",
    "VI, scales held",
)
N_VI_DRAWS = 2000


@dataclass(frozen=True)
class Data:
    """Ratings to fit, ratings held out, and the true sites if they are known."""

    name: str
    train: Ratings
    test: pd.DataFrame
    truth: dict[str, Tensor] | None


def main() -> None:
    """Fit both data sets by each method, print the report, and save it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nuts", description=__doc__)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=250)
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of fits that find no factors
    chains = {
        "n_draws": options.draws,
        "n_warmup": options.warm_up,
        "n_chains": options.chains,
    }
    methods = {
        BY_NUTS: NUTS(**chains),
        BY_GIBBS: Gibbs(**chains),
        LEARNT: VI(learn_scales="elbo"),
        HELD: VI(),
    }
    command = " ".join(["python -m benchmarks.nuts", *sys.argv[1:]])
    lines = [
        "# Variational inference and Gibbs sampling beside NUTS",
        "",
        f"`{command}`, {datetime.date.today().isoformat()}",
        "",
        ", ".join(f"{k}: {v}" for k, v in machine.describe().items()) + ".",
        "",
        f"    {MODEL}",
        "",
        f"NUTS and Gibbs: {options.chains} chains of {options.draws} draws after "
        f"{options.warm_up} steps of warm-up, all standard deviations learnt.",
    ]
    panels = []
    for data in (simulated(), film_ratings()):
        found = {name: Fitted(data, methods[name]) for name in METHODS}
        lines += section(data, found)
        panels.append((data, found))
        print("\n".join(lines), flush=True)
    text = "\n".join(lines) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "nuts.md").write_text(text)
    draw(panels, options.out / "nuts.png")


def simulated() -> Data:
    """Return 250 ratings from a known model, and a held-out rating of each other pair."""
    known = {name: Fixed(x) for name, x in TRUE.items()}
    priors = replace(MODEL.priors, mu=Fixed(0.2), **known)
    ratings, sites = simulate(replace(MODEL, priors=priors), 25, 20, 250, seed=1)
    truth = {name: value.double() for name, value in sites.items()}
    seen = ratings.user.numpy() * ratings.n_items + ratings.item.numpy()
    user, item = np.divmod(np.setdiff1d(np.arange(25 * 20), seen), 20)
    mean = scores_of(truth, torch.from_numpy(user), torch.from_numpy(item)).sigmoid().numpy()
    rating = np.random.default_rng(1).normal(mean, TRUE["sigma"])
    test = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return Data("simulated", ratings, test, truth)


def film_ratings() -> Data:
    """Return ratings of 30 popular films by 30 active users of MovieLens latest-small."""
    frame = movielens()
    frame = frame[frame["item"].isin(frame["item"].value_counts().index[:30])]
    frame = frame[frame["user"].isin(frame["user"].value_counts().index[:30])]
    ratings = Ratings.from_frame(frame, scale=(0.5, 5.0))
    train, test = ratings.split(test_fraction=0.5, seed=0)
    return Data("MovieLens", train, test.to_frame(), None)


class Fitted:
    """A fit by one method, with draws for every pair.

    Attributes
    ----------
    posterior : Posterior
    seconds : float
        Processor time of the fit.
    sites : dict of str to Tensor
        Draws of each site.
    scores, products : Tensor, shape (n_draws, n_pairs)
        Draws of the score and of U_i . V_j at every pair.
    """

    def __init__(self, data: Data, method: NUTS | Gibbs | VI) -> None:
        started = time.process_time()
        train = data.train.to("cpu", torch.float64)
        self.posterior: Posterior = fit(MODEL, train, method, progress=False)
        self.seconds = time.process_time() - started
        self.sites = posterior_draws(self.posterior, N_VI_DRAWS)
        user, item = np.divmod(np.arange(train.n_users * train.n_items), train.n_items)
        pairs = torch.from_numpy(user), torch.from_numpy(item)
        self.scores = scores_of(self.sites, *pairs)
        self.products = (self.sites["U"][:, pairs[0]] * self.sites["V"][:, pairs[1]]).sum(-1)


def section(data: Data, found: dict[str, Fitted]) -> Iterator[str]:
    """Yield the lines of the report on one data set."""
    train = data.train
    observed = torch.zeros(train.n_users * train.n_items, dtype=torch.bool)
    observed[train.user * train.n_items + train.item] = True
    yield from ("", f"## {data.name}", "")
    yield (
        f"{train.n_users} users, {train.n_items} items, {len(train)} ratings, "
        f"{len(data.test)} held out."
    )
    for name in (BY_NUTS, BY_GIBBS):
        yield from ("", diagnostics(found[name], name))
    yield from accuracy(data, found, ~observed)
    yield from beside_nuts(found, observed)
    yield from parameters(data, found)


def accuracy(data: Data, found: dict[str, Fitted], unobserved: Tensor) -> Iterator[str]:
    """Yield the table of scores on held-out ratings."""
    yield ""
    yield "RMSE and NLL are of the held-out ratings" + (
        "; score RMSE is of the true scores of all unobserved pairs."
        if data.truth
        else ", in stars and in nats."
    )
    titles = ["", "RMSE", "NLL", "in 50% interval", "in 90% interval"]
    titles += ["score RMSE"] * (data.truth is not None) + ["fit, s"]
    yield from ("", "| " + " | ".join(titles) + " |", "|---" * len(titles) + "|")
    for method, fitted in found.items():
        score = fitted.posterior.evaluate(data.test)
        cells = [method, f"{score['rmse']:.4f}", f"{score['nll']:.4f}"]
        cells += [f"{score[f'coverage_{percent}']:.1%}" for percent in (50, 90)]
        if data.truth is not None:
            cells.append(f"{_score_error(data, fitted, unobserved):.3f}")
        yield "| " + " | ".join([*cells, f"{fitted.seconds:.1f}"]) + " |"


def beside_nuts(found: dict[str, Fitted], observed: Tensor) -> Iterator[str]:
    """Yield the table that compares means and standard deviations at all pairs with NUTS."""
    yield ""
    yield (
        "Beside NUTS, over pairs: the slope of the posterior means on the means by NUTS, their "
        "RMS difference, and the standard deviations as a share of the standard deviations by "
        "NUTS (median, 5% and 95%)."
    )
    yield from ("", "| | | slope | RMS difference | sd, share | 5% | 95% |", "|---" * 7 + "|")
    for method in (BY_GIBBS, LEARNT, HELD):
        for kind, name in (("scores", "score"), ("products", "U_i . V_j")):
            for among, where in ((observed, "observed"), (~observed, "other")):
                ours, theirs = (getattr(found[m], kind)[:, among] for m in (method, BY_NUTS))
                slope = np.polyfit(theirs.mean(0), ours.mean(0), 1)[0]
                apart = (ours.mean(0) - theirs.mean(0)).square().mean().sqrt()
                low, median, high = np.quantile(ours.std(0) / theirs.std(0), [0.05, 0.5, 0.95])
                yield (
                    f"| {method} | {name}, {where} pairs | {slope:.2f} | {apart:.3f} "
                    f"| {median:.2f} | {low:.2f} | {high:.2f} |"
                )


def parameters(data: Data, found: dict[str, Fitted]) -> Iterator[str]:
    """Yield the table of the scalar parameters."""
    yield from ("", "Posterior means ± standard deviations:", "")
    known = ["true"] if data.truth is not None else []
    yield "| | " + " | ".join([*METHODS, *known]) + " |"
    yield "|---" * (1 + len(METHODS) + len(known)) + "|"
    for name in ("mu", *SCALES):
        cells = [_mean_and_sd(fitted.sites[name]) for fitted in found.values()]
        if data.truth is not None:
            cells.append(f"{float(data.truth[name]):g}")
        yield "| " + " | ".join([name, *cells]) + " |"


def diagnostics(fitted: Fitted, method: str) -> str:
    """Report the convergence of a sampler in one sentence."""
    posterior = fitted.posterior
    by_chain = {name: fitted.sites[name] for name in ("mu", *SCALES)}
    by_chain["log likelihood"] = torch.tensor(
        posterior.steps["log_likelihood"].to_numpy(copy=True)
    )
    pairs = fitted.scores[:, :: max(1, fitted.scores.shape[1] // 100)]
    by_chain |= {f"score {k}": x for k, x in enumerate(pairs.T)}
    draws = {k: x.numpy().reshape(posterior.n_chains, -1) for k, x in by_chain.items()}
    rhat = {k: float(arviz.rhat(x)) for k, x in draws.items()}
    ess = {k: float(arviz.ess(x)) for k, x in draws.items()}
    worst, fewest = max(rhat, key=rhat.__getitem__), min(ess, key=ess.__getitem__)
    return (
        f"{method}, over mu, the standard deviations, the log likelihood and about 100 scores: "
        f"highest R-hat {rhat[worst]:.3f} ({worst}); lowest effective sample size "
        f"{ess[fewest]:.0f} ({fewest}), median {np.median(list(ess.values())):.0f}; "
        f"{int(posterior.steps['divergent'].sum())} divergent draws; "
        f"converged: {'yes' if posterior.converged else 'no'}."
    )


def _score_error(data: Data, fitted: Fitted, among: Tensor) -> float:
    assert data.truth is not None
    pairs = np.divmod(np.arange(len(among)), data.train.n_items)
    true = scores_of(data.truth, *(torch.from_numpy(index) for index in pairs))
    return float((fitted.scores.mean(0) - true)[among].square().mean().sqrt())


def _mean_and_sd(draws: Tensor) -> str:
    if draws.std() < 1e-9:
        return f"{float(draws[0]):.3f} (held)"
    return f"{float(draws.mean()):.3f} ± {float(draws.std()):.3f}"


def draw(panels: list[tuple[Data, dict[str, Fitted]]], path: Path) -> None:
    """Draw means and standard deviations of all scores against their values by NUTS."""
    from matplotlib import pyplot

    from pyro_pmf.criticism.plots import BLUE, GREEN, VERMILLION

    looks = {BY_GIBBS: (GREEN, "s"), LEARNT: (VERMILLION, "o"), HELD: (BLUE, "^")}
    figure, grid = pyplot.subplots(len(panels), 2, figsize=(8, 7.6), layout="constrained")
    for (data, found), row in zip(panels, grid, strict=True):
        for panel, what in zip(row, ("mean", "standard deviation"), strict=True):
            x, *ys = (
                (f.scores.mean(0) if what == "mean" else f.scores.std(0)).numpy()
                for f in (found[m] for m in METHODS)
            )
            for y, (label, (color, marker)) in zip(ys, looks.items(), strict=True):
                panel.plot(
                    x,
                    y,
                    marker,
                    color=color,
                    markersize=3,
                    alpha=0.5,
                    markeredgewidth=0,
                    label=label,
                )
            low = min(x.min(), *(y.min() for y in ys)) if what == "mean" else 0.0
            ends = [low, max(x.max(), *(y.max() for y in ys))]
            panel.plot(ends, ends, color="0.45", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            panel.set_aspect("equal")
            panel.spines[["top", "right"]].set_visible(False)
            panel.set_xlabel(f"{what} by NUTS (logit scale)")
            panel.set_ylabel(f"{what} by the other (logit scale)")
            panel.set_title(f"{data.name}: {what}s of scores", loc="left", fontsize="medium")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        markerscale=2,
    )
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
