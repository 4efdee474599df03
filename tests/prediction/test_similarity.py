"""Similar items and users, against dense computations and under changes of basis."""

import numpy as np
import pandas as pd
import pytest
import torch
from posteriors import posterior_of

from pyro_pmf import MAP, PMF, VI, NormalIdentity, PMFError, Posterior, Ratings, RatingsError, fit
from pyro_pmf.datasets import simulate


def dense_cosines(posterior, of="item"):
    """Weighted cosines of columns (or rows) of U V^T, in each draw: no factors are compared."""
    train = posterior.ratings
    found = []
    for U, V in zip(posterior.latents["U"], posterior.latents["V"], strict=True):
        score = (U @ V.T).numpy() if of == "item" else (V @ U.T).numpy()
        counts = (train.user_counts if of == "item" else train.item_counts).numpy()
        weighted = score * np.sqrt(counts)[:, None]
        norm = np.linalg.norm(weighted, axis=0)
        found.append(weighted.T @ weighted / np.outer(norm, norm))
    return np.stack(found)


@pytest.mark.parametrize("of", ["item", "user"])
def test_draws_against_the_dense_matrix_of_scores(of):
    posterior = posterior_of(kind="draws")
    ids = posterior.ratings.item_ids if of == "item" else posterior.ratings.user_ids
    find = posterior.similar_items if of == "item" else posterior.similar_users
    cosine = dense_cosines(posterior, of)
    mean, sd = cosine.mean(0), cosine.std(0)
    table = find([ids[3], ids[0]], n=5)
    assert list(table) == [of, "rank", "similar", "cosine", "sd", "n_ratings"]
    counts = posterior.ratings.to_frame()[of].value_counts().reindex(ids, fill_value=0)
    for k in (3, 0):
        rows = table[table[of] == ids[k]]
        others = np.where(np.arange(len(ids)) == k, -np.inf, mean[k])
        best = np.argsort(-others, kind="stable")[:5]
        assert rows["similar"].tolist() == ids[best].tolist()
        np.testing.assert_allclose(rows["cosine"], mean[k, best], rtol=1e-10)
        np.testing.assert_allclose(rows["sd"], sd[k, best], atol=1e-7)
        assert rows["n_ratings"].tolist() == counts[rows["similar"]].tolist()
        assert rows["rank"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("of", ["item", "user"])
def test_any_basis_of_the_factors_gives_the_same(of):
    """U A and V A^-T, with another A in each draw."""
    posterior = posterior_of(kind="draws")
    rng = np.random.default_rng(3)
    A = torch.tensor(rng.normal(size=(posterior.n_draws, 2, 2)))
    latents = dict(posterior.latents)
    latents["U"] = latents["U"] @ A
    latents["V"] = latents["V"] @ torch.linalg.inv(A).mT
    turned = Posterior(
        posterior.model, posterior.ratings, latents, posterior.n_draws, posterior.steps, True
    )
    ids = posterior.ratings.item_ids[:4] if of == "item" else posterior.ratings.user_ids[:4]
    tables = [getattr(each, f"similar_{of}s")(ids, n=6) for each in (posterior, turned)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-8, atol=1e-6)
    raw = torch.nn.functional.cosine_similarity(
        latents["V"][:, :1], latents["V"], dim=-1
    ) - torch.nn.functional.cosine_similarity(
        posterior.latents["V"][:, :1], posterior.latents["V"], dim=-1
    )
    assert raw.abs().max() > 0.5  # cosines of raw columns are not the same


def test_a_closed_form_is_drawn_from():
    """Against 4,000 draws; a mean of 200 has an error of 7% of an sd, and six are allowed."""
    posterior = posterior_of()
    table = posterior.similar_items("film03", n=30).set_index("similar")
    n, latents = 4_000, posterior.latents
    draws = {site: torch.stack([latents[site].draw() for _ in range(n)]) for site in "UV"}
    many = Posterior(posterior.model, posterior.ratings, draws, n, posterior.steps, True)
    wanted = many.similar_items("film03", n=30).set_index("similar").reindex(table.index)
    assert ((table["cosine"] - wanted["cosine"]).abs() < 0.43 * wanted["sd"]).all()
    np.testing.assert_allclose(table["sd"], wanted["sd"], rtol=0.35)
    again = posterior.similar_items("film03", n=30).set_index("similar")
    pd.testing.assert_frame_equal(table, again)


def test_a_point_estimate_has_no_sd():
    posterior = posterior_of(kind="point")
    as_draw = {site: x.mean[None] for site, x in posterior.latents.items() if site in ("U", "V")}
    one = Posterior(posterior.model, posterior.ratings, as_draw, 1, posterior.steps, True)
    table = posterior.similar_items("film03", n=50)
    assert len(table) == 30
    assert (table["sd"] == 0).all()
    cosine = dense_cosines(one)[0][3]
    columns = posterior.ratings.item_ids.get_indexer(table["similar"])
    np.testing.assert_allclose(table["cosine"], cosine[columns], rtol=1e-10)


def test_items_without_a_contribution_are_like_none():
    posterior = posterior_of(kind="point")
    posterior.latents["V"].mean[5] = 0.0
    table = posterior.similar_items("film05", n=50)
    assert (table["cosine"] == 0).all()


def test_titles():
    posterior = posterior_of()
    titles = {"film00": "Zero", "film01": "One"}
    series = pd.Series(titles)
    frame = pd.DataFrame({"item": [*titles, "film01"], "title": [*titles.values(), "twice"]})
    tables = [
        posterior.similar_items("film03", 30, titles=given)
        for given in (titles, series, frame, series.to_frame("title"))
    ]
    assert list(tables[0])[:4] == ["item", "rank", "similar", "title"]
    named = tables[0].set_index("similar")["title"]
    assert named["film01"] == "One"
    assert named.isna().sum() == 28
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_titles_by_the_column_of_training():
    frame = pd.DataFrame({"who": [1, 2, 1, 2], "film": [7, 7, 9, 12], "rating": [1.0, 2, 3, 4]})
    ratings = Ratings.from_frame(frame, user="who", item="film")
    posterior = fit(PMF(1), ratings, MAP(max_steps=5, learn_scales=None), progress=False)
    films = pd.DataFrame({"film": [9, 7, 12], "title": ["Nine", "Seven", "Twelve"]})
    named = posterior.similar_items(7, titles=films).set_index("similar")["title"]
    assert named.to_dict() == {9: "Nine", 12: "Twelve"}
    wrong = (films["title"], films[["title"]], {"7": "Seven"}, films.rename(columns=str.upper))
    for titles in (*wrong, films.set_index("title")["film"]):
        with pytest.raises(RatingsError, match="titles"):
            posterior.similar_items(7, titles=titles)


def test_kinds_of_items_are_found():
    """Items of two kinds, with opposite tastes: those of one's own kind are the most similar."""
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((60, 20)) < 0.6)
    taste, kind = np.where(np.arange(60) % 2, 1, -1), np.where(np.arange(20) < 10, 1, -1)
    rating = 3 + 1.5 * taste[user] * kind[item] + 0.3 * rng.normal(size=len(user))
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    ratings = Ratings.from_frame(frame, transform="standardize")
    model = PMF(2, noise="shared", likelihood=NormalIdentity())
    posterior = fit(model, ratings, VI(learn_scales=None), progress=False)
    table = posterior.similar_items(range(20), n=9)
    assert ((table["item"] < 10) == (table["similar"] < 10)).all()
    assert table["cosine"].min() > 0.8


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("film99",), RatingsError, "'film99'"),
        ((None,), RatingsError, "missing"),
        ((pd.DataFrame({"item": ["film01"]}),), RatingsError, "DataFrame"),
        (("film01", 0), PMFError, "n must be"),
        (("film01", 3, "titles"), RatingsError, "titles"),
        (("film01", 3, pd.DataFrame({"name": ["x"]})), RatingsError, "'title'"),
        (("film01", 3, None, -1), PMFError, "seed"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        posterior_of().similar_items(*arguments)


def test_a_model_without_factors_has_no_similar_items():
    model = PMF(0)
    ratings, _ = simulate(model, 8, 6, 30)
    posterior = fit(model, ratings, VI(max_steps=3, learn_scales=None), progress=False)
    with pytest.raises(PMFError, match="n_factors"):
        posterior.similar_items(0)
