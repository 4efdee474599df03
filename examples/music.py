"""Fit counts of how often people listened to artists; a count is no star rating.

python examples/music.py                    # downloads HetRec 2011's Last.fm counts once
python examples/music.py --data hetrec      # their unpacked folder
python examples/music.py --simulate         # no real data

An article builds a recommender from these counts as from stars: standardized, 40 factors, biases,
mini-batches. Its error is barely below the error of the mean. This example fits the article's
recipe, the baselines that it leaves out, and models of counts, all on one split and one scale.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import pandas as pd
from music_figures import save_pictures
from music_models import BEST, POOLED, RECIPE, Clock, fit_and_score, who_listens
from music_tables import (
    WIDTH,
    describe,
    print_biases,
    print_outliers,
    print_ranking,
    print_recommendations,
    print_similar,
    print_table,
    say,
)

from pyro_pmf import PMF, Fixed, NegativeBinomialLog, PMFError, Priors, Ratings
from pyro_pmf.datasets import lastfm_hetrec, simulate


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
    print_biases(posteriors[RECIPE], posteriors[POOLED], titles)

    with clock("who listens"):
        listens, ranked = who_listens(*pair["count"], options)
    print_ranking(ranked)
    if source.startswith("SIMULATED"):
        say("Simulated pairs are drawn evenly, so who listens to whom cannot be learnt.")
    print_similar(listens, titles)
    print_recommendations(posteriors[BEST], listens, pair["count"], titles)
    with clock("pictures"):
        save_pictures(posteriors, listens, pits, titles, options.out)
    clock.print()


def read(options: argparse.Namespace) -> tuple[pd.DataFrame, str]:
    """Return the counts, columns user, item, rating and title, and their source in words."""
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
    """Draw counts of about the same spread, with fewer users and artists."""
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
