"""How often people listened to artists: a count is no star rating, and this is what fits it.

python examples/music.py                    # downloads HetRec 2011's Last.fm counts once
python examples/music.py --data hetrec      # their unpacked folder
python examples/music.py --simulate         # no real data

An article builds a recommender from these counts as from stars: standardized, 40 factors, biases,
mini-batches. It ends barely better than the mean. Here are its recipe, the baselines that it
leaves out, and models of counts, all on one split and one scale.
"""

from __future__ import annotations

import argparse
import textwrap
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot
from matplotlib.patches import Ellipse
from matplotlib.ticker import FuncFormatter
from scipy.stats import kstest, spearmanr
from sklearn.manifold import TSNE
from torch import Tensor
from tqdm import tqdm

from pyro_pmf import (
    PMF,
    BernoulliLogit,
    Fixed,
    NegativeBinomialLog,
    Normal,
    NormalIdentity,
    PMFError,
    Posterior,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.datasets import lastfm_hetrec, simulate, with_sampled_negatives
from pyro_pmf.prediction.metrics import calibration, ranking_scores
from pyro_pmf.prediction.tables import LocatedPairs
from pyro_pmf.prediction.predictive import PosteriorPredictive

WIDTH = 100  # of the terminal, in characters
RECIPE = "The article's recipe"
POOLED = "Normal on log1p, biases only"
BEST = "Normal on log1p"
COUNTS = "Negative binomial"
LISTED = 10  # items of a list of recommendations that is scored
NEGATIVES = 4  # pairs taken for a no, for each pair that is there
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"


def main() -> None:
    """Run the whole comparison."""
    options = parse_options()
    clock = Clock()
    with clock("reading"):
        plays, source = read(options)
    titles = plays.drop_duplicates("item").set_index("item")["title"]
    pair = {
        transform: Ratings.from_frame(plays, transform=transform).split(0.3, options.seed)
        for transform in ("standardize", "log1p", "count")
    }
    describe(plays, pair["count"], source, options.seed)

    posteriors, table, pits = fit_and_score(pair, plays["rating"], options, clock)
    print_table(table)
    print_outliers(pair["count"], plays["rating"])
    print_biases(posteriors[RECIPE], posteriors[POOLED], plays, titles)

    with clock("who listens"):
        listens, ranked = who_listens(*pair["count"], options)
    print_ranking(ranked)
    if source.startswith("SIMULATED"):
        say("Simulated pairs are drawn evenly, so that there is nothing to learn of who listens.")
    print_similar(listens, titles)
    print_recommendations(posteriors[BEST], listens, pair["count"], titles)
    with clock("pictures"):
        save_pictures(posteriors, listens, pits, titles, options.out)
    clock.print()


def read(options: argparse.Namespace) -> tuple[pd.DataFrame, str]:
    """Return the counts, columns user, item, rating and title, and say where they are from."""
    plays, source = None, "HetRec 2011, artists with at least 5 listeners"
    if not options.simulate:
        try:
            plays = lastfm_hetrec(options.data, min_listeners=5)
        except PMFError as error:
            if options.data:
                raise
            print(textwrap.fill(f"No real data: {error}", WIDTH))
    if plays is None:
        plays, source = simulated(options.seed), "SIMULATED from the negative binomial model"
    if options.sample:
        plays = plays.sample(min(options.sample, len(plays)), random_state=options.seed)
    return plays, source


def simulated(seed: int) -> pd.DataFrame:
    """Draw counts of about the same spread, of fewer users and artists."""
    priors = Priors(
        mu=Fixed(5.5),
        sigma=Fixed(0.8),
        sigma_U=Fixed(0.4),
        sigma_V=Fixed(0.4),
        sigma_b=Fixed(1.2),
        sigma_c=Fixed(0.3),
    )
    model = PMF(5, noise="shared", priors=priors, likelihood=NegativeBinomialLog())
    ratings, _ = simulate(model, n_users=600, n_items=500, n_ratings=20_000, seed=seed)
    plays = ratings.to_frame().query("rating > 0").astype(int)
    return plays.assign(title=[f"artist {item}" for item in plays["item"]])


def models(n_factors: int) -> dict[str, tuple[str, PMF, dict[str, Any]]]:
    """Name each model, what it makes of a count, and how it is fitted."""
    normal, count = NormalIdentity(), NegativeBinomialLog()
    level = Priors(mu=Normal(5.0, 2.0))  # log of a typical count
    shared = PMF(n_factors=0, noise="shared", likelihood=normal)
    both = PMF(
        n_factors, users="hierarchical", items="hierarchical", noise="user", likelihood=normal
    )
    counts = {"likelihood": count, "priors": level}
    recipe = replace(shared, n_factors=4 * n_factors)
    return {
        "Biases only": ("standardize", shared, {}),
        RECIPE: ("standardize", recipe, {"guide": "delta", "batches": 20}),
        POOLED: ("log1p", shared, {}),
        BEST: ("log1p", both, {}),
        f"{COUNTS}, biases only": ("count", replace(shared, **counts), {}),
        COUNTS: ("count", replace(both, **counts), {}),
    }


def fit_and_score(
    pair: dict[str, tuple[Ratings, Ratings]],
    counts: pd.Series,
    options: argparse.Namespace,
    clock: Clock,
) -> tuple[dict[str, Posterior], pd.DataFrame, dict[str, np.ndarray]]:
    """Fit each model to the training counts and score it on those held out."""
    posteriors, scores, pits = {}, {}, {}
    variance = counts.var(ddof=0)
    for name, transform in {"Mean": "standardize", "Mean of log1p": "log1p"}.items():
        train, test = pair[transform]
        normal = torch.distributions.Normal(train.value.mean(), train.value.std())
        predictive = PosteriorPredictive([(1.0, normal.expand([len(test)]))], train.transform)
        score = score_counts(predictive, torch.from_numpy(test.rating))
        scores[name], pits[name] = summarize(score, variance), score["pit"].to_numpy()
    named = models(options.n_factors)
    with tqdm(total=len(named), leave=False, disable=options.no_progress or None) as bar:
        for name, (transform, model, how) in named.items():
            bar.set_description(name)
            train, test = pair[transform]
            with clock("fits"), quiet():
                started = time.perf_counter()
                posterior = fit(
                    model,
                    train,
                    max_steps=options.max_steps,
                    seed=options.seed,
                    progress=False,  # there is one bar for all fits
                    **how,
                )
                seconds = time.perf_counter() - started
            with clock("scores"):
                score = predictions(posterior, test)
            effort = {"seconds": seconds, "steps": len(posterior.history)}
            scores[name] = summarize(score, variance) | effort
            posteriors[name], pits[name] = posterior, score["pit"].to_numpy()
            bar.update()
    table = pd.DataFrame(scores).T
    table["of_mean"] = table["mse"] / table.loc["Mean", "mse"]
    return posteriors, table, pits


def predictions(posterior: Posterior, test: Ratings) -> pd.DataFrame:
    """Score the prediction of each held-out count."""
    rating = torch.from_numpy(test.rating)
    parts = [
        score_counts(predictive, rating[rows]).set_index(rows)
        for rows, predictive in LocatedPairs.of(posterior, test).predictives()
    ]
    return pd.concat(parts).sort_index()


def score_counts(predictive: PosteriorPredictive, count: Tensor) -> pd.DataFrame:
    """Score predictions of counts by their probabilities, whatever made them.

    A count lies inside the 90% interval where neither it and all lower ones together have less
    than 5%, nor it and all higher ones. The randomised PIT lies evenly between the probability of
    lower counts and that of this or a lower one.
    """
    half = 0.0 if is_discrete(predictive) else 0.5
    below, to = 1 - predictive.probability_at_least(count - half), predictive.cdf(count + half)
    uniform = np.random.default_rng(0).random(len(count))
    return pd.DataFrame(
        {
            "count": count.numpy(),
            "mean": predictive.mean.numpy(),
            "median": predictive.quantile(0.5).numpy(),
            "log_mass": predictive.log_mass(count).numpy(),
            "covered": ((to >= 0.05) & (below <= 0.95)).numpy(),
            "pit": (below + torch.from_numpy(uniform) * (to - below)).numpy(),
        }
    )


def is_discrete(predictive: PosteriorPredictive) -> bool:
    """Whether the predictive is of whole numbers."""
    return bool(predictive.parts[0][1].support.is_discrete)


def summarize(score: pd.DataFrame, variance: float) -> dict[str, float]:
    """Average the scores of `score_counts`; the variance is that of all counts."""
    constant = score["median"].nunique() == 1
    return {
        "log_mass": score["log_mass"].mean(),
        "rank": np.nan if constant else spearmanr(score["median"], score["count"]).statistic,
        "coverage": score["covered"].mean(),
        "pit": kstest(score["pit"], "uniform").statistic,
        "mse": ((score["mean"] - score["count"]) ** 2).mean() / variance,
    }


def who_listens(
    train: Ratings, test: Ratings, options: argparse.Namespace
) -> tuple[Posterior, pd.DataFrame]:
    """Fit who listens to whom at all, and score lists of artists beside others' methods."""
    shape = train.n_users, train.n_items
    seen, relevant = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    held_out = test.aligned_to(train)
    seen[train.user, train.item] = relevant[held_out.user, held_out.item] = True
    scores: dict[str, tuple[np.ndarray, float]] = {}
    popularity = train.item_counts.numpy().astype(float)
    scores["Most listeners"] = np.broadcast_to(popularity, shape), 0.0
    model = PMF(
        2 * options.n_factors,
        users="hierarchical",
        items="hierarchical",
        noise="shared",
        likelihood=BernoulliLogit(),
    )
    posterior: Any = None
    for weight in ("popularity", "uniform"):
        table = with_sampled_negatives(train, NEGATIVES, options.seed, weight)
        started = time.perf_counter()
        with quiet():
            posterior = fit(
                model,
                Ratings.from_frame(table),
                max_steps=options.max_steps,
                seed=options.seed,
                progress=False,
            )
        name = {"uniform": "drawn evenly", "popularity": "drawn by popularity"}[weight]
        scores[f"Bernoulli, negatives {name}"] = (
            expected_scores(posterior),
            time.perf_counter() - started,
        )
    scores |= other_methods(train, options.seed)
    rows = {}
    for name, (score, seconds) in scores.items():
        ranked = ranking_scores(score, relevant, seen, LISTED)
        rows[name] = {**ranked[["recall", "ndcg"]].mean(), "seconds": seconds}
    return posterior, pd.DataFrame(rows).T


def expected_scores(posterior: Posterior) -> np.ndarray:
    """Expected score of every pair, shape (n_users, n_items)."""
    U, V, b, c = (posterior.latents[site].mean.numpy() for site in "UVbc")
    return U @ V.T + b[:, None] + c


def other_methods(train: Ratings, seed: int) -> dict[str, tuple[np.ndarray, float]]:
    """Scores of every pair by the package implicit, if it is installed, and seconds of the fit."""
    try:
        from implicit.als import AlternatingLeastSquares  # optional
        from implicit.bpr import BayesianPersonalizedRanking
        from scipy.sparse import csr_matrix
    except ImportError:
        return {}
    ones = np.ones(len(train), dtype=np.float32)
    shape = train.n_users, train.n_items
    matrix = csr_matrix((ones, (train.user.numpy(), train.item.numpy())), shape=shape)
    common = {"random_state": seed, "num_threads": 1}
    fitted = {}
    for name, family, options in (
        ("implicit ALS, its defaults", AlternatingLeastSquares, {}),
        (
            "implicit ALS, best of three tried",
            AlternatingLeastSquares,
            {"factors": 32, "alpha": 10, "regularization": 5},
        ),
        ("implicit BPR, its defaults", BayesianPersonalizedRanking, {}),
    ):
        started = time.perf_counter()
        with quiet():  # it warns of OpenBLAS having threads
            method = family(**options, **common)
            method.fit(matrix, show_progress=False)
        seconds = time.perf_counter() - started
        fitted[name] = np.asarray(method.user_factors @ method.item_factors.T), seconds
    return fitted


def describe(plays: pd.DataFrame, pair: tuple[Ratings, Ratings], source: str, seed: int) -> None:
    """Print what was read and how it was split."""
    count, (train, test) = plays["rating"], pair
    text = (
        f"{len(plays):,} counts of {plays['item'].nunique():,} artists by "
        f"{plays['user'].nunique():,} users ({source}): {len(train):,} to learn from and "
        f"{len(test):,} held out (seed {seed}). Counts run from {count.min():,} to "
        f"{count.max():,}; the median is {count.median():,.0f}, the mean {count.mean():,.0f}, the "
        f"standard deviation {count.std():,.0f}."
    )
    say(text)


COLUMNS = {
    "log_mass": ("log mass", ".3f"),
    "rank": ("rank", ".3f"),
    "coverage": ("in 90%", ".1%"),
    "pit": ("PIT", ".3f"),
    "mse": ("MSE", ".3f"),
    "of_mean": ("of mean", ".3f"),
    "seconds": ("seconds", ".1f"),
    "steps": ("steps", ".0f"),
}


def print_table(table: pd.DataFrame) -> None:
    """Print a line for each model."""
    heading("Held-out counts")
    print(f"{'':<34}" + "".join(f"{title:>8}" for title, _ in COLUMNS.values()))
    for name, row in table.iterrows():
        cells = (
            "-" if pd.isna(row[key]) else f"{row[key]:{form}}"
            for key, (_, form) in COLUMNS.items()
        )
        print(f"{name:<34}" + "".join(f"{cell:>8}" for cell in cells))
    say(
        "log mass: mean log probability of the held-out count, of a density from half below it to "
        "half above. rank: Spearman's correlation of held-out counts and predicted medians. in "
        "90%: counts inside the central interval. PIT: greatest distance of the probability "
        "integral transforms from uniform. MSE: in units of the variance of all counts, as the "
        "article's 0.959, and over that of the mean."
    )


def print_outliers(pair: tuple[Ratings, Ratings], counts: pd.Series) -> None:
    """Print how few counts the mean squared error is of."""
    train, test = pair
    error = np.sort((test.rating - train.rating.mean()) ** 2)[::-1]
    n_few = max(1, len(error) // 1000)
    say(
        f"The mean's MSE is {error.mean() / counts.var(ddof=0):.2f} on this held-out part, and "
        f"{error[:n_few].sum() / error.sum():.0%} of it is of {n_few} counts in {len(error):,}: "
        "MSE says where the outliers fell. The other columns say how the rest is predicted."
    )


def print_biases(
    recipe: Posterior, pooled: Posterior, plays: pd.DataFrame, titles: pd.Series
) -> None:
    """Print the artists that the recipe and a pooled model put first."""
    by_artist = recipe.ratings.to_frame().groupby("item")["rating"]
    largest, total = by_artist.max(), by_artist.sum()
    outliers = set(largest.nlargest(5).index)
    heading("The five highest artist biases by the article's recipe")
    print(f"{'':<34}{'bias, plays':>13}{'listeners':>11}{'largest count':>15}{'of all plays':>14}")
    first = recipe.item_effects().head(5)
    for row in first.itertuples():
        bias, count = row.mean * recipe.ratings.transform.width, largest[row.item]
        print(
            f"{name_of(titles, row.item):<34}{bias:>13,.0f}{row.n_ratings:>11}{count:>15,.0f}"
            f"{count / total[row.item]:>14.0%}"
        )
    n_outliers = sum(item in outliers for item in first["item"])
    say(
        f"{n_outliers} of them have one of the five largest counts of training. The last column "
        "is the share of the artist's plays that is one listener's."
    )
    heading(f'Artist biases by "{POOLED}": how many times as many plays')
    effects = pooled.item_effects()
    sd = pooled.ratings.transform.log_sd
    print(f"{'':<34}{'times':>8}{'90% interval':>16}{'sd of log':>11}{'listeners':>11}")
    for part in (effects.head(5), effects.tail(5)):
        for row in part.itertuples():
            low, high = np.exp(sd * row.lower), np.exp(sd * row.upper)
            print(
                f"{name_of(titles, row.item):<34}{np.exp(sd * row.mean):>8.2f}"
                f"{f'{low:.2f} to {high:.2f}':>16}{sd * row.sd:>11.2f}{row.n_ratings:>11}"
            )
        if part.index[0] == 0:
            print("...")
    place = effects.reset_index().set_index("item")
    where = [f"{name_of(titles, item)} {place.loc[item, 'index'] + 1:,}" for item in first["item"]]
    say(f"The recipe's five stand here at ranks {', '.join(where)} of {len(effects):,}.")


def print_ranking(table: pd.DataFrame) -> None:
    """Print how well lists of artists find those held out."""
    heading(f"Who listens at all: lists of {LISTED} artists, against those held out")
    print(f"{'':<44}{f'recall@{LISTED}':>11}{f'NDCG@{LISTED}':>11}{'seconds':>10}")
    for name, row in table.iterrows():
        print(f"{name:<44}{row['recall']:>11.4f}{row['ndcg']:>11.4f}{row['seconds']:>10.1f}")
    if any(name.startswith("implicit") for name in table.index):
        say("The best of three settings of ALS was chosen on these held-out artists themselves.")
    else:
        say("The package implicit is not installed: `pip install implicit` adds its ALS and BPR.")


def print_similar(posterior: Posterior, titles: pd.Series, n_shown: int = 8) -> None:
    """Print the artists whose factors point the same way, of those with most listeners."""
    heading("Similar artists: cosine of the posterior means of V, of who listens")
    train = posterior.ratings
    direction = torch.nn.functional.normalize(posterior.latents["V"].mean, dim=1)
    listeners = listener_counts(posterior)
    known = listeners >= max(2, np.quantile(listeners, 0.9))
    for item in np.argsort(-listeners)[:n_shown]:
        cosine = (direction @ direction[item]).numpy()
        cosine[~known], cosine[item] = -np.inf, -np.inf
        near = [
            f"{name_of(titles, train.item_ids[k], 20)} {cosine[k]:.2f}"
            for k in np.argsort(-cosine)[:3]
        ]
        print(f"{name_of(titles, train.item_ids[item], 20):<22}{', '.join(near)}"[:WIDTH])


def print_recommendations(
    posterior: Posterior,
    listens: Posterior,
    pair: tuple[Ratings, Ratings],
    titles: pd.Series,
) -> None:
    """Print what one user would be recommended by several aims."""
    train, test = pair
    user = (test.to_frame()["user"].value_counts().sort_index() - 15).abs().idxmin()
    frame = train.to_frame()
    theirs = frame[frame["user"] == user].sort_values("rating", ascending=False)
    unseen = pd.DataFrame({"user": user, "item": train.item_ids.difference(theirs["item"])})
    typical = float(np.median(train.rating))
    table = posterior.predict(unseen, interval=0.8, at_least=typical)
    table["listens"] = listens.predict(unseen)["mean"]
    table["plays"] = table["listens"] * table["mean"]
    heading(f"Artists for user {user}, by what is wanted")
    most = ", ".join(
        f"{name_of(titles, row.item)} ({row.rating:,.0f})" for row in theirs.head(5).itertuples()
    )
    print(textwrap.fill(f"Listens most to {most}.", WIDTH) + "\n")
    for aim, column, form in (
        ("much if at all: expected count", "mean", ",.0f"),
        (f"surely a lot: P(count >= {typical:.0f})", "p_at_least", ".0%"),
        ("no disappointment: lowest tenth", "lower", ",.0f"),
        ("exploration: highest tenth", "upper", ",.0f"),
        ("likely to listen at all", "listens", ".0%"),
        ("likely, and much: product", "plays", ",.0f"),
    ):
        names = [
            f"{name_of(titles, row['item'], 26)} {row[column]:{form}}"
            for _, row in table.nlargest(4, column).iterrows()
        ]
        text = f"{aim:<38}{'; '.join(names)}"
        print(textwrap.fill(text, WIDTH, subsequent_indent=" " * 38))
    say(
        "The model of counts is of how much, given that it is at all, and so are the first four "
        "lines. Whether is another model, the one of who listens, whose probabilities are among "
        f"one pair that is there to {NEGATIVES} that are not."
    )


def save_pictures(
    posteriors: dict[str, Posterior],
    listens: Posterior,
    pits: dict[str, np.ndarray],
    titles: pd.Series,
    folder: Path,
) -> None:
    """Save the figures as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "calibration": draw_calibration(pits),
        "biases": draw_biases(posteriors[RECIPE], posteriors[POOLED], titles),
        "artists": draw_artists(listens, titles),
        "neighbourhoods": draw_neighbourhoods(listens, titles),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
        pyplot.close(figure)
    print(f"\nPictures: {', '.join(f'{name}.png' for name in pictures)} in {folder}/")


def draw_calibration(pits: dict[str, np.ndarray]) -> Any:
    """Share of held-out counts inside central intervals, against what it should be."""
    figure, ax = pyplot.subplots(figsize=(5.8, 5.4), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.45", linewidth=1, linestyle=(0, (4, 3)))
    for name, colour, marker in (
        (RECIPE, VERMILLION, "s"),
        (COUNTS, GREEN, "^"),
        (BEST, BLUE, "o"),
    ):
        table = calibration(pits[name])
        ax.plot(
            table["probability"], table["coverage"], color=colour, marker=marker, ms=5, label=name
        )
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel="Probability of the central interval",
        ylabel="Share of held-out counts inside",
    )
    ax.set_title(f"Calibration on {len(pits[BEST]):,} held-out counts", loc="left")
    ax.legend(loc="lower right", frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def draw_biases(recipe: Posterior, pooled: Posterior, titles: pd.Series) -> Any:
    """Artist biases against the number of listeners, of the recipe and of a pooled model."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11.0, 4.6), layout="constrained")
    width, sd = recipe.ratings.transform.width, pooled.ratings.transform.log_sd
    for ax, posterior, map_, title, label in (
        (axes[0], recipe, lambda x: width * x, RECIPE, "Artist bias (plays)"),
        (axes[1], pooled, lambda x: np.exp(sd * x), POOLED, "Artist effect (times as many plays)"),
    ):
        table = posterior.item_effects()
        place = table["n_ratings"], map_(table["mean"])
        if posterior is pooled:
            ends = map_(table["lower"]), map_(table["upper"])
            ax.vlines(table["n_ratings"], *ends, color=BLUE, alpha=0.08, linewidth=1)
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            ax.yaxis.set_minor_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        else:
            ax.yaxis.set_major_formatter("{x:,.0f}")
        ax.plot(*place, "o", color=BLUE, ms=3, alpha=0.4, markeredgewidth=0)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.set(xlabel="Listeners in training", ylabel=label)
        ax.set_title(title + (", with 90% intervals" if posterior is pooled else ""), loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        label_points(ax, [name_of(titles, item, 24) for item in table["item"]], *place, 5)
    return figure


def draw_artists(posterior: Posterior, titles: pd.Series, n_named: int = 45) -> Any:
    """Artists by the two directions in which the factors of those with most listeners vary most.

    An ellipse is one standard deviation of the posterior.
    """
    order, mean, var = most_heard(posterior)
    _, _, axes = np.linalg.svd(mean - mean.mean(0), full_matrices=False)
    place = (mean - mean.mean(0)) @ axes[:2].T
    covariance = np.einsum("ak,nk,bk->nab", axes[:2], var, axes[:2])
    _, ax = pyplot.subplots(figsize=(11.0, 8.5), layout="constrained")
    for k in range(min(n_named, len(order))):
        variances, directions = np.linalg.eigh(covariance[k])
        angle = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
        height, width = 2 * np.sqrt(variances)
        ax.add_patch(
            Ellipse(place[k], width, height, angle=angle, facecolor=BLUE, alpha=0.13, linewidth=0)
        )
    ax.set(xlabel="First principal component of V", ylabel="Second principal component of V")
    what = "by who listens to them; ellipses: one posterior standard deviation"
    return scatter_artists(ax, posterior, order, place, titles, what, n_named)


def draw_neighbourhoods(posterior: Posterior, titles: pd.Series, n_named: int = 70) -> Any:
    """Artists placed by t-SNE (van der Maaten & Hinton 2008), which keeps neighbours together."""
    order, mean, _ = most_heard(posterior)
    lengths = np.linalg.norm(mean, axis=1, keepdims=True)
    near = min(30.0, (len(order) - 1) / 3)
    tsne = TSNE(perplexity=near, init="pca", random_state=0)
    place = tsne.fit_transform(mean / np.maximum(lengths, 1e-12))
    _, ax = pyplot.subplots(figsize=(11.0, 8.5), layout="constrained")
    ax.set(
        xticks=[], yticks=[], xlabel="t-SNE of the directions of V: only who is near whom counts"
    )
    return scatter_artists(ax, posterior, order, place, titles, "neighbours together", n_named)


def most_heard(posterior: Posterior, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the artists with most listeners, and means and variances of their factors."""
    order = np.argsort(-listener_counts(posterior))[:n]
    V = posterior.latents["V"]
    return order, V.mean.numpy()[order], V.var.numpy()[order]


def scatter_artists(
    ax: Any,
    posterior: Posterior,
    order: np.ndarray,
    place: np.ndarray,
    titles: pd.Series,
    what: str,
    n_named: int,
) -> Any:
    """Draw artists as dots, the larger the more listeners, and name the first."""
    size = np.sqrt(listener_counts(posterior)[order])
    ax.scatter(*place.T, s=1.2 * size, color=BLUE, alpha=0.55, linewidths=0)
    title = f"The {len(order)} artists with most listeners, {what}"
    ax.set_title(title, loc="left", fontsize="medium")
    ax.spines[["top", "right"]].set_visible(False)
    names = [name_of(titles, posterior.ratings.item_ids[item], 24) for item in order]
    label_points(ax, names, *place.T, n_named)
    return ax.figure


def label_points(ax: Any, names: list[str], x: Any, y: Any, n: int) -> None:
    """Name the first n points, each where there is room beside it, if there is."""
    ax.figure.canvas.draw()
    renderer, taken = ax.figure.canvas.get_renderer(), []
    for name, *place in zip(names[:n], np.asarray(x)[:n], np.asarray(y)[:n], strict=True):
        for across, up, side in (
            (5, 4, "left"),
            (-5, 4, "right"),
            (5, -10, "left"),
            (-5, -10, "right"),
        ):
            text = ax.annotate(
                name.replace("$", r"\$"),
                place,
                (across, up),
                textcoords="offset points",
                ha=side,
                fontsize=8,
            )
            box = text.get_window_extent(renderer)
            inside = ax.bbox.containsx(box.x0) and ax.bbox.containsx(box.x1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def listener_counts(posterior: Posterior) -> np.ndarray:
    """Training listeners of each artist, int, shape (n_items,)."""
    train = posterior.ratings
    return np.bincount(train.item.numpy(), weights=train.rating > 0, minlength=train.n_items)


def name_of(titles: pd.Series, item: Any, width: int = 32) -> str:
    """Return an artist's name, cut to fit."""
    title = titles[item]
    short = textwrap.shorten(f"artist {item}" if pd.isna(title) else title, width, placeholder="…")
    return short if short != "…" else title[: width - 1] + "…"


def say(text: str) -> None:
    """Print a paragraph."""
    print("\n" + textwrap.fill(text, WIDTH))


def heading(text: str) -> None:
    """Print a section heading."""
    print(f"\n{text}\n{'-' * WIDTH}")


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out warnings: of fits stopped at --max-steps, and of other packages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Clock:
    """Adds up seconds by what they were spent on."""

    def __init__(self) -> None:
        self.started, self.seconds = time.perf_counter(), {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Count the time inside."""
        started = time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - started

    def print(self) -> None:
        """Print where the time went."""
        total = time.perf_counter() - self.started
        spent = ", ".join(f"{what} {seconds:.1f}" for what, seconds in self.seconds.items())
        print(f"{total:.1f} seconds: {spent}.")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="DIR", help="a folder with HetRec's Last.fm files")
    parser.add_argument("--simulate", action="store_true", help="use simulated counts")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("out/music"))
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the fits")
    parser.add_argument("--n-factors", type=int, default=10, metavar="K")
    parser.add_argument("--max-steps", type=int, default=2000, metavar="N", help="of each fit")
    parser.add_argument("--sample", type=int, metavar="N", help="use N counts drawn at random")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    return parser.parse_args()


if __name__ == "__main__":
    main()
