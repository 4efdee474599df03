"""Tables and texts of the music example; `music.py` prints them."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
import torch
from music_models import LISTED, NEGATIVES, POOLED

from pyro_pmf import Posterior, Ratings

WIDTH = 100  # of the terminal, in characters


def describe(plays: pd.DataFrame, pair: tuple[Ratings, Ratings], source: str, seed: int) -> None:
    """Print the size of the data, of the split, and of the counts."""
    count, (train, test) = plays["rating"], pair
    say(
        f"{len(plays):,} counts of {plays['item'].nunique():,} artists by "
        f"{plays['user'].nunique():,} users ({source}): {len(train):,} to learn from and "
        f"{len(test):,} held out (seed {seed}). Counts run from {count.min():,} to "
        f"{count.max():,}; the median is {count.median():,.0f}, the mean {count.mean():,.0f}, the "
        f"standard deviation {count.std():,.0f}."
    )


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
        "log mass: mean log probability of the held-out count; a density is integrated from half "
        "below the count to half above. rank: Spearman's correlation of held-out counts and "
        "predicted medians. in 90%: share of counts inside the central interval. PIT: greatest "
        "distance of the probability integral transforms from uniform. MSE: in units of the "
        "variance of all counts, as in the article, which has 0.959. of mean: MSE over the MSE of "
        "the mean."
    )


def print_outliers(pair: tuple[Ratings, Ratings], counts: pd.Series) -> None:
    """Print the share of the mean squared error that few counts cause."""
    train, test = pair
    error = np.sort((test.rating - train.rating.mean()) ** 2)[::-1]
    n_few = max(1, len(error) // 1000)
    say(
        f"The MSE of the mean is {error.mean() / counts.var(ddof=0):.2f} on the held-out counts. "
        f"{n_few} of the {len(error):,} counts cause {error[:n_few].sum() / error.sum():.0%} of "
        "it, so that MSE depends on the side of the split where outliers fall. The other columns "
        "depend little on so few counts."
    )


def print_biases(recipe: Posterior, pooled: Posterior, titles: pd.Series) -> None:
    """Print the artists with the highest biases by the recipe, and by a pooled model."""
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
        "is the share of the artist's plays by one listener."
    )
    print_effects(pooled, titles, list(first["item"]))


def print_effects(pooled: Posterior, titles: pd.Series, first: list[Any]) -> None:
    """Print the highest and the lowest artist biases, and the ranks of the recipe's five."""
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
    where = [f"{name_of(titles, item)} {place.loc[item, 'index'] + 1:,}" for item in first]
    say(f"The five artists of the recipe have the ranks {', '.join(where)} of {len(effects):,}.")


def print_ranking(table: pd.DataFrame) -> None:
    """Print the recall and NDCG of the lists of recommendations."""
    heading(f"Who listens at all: lists of {LISTED} artists, against held-out artists")
    print(f"{'':<44}{f'recall@{LISTED}':>11}{f'NDCG@{LISTED}':>11}{'seconds':>10}")
    for name, row in table.iterrows():
        print(f"{name:<44}{row['recall']:>11.4f}{row['ndcg']:>11.4f}{row['seconds']:>10.1f}")
    if any(name.startswith("implicit") for name in table.index):
        say("The best of three settings of ALS was chosen on these held-out artists themselves.")
    else:
        say("The package implicit is not installed: `pip install implicit` adds its ALS and BPR.")


def print_similar(posterior: Posterior, titles: pd.Series, n_shown: int = 8) -> None:
    """Print, for the artists with most listeners, the artists with the most similar factors."""
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
    """Print recommendations for one user, by several aims."""
    train, test = pair
    user = (test.to_frame()["user"].value_counts().sort_index() - 15).abs().idxmin()
    frame = train.to_frame()
    theirs = frame[frame["user"] == user].sort_values("rating", ascending=False)
    unseen = pd.DataFrame({"user": user, "item": train.item_ids.difference(theirs["item"])})
    typical = float(np.median(train.rating))
    table = posterior.predict(unseen, interval=0.8, at_least=typical)
    table["listens"] = listens.predict(unseen)["mean"]
    table["plays"] = table["listens"] * table["mean"]
    heading(f"Artists for user {user}, by aim")
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
        "The model of counts predicts how much a user listens to an artist, given that the user "
        "listens at all: the first four lines. The model of who listens predicts whether a user "
        f"listens at all. It was fitted to {NEGATIVES} sampled negatives for each observed pair, "
        "and its probabilities refer to that mixture."
    )


def listener_counts(posterior: Posterior) -> np.ndarray:
    """Count the training listeners of each artist, shape (n_items,)."""
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
