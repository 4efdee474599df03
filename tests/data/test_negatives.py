"""Sampled negatives: what is drawn, how often, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from pyro_pmf.data import with_sampled_negatives
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError, RatingsError


class TestSampledNegatives:
    SEEN = pd.DataFrame(
        {
            "user": [10, 10, 20, 30, 30, 40],
            "item": ["a", "b", "a", "a", "c", "d"],
            "rating": [5.0, 1.0, 3.0, 2.0, 9.0, 7.0],
        }
    )

    @pytest.mark.parametrize("weight", ["uniform", "popularity"])
    def test_seen_pairs_are_ones_and_others_zeros(self, weight):
        table = with_sampled_negatives(self.SEEN, 0.8, seed=1, weight=weight)
        ones, zeros = table.query("rating == 1"), table.query("rating == 0")
        pairs = set(zip(self.SEEN["user"], self.SEEN["item"], strict=True))
        assert set(zip(ones["user"], ones["item"], strict=True)) == pairs
        assert len(ones) == 6
        assert len(zeros) == 5  # 0.8 x 6 = 4.8, and 10 pairs are not seen
        assert not table.duplicated(["user", "item"]).any()
        assert set(zeros["user"]) <= set(self.SEEN["user"])
        assert set(zeros["item"]) <= set(self.SEEN["item"])
        assert not pairs & set(zip(zeros["user"], zeros["item"], strict=True))

    def test_of_ratings_and_of_a_frame_alike(self):
        ratings = Ratings.from_frame(self.SEEN)
        pd.testing.assert_frame_equal(
            with_sampled_negatives(ratings, 0.5, seed=3),
            with_sampled_negatives(self.SEEN.sample(frac=1, random_state=0), 0.5, seed=3),
        )

    def test_makes_ratings_of_no_and_yes(self):
        ratings = Ratings.from_frame(with_sampled_negatives(self.SEEN, 0.5))
        assert ratings.scale == (0.0, 1.0)
        assert sorted(ratings.value.tolist()) == [0] * 3 + [1] * 6

    def test_the_seed_decides_and_nothing_else_changes(self):
        np.random.seed(0)  # noqa: NPY002
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        one, again = (with_sampled_negatives(self.SEEN, 0.5, seed=4) for _ in range(2))
        pd.testing.assert_frame_equal(one, again)
        others = [with_sampled_negatives(self.SEEN, 0.5, seed=seed) for seed in range(9)]
        assert any(not one.equals(other) for other in others)
        assert (np.random.get_state()[1] == state).all()  # noqa: NPY002

    @pytest.mark.slow
    @pytest.mark.statistical
    @pytest.mark.parametrize("weight", ["uniform", "popularity"])
    def test_how_often_an_item_is_drawn(self, weight):
        """Few of many unseen pairs, so that drawing without replacement hardly matters."""
        generator = np.random.default_rng(0)
        item = np.concatenate([generator.choice(400, size, False) for size in (40, 8, 2)])
        seen = pd.DataFrame({"user": item, "item": np.repeat([0, 1, 2], [40, 8, 2])})
        more = pd.DataFrame({"user": np.arange(400), "item": np.arange(400) + 10})
        seen = pd.concat([seen, more])
        drawn = np.zeros(3)
        for seed in range(400):
            table = with_sampled_negatives(seen, 0.2, seed, weight).query("rating == 0")
            drawn += [(table["item"] == k).sum() for k in range(3)]
        unseen = 400 - np.array([40, 8, 2])
        chance = unseen * ([1, 1, 1] if weight == "uniform" else [40, 8, 2])
        share = drawn / drawn.sum()
        np.testing.assert_allclose(share, chance / chance.sum(), atol=0.06)

    @pytest.mark.parametrize("ratio", [0.0, 0.01, 5.0])
    def test_too_few_or_too_many(self, ratio):
        with pytest.raises(PMFError, match="of 10 unseen pairs"):
            with_sampled_negatives(self.SEEN, ratio)

    @pytest.mark.parametrize(("n", "which"), [(6, "every pair is"), (5, "all pairs but one are")])
    def test_of_a_full_matrix(self, n, which):
        full = pd.DataFrame({"user": [1, 1, 1, 2, 2, 2], "item": [1, 2, 3, 1, 2, 3]})
        with pytest.raises(PMFError, match=f"Of 2 users and 3 items, {which} there already"):
            with_sampled_negatives(full.head(n))

    @pytest.mark.parametrize("name", [None, ["item"]])
    def test_refuses_what_cannot_be_a_name(self, name):
        with pytest.raises(RatingsError, match="item= must be the name of a column"):
            with_sampled_negatives(self.SEEN, item=name)

    def test_refuses_what_it_does_not_know(self):
        with pytest.raises(PMFError, match="popularity"):
            with_sampled_negatives(self.SEEN, weight="log")
        with pytest.raises(RatingsError, match="one column 'item'"):
            with_sampled_negatives(self.SEEN[["user"]])

    @pytest.mark.parametrize("weight", ["uniform", "popularity"])
    def test_all_pairs_but_a_few_are_seen(self, weight):
        """One free pair of an item that nearly all have: chance finds it in one of 10^6 draws."""
        user, item = np.divmod(np.arange(2000), 2)
        seen = pd.DataFrame({"user": user, "item": item})[1:]  # all of item 1, but one of item 0
        seen = pd.concat([seen, pd.DataFrame({"user": [0, 1], "item": [2, 3]})])
        table = with_sampled_negatives(seen, 998 / len(seen), seed=0, weight=weight)
        zeros = table.query("rating == 0")
        assert len(zeros) == 998
        assert not table.duplicated(["user", "item"]).any()
        assert (0, 0) in set(zip(zeros["user"], zeros["item"], strict=True)) or weight == "uniform"

    def test_items_that_nobody_took_have_no_popularity(self):
        """The only unseen pairs are of such items: an endless search before."""
        full = pd.DataFrame({"user": [1, 1, 2, 2], "item": ["a", "b", "a", "b"], "rating": 1.0})
        full["rating"] = [1.0, 2.0, 3.0, 4.0]
        ratings = Ratings.from_frame(full)
        wider = ratings.indexed_by(ratings.user_ids, pd.Index(["a", "b", "c", "d"]))
        with pytest.raises(PMFError, match="of 0 unseen pairs"):
            with_sampled_negatives(wider, 0.5, weight="popularity")
        table = with_sampled_negatives(wider, 0.5)
        assert set(table.query("rating == 0")["item"]) <= {"c", "d"}

    def test_a_pair_that_repeats_counts_once(self):
        seen = pd.concat([self.SEEN, self.SEEN])
        pd.testing.assert_frame_equal(
            with_sampled_negatives(seen, 0.5), with_sampled_negatives(self.SEEN, 0.5)
        )

    @pytest.mark.parametrize("ratio", [np.nan, np.inf, -1.0, "1", None, True])
    def test_ratios_that_are_none(self, ratio):
        with pytest.raises(PMFError, match="ratio must be a number"):
            with_sampled_negatives(self.SEEN, ratio)

    def test_columns_of_other_names(self):
        seen = self.SEEN.rename(columns={"user": "customer_id", "item": "sku"})
        table = with_sampled_negatives(seen, 0.5, user="customer_id", item="sku")
        assert list(table) == ["customer_id", "sku", "rating"]
        renamed = table.rename(columns={"customer_id": "user", "sku": "item"})
        pd.testing.assert_frame_equal(renamed, with_sampled_negatives(self.SEEN, 0.5))
        with pytest.raises(PMFError, match='a column "rating"'):
            with_sampled_negatives(self.SEEN, 0.5, user="user", item="rating")
        with pytest.raises(RatingsError) as caught:
            with_sampled_negatives(seen)
        advice = "with_sampled_negatives(frame, user='customer_id', item='sku')"
        assert advice in str(caught.value)
        assert "on_duplicate" not in str(caught.value)
        names = {"frame": seen[:4], "with_sampled_negatives": with_sampled_negatives}
        table = eval(advice.replace(")", ", ratio=0.25)"), names)
        assert table["rating"].tolist() == [1, 1, 1, 1, 0]
