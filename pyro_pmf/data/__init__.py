"""Turn a table of (user, item, rating) rows into checked, indexed ratings on the model scale."""

from pyro_pmf.data.negatives import with_sampled_negatives
from pyro_pmf.data.reading import read_table

__all__ = ["read_table", "with_sampled_negatives"]
