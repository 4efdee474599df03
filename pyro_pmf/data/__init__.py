"""Turn a table of (user, item, rating) rows into checked, indexed ratings on the model scale."""

from pyro_pmf.data.negatives import with_sampled_negatives

__all__ = ["with_sampled_negatives"]
