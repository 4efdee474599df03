"""Which columns of a table hold users, items, ratings and times."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from pyro_pmf.data import remedies
from pyro_pmf.data.frames import NAMES, IntoFrame, column_names, kind_of, to_pandas
from pyro_pmf.errors import RatingsError

_THINGS = (
    "item movie film product book artist song track album business game article recipe "
    "restaurant hotel joke anime"
)
_PEOPLE = "user customer client member reviewer rater reader visitor account person"
# Names without case and punctuation, by what such a column holds.
_KNOWN = {
    "user": {f"{x}{end}" for x in _PEOPLE.split() for end in ("", "id", "s")},
    "item": {f"{x}{end}" for x in _THINGS.split() for end in ("", "id", "s")}
    | {"asin", "parentasin", "isbn", "sku"},
    "rating": {"rating", "ratings", "stars", "star", "starrating", "score", "overall"}
    | {"bookrating", "reviewscore", "weight", "plays", "playcount"},
    "time": {"time", "timestamp", "date", "datetime", "unixreviewtime", "ratedat", "createdat"},
}
_NOT_TIMES = "user", "item", "rating"


@dataclass(frozen=True)
class Columns:
    """The names that the columns of a table have in the caller's tables.

    Attributes
    ----------
    user, item : hashable
        The columns of ids.
    rating, time : hashable or None
        The columns of ratings and times; None if there are none.

    Raises
    ------
    RatingsError
        If a name cannot be the name of a column, or is None for users or items.
    """

    user: Hashable = "user"
    item: Hashable = "item"
    rating: Hashable | None = "rating"
    time: Hashable | None = None

    def __post_init__(self) -> None:
        for role, name in asdict(self).items():
            if not isinstance(name, Hashable) or (name is None and role in ("user", "item")):
                raise RatingsError(f"{role}= must be the name of a column, not {name!r}.")

    def __str__(self) -> str:
        found = {role: name for role, name in asdict(self).items() if name is not None}
        return ", ".join(f"{role} from {name!r}" for role, name in found.items())

    @classmethod
    def recognised(cls, found: Sequence[Any], **given: Hashable | None) -> Columns:
        """Find the columns of a table by their names.

        Parameters
        ----------
        found : sequence
            The names of the table's columns.
        **given
            user, item, rating and time as the caller gave them: a name, None for no such column
            (not for user and item), or "auto" to look for it.

        Returns
        -------
        Columns
            A column that is named as its role, such as "user", is taken before all others. A time
            that is not found is None.

        Raises
        ------
        RatingsError
            If there is no column for users, items or ratings, or there are several.
        """
        names = {role: _find(role, name, list(found)) for role, name in given.items()}
        if given.get("time") == "auto" and names["time"] in {names.get(x) for x in _NOT_TIMES}:
            names["time"] = None  # the caller gave that column another role
        return cls(**names)

    def found_again(
        self, found: Sequence[Any], **given: Hashable | None
    ) -> dict[str, Hashable | None]:
        """Put these names in the place of "auto", where a later table has them.

        Parameters
        ----------
        found : sequence
            The names of the later table's columns.
        **given
            The names of its roles as the caller gave them, see `recognised`.

        Returns
        -------
        dict
            The names of the roles; "auto" where this table has no such column, or where the caller
            gave that column another role.
        """
        names = dict(given)
        for role, name in given.items():
            own = getattr(self, role)
            if name == "auto" and own not in given.values() and list(found).count(own) == 1:
                names[role] = own
        return names

    def of_file(self) -> dict[str, Any]:
        """Return the names as JSON holds them; names other than str and int are left out."""
        return {
            role: name
            for role, name in asdict(self).items()
            if name is None or type(name) in (str, int)
        }

    def pairs(self, frame: IntoFrame) -> pd.DataFrame:
        """Return a caller's table with the columns user and item, and rating if it has one.

        Parameters
        ----------
        frame : table
            Its columns have these names, or the names of the roles: user, item and rating.

        Returns
        -------
        pandas.DataFrame
            With the index of the caller's table.

        Raises
        ------
        RatingsError
            If it is not a table, or has no columns of users and items.
        """
        found = column_names(frame)
        ids = [
            name if found.count(name) == 1 else role
            for role, name in (("user", self.user), ("item", self.item))
        ]
        if ids[0] == ids[1]:
            ids = ["user", "item"]
        absent = [
            role
            for role, name in zip(("user", "item"), ids, strict=True)
            if found.count(name) != 1
        ]
        if absent:
            raise RatingsError(_lacks(absent, found, kind_of(frame), asdict(self)))
        rating = next((x for x in (self.rating, "rating") if found.count(x) == 1), None)
        names = [*ids] if rating is None else [*ids, rating]
        table = to_pandas(frame, names)
        roles = dict(zip(names, ("user", "item", "rating"), strict=False))
        table.columns = pd.Index([roles[name] for name in table.columns])
        before = frame.attrs.get(NAMES, {}) if isinstance(frame, pd.DataFrame) else {}
        called = {role: before.get(name, name) for name, role in roles.items()}
        table.attrs = table.attrs | {NAMES: called}
        return table

    def require_one_role(self) -> None:
        """Refuse two roles for one column."""
        names = [name for name in asdict(self).values() if name is not None]
        if len(set(names)) < len(names):
            raise RatingsError(f"A column has two roles ({self}): name another one for each.")

    def require_distinct(self) -> None:
        """Refuse two roles for one column, and names that exchange users and items.

        Tables of pairs may have these names or those of the roles, and must not have both.
        """
        self.require_one_role()
        standard = {"user", "item", "rating", "time"}
        ids = {"user": self.user, "item": self.item}
        crossed = {name: role for role, name in ids.items() if name != role}
        if crossed and set(ids.values()) <= standard:
            raise RatingsError(
                f"With user={self.user!r} and item={self.item!r}, a later table could not be read "
                "without doubt: give the columns other names, as in frame.rename(columns="
                f"{ {name: f'{role}_id' for name, role in crossed.items()} })."
            )


def select(frame: IntoFrame, *columns: Hashable, told: str | None = None) -> pd.DataFrame:
    """Return columns of a caller's table, without copying their data where that is possible.

    Parameters
    ----------
    frame : table
        The caller's table: of pandas, polars, pyarrow, or what else narwhals reads.
    *columns : hashable
        Names of the columns to return.
    told : str, optional
        The function that takes names as user=, item=, rating= and time=, for the message.

    Raises
    ------
    RatingsError
        If ``frame`` is not a table, or does not have each column exactly once.
    """
    found = column_names(frame)
    absent = [name for name in columns if found.count(name) != 1]
    if absent:
        raise RatingsError(_lacks(absent, found, kind_of(frame), told=told))
    return to_pandas(frame, list(columns))


def _find(role: str, name: Hashable | None, found: list[Any]) -> Hashable | None:
    if name != "auto":
        if name is not None and found.count(name) != 1:
            raise RatingsError(
                f"There is no one column {name!r} for {role}=; the columns are {found}."
            )
        return name
    if found.count(role) == 1:
        return role
    names = _similar(role, found)
    if len(names) == 1:
        return names[0]
    if role == "time":
        return None
    which = f"several that may be it, {names}" if names else "none whose name is known"
    more = ""
    if role == "rating" and not names:
        more = (
            " If the table only says who took what, give rating=None and scale=(0, 1), and add "
            "negatives with pyro_pmf.data.with_sampled_negatives."
        )
    raise RatingsError(
        f"Which column holds the {role}s? The columns are {found}, and there are {which}: name it "
        f'by {role}=. If the file has no header, give names=["user", "item", "rating"] in the '
        f"order of its columns.{more}"
    )


def _similar(role: str, found: list[Any]) -> list[Any]:
    """Return the columns whose name is known for a role, such as userId or customer_id."""
    return [name for name in found if _plain(name) in _KNOWN[role]]


def _plain(name: Any) -> str:
    """Return a name without case, punctuation, and the type that RecBole adds."""
    return "".join(x for x in str(name).partition(":")[0].lower() if x.isalnum())


def _lacks(
    absent: list[Any],
    found: list[Any],
    kind: str,
    named: dict[str, Any] | None = None,
    told: str | None = None,
) -> str:
    """Say which columns a table lacks, and how to name or rename those that it has."""
    needs = " and ".join(f"one column {name!r}" for name in absent)
    if named is not None and any(named[role] != role for role in absent):
        needs += (
            " (or, as in the training table, "
            + " and ".join(repr(named[role]) for role in absent)
            + ")"
        )
    message = f"The table needs {needs}, and its columns are {found}"
    if any(found.count(name) > 1 for name in absent):
        return f"{message}: give each column a name of its own."
    guess = {
        role: names[0]
        for role in absent
        if role in _KNOWN and len(names := _similar(role, found)) == 1
    }
    if told is not None:
        given = ", ".join(
            f"{role}={guess.get(role, '...')!r}" for role in absent if role in _KNOWN
        )
        message += (
            f": name them, as in {told}(frame, {given or 'user=..., item=..., rating=...'})."
        )
        if "rating" in absent and "rating" not in guess:
            message += (
                " If each row only says that a user took an item, add negatives with "
                "pyro_pmf.data.with_sampled_negatives."
            )
        return message
    renamed = {name: role for role, name in guess.items()} or {"...": absent[0]}
    return f"{message}: rename with {remedies.rename(kind, renamed)}."
