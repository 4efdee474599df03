"""The errors this package raises on purpose: one family, each a ``ValueError``."""


class PMFError(ValueError):
    """What was asked for cannot be done; the message says why and what to do instead."""


class RatingsError(PMFError):
    """A table of ratings that no model can be given as it stands."""


class FitError(PMFError):
    """A fit that cannot start, or whose result is not to be trusted."""


class StorageError(PMFError):
    """A saved posterior that cannot be written or read."""
