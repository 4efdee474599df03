"""InstEval as a table."""

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.datasets import insteval


def test_insteval_as_packaged():
    table = insteval()
    assert list(table) == ["user", "item", "rating"]
    assert (len(table), table["user"].nunique(), table["item"].nunique()) == (73_421, 2_972, 1_128)
    assert set(table["rating"]) == {1, 2, 3, 4, 5}
    assert len(Ratings.from_frame(table)) == 73_421
