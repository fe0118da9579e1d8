"""Divide rows into splits by a rule that depends on the rows alone, never on partitions or their order.

Declared on the driver, with the rest of the configuration; `prepare.splits.apply` applies the rule in Spark.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from itertools import pairwise
from math import isfinite
from typing import Any

from sparkdl.checks import check_options, is_whole
from sparkdl.errors import ConfigError, shown

__all__ = ["Split"]

# Files of a dataset are named after their split.
MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class Split:
    """Hold the rule that divides rows; made by `Split.fraction`, `Split.time` or `Split.column`."""

    kind: str
    """"fraction", "time" or "column"."""

    names: tuple[str, ...]
    """The names of the splits; () for those that occur in the column, until `prepare` has read it."""

    columns: tuple[str, ...]
    """The columns that the rule reads: the key (() hashes the whole row), the time and the last time, or the name."""

    fractions: tuple[float, ...] = ()
    """The share of each split."""

    seed: int = 0
    """The seed of the hash that `fraction` divides by."""

    until: tuple[str | float | None, ...] = ()
    """The end of each split in time: ISO 8601 in UTC without an offset, or a number; None for a split without end."""

    stratify: str | None = None
    """The column in each of whose values `fraction` gives the shares exactly."""

    ends: tuple[tuple[str | None, tuple[int, ...]], ...] = ()
    """For `stratify`: each value, as a string, with the hash position at which each share but the last ends; () until
    `prepare` has read the rows."""

    @property
    def reads(self) -> tuple[str, ...]:
        """All columns that the rule names."""
        return self.columns if self.stratify is None else tuple(dict.fromkeys((*self.columns, self.stratify)))

    @classmethod
    def fraction(
        cls,
        fractions: Mapping[str, float],
        *,
        seed: int = 0,
        key: str | Sequence[str] = (),
        stratify: str | None = None,
    ) -> Split:
        """Assign each row to a split by the hash of its key: about this fraction of rows each, the same in every run.

        Args:
            fractions: split name -> share; they sum to 1 and one is named "train".
            seed: another seed gives another division.
            key: the column(s) that are hashed: all rows of one key fall into one split. Without a key, the hash is over
                all columns that the dataset uses, so equal rows fall into one split.
            stratify: a column of classes, mostly the label: the shares are exact in each class, to one row, or to the
                rows that are equal where a share ends. Rows of a class that `prepare` did not see are divided as
                without it. With a key, all rows of a key must be of one class.

        Raises:
            ConfigError: the shares do not sum to 1, one is not above 0, or "train" is missing.
        """
        if not isinstance(fractions, Mapping) or "train" not in fractions:
            raise ConfigError(f"Split.fraction({shown(fractions)}) must name a split 'train'")
        shares = tuple(fractions.values())
        if not all(_is_number(share) and share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
            raise ConfigError(f"Split.fraction({shown(dict(fractions))}): shares must be above 0 and sum to 1")
        if not is_whole(seed, -(2**63), 2**63 - 1):
            raise ConfigError(f"Split.fraction: seed={shown(seed)} must be a whole number of at most 64 bits")
        _check_names(fractions)
        keys = (key,) if isinstance(key, str) else tuple(key)
        for name in keys:
            _check_column("fraction", "key", name)
        if stratify is not None:
            _check_column("fraction", "stratify", stratify)
        return cls(
            "fraction", tuple(fractions), keys, fractions=tuple(map(float, shares)), seed=seed, stratify=stratify
        )

    @classmethod
    def time(cls, column: str, until: Mapping[str, str | date | float | None], *, last: str | None = None) -> Split:
        """Assign each row to the first split that ends after its time: no split sees the future of an earlier one.

        Times without an offset are UTC. A column of TIMESTAMP is compared by its instants, in every time zone of the
        session alike; a column of TIMESTAMP_NTZ by its local times; a DATE counts as its midnight.

        Args:
            column: a column of timestamps, dates or numbers.
            until: split name -> its end, exclusive, in ascending order: a date or datetime, ISO 8601 text, or a number
                where the column holds numbers. None as the last split's end means no end; else rows from that end on
                are left out of the dataset.
            last: for `windows`: the column with the time of the window's last step. A window whose first and last step
                of the horizon lie in two splits is left out.

        Raises:
            ConfigError: "train" is missing, an end is neither a time nor a number, or the ends do not ascend.
        """
        if not isinstance(until, Mapping) or "train" not in until:
            raise ConfigError(f"Split.time(until={shown(until)}) must name a split 'train'")
        _check_names(until)
        _check_column("time", "column", column)
        ends = tuple(_end(name, value) for name, value in until.items())
        if None in ends[:-1]:
            raise ConfigError(f"Split.time(until={shown(dict(until))}): only the last split may have no end (None)")
        finite = [end for end in ends if end is not None]
        if len({isinstance(end, str) for end in finite}) > 1:
            raise ConfigError(f"Split.time(until={shown(dict(until))}) mixes times and numbers")
        # Text of one format in one time zone sorts as the times do.
        if any(not a < b for a, b in pairwise(finite)):  # type: ignore[operator]
            raise ConfigError(f"Split.time(until={shown(dict(until))}): each split must end after the one before it")
        if last is not None:
            _check_column("time", "last", last)
        return cls("time", tuple(until), (column,) if last is None else (column, last), until=ends)

    @classmethod
    def column(cls, name: str, names: Sequence[str] | None = None) -> Split:
        """Assign each row to the split that its column `name` says.

        Args:
            names: the splits; rows with another value are an error. None takes the values that occur in the rows that
                are prepared, one of which must be "train".
        """
        _check_column("column", "name", name)
        if names is None:
            return cls("column", (), (name,))
        if isinstance(names, str) or "train" not in names:
            raise ConfigError(f"Split.column({name!r}, {shown(names)}) must name a split 'train'")
        _check_names(names)
        return cls("column", tuple(names), (name,))

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Split:
        """Make a split from its form in YAML.

        `{fraction: {train: 0.8, test: 0.2}, seed: 7, key: id, stratify: label}`, `{time: date, until: {train:
        2017-06-26, test: null}, last: date_last}` or `{column: name, names: [train, test]}`.
        """
        kinds = [kind for kind in _OPTIONS if kind in options]
        if len(kinds) != 1:
            raise ConfigError(f"splits={shown(dict(options))} must have one of: {', '.join(_OPTIONS)}")
        kind = kinds[0]
        rest = {key: value for key, value in options.items() if key != kind}
        check_options(rest, _OPTIONS[kind], "splits: ")
        if kind == "time" and "until" not in rest:
            raise ConfigError(f"splits={shown(dict(options))} must have 'until': split name -> its end")
        return getattr(cls, kind)(options[kind], **rest)

    def to_json(self) -> dict[str, Any]:
        """Return all that `from_json` needs."""
        content = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        # Left out where they say nothing, so that rules of version 0.1 keep their fingerprints.
        unused = [name for name in ("stratify", "ends") if not content[name]]
        return {k: v for k, v in content.items() if k not in unused}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Split:
        """Make the split that `to_json` described."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        ends = tuple((name, tuple(positions)) for name, positions in fields.get("ends", ()))
        return cls(**fields | {"ends": ends})


# The options of each kind in YAML, beside its first argument.
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "fraction": ("seed", "key", "stratify"),
    "time": ("until", "last"),
    "column": ("names",),
}


def _end(name: str, value: object) -> str | float | None:
    """Return the end of a split as it is stored: text in one format that sorts as the times do, or a finite number."""
    if value is None:
        return None
    if _is_number(value):
        return value  # type: ignore[return-value]
    moment: object = value
    if isinstance(value, str):
        try:
            # Python 3.10 does not parse the Z.
            moment = datetime.fromisoformat(value.strip().removesuffix("Z") + ("+00:00" if value.endswith("Z") else ""))
        except ValueError:
            moment = None
    elif isinstance(value, date) and not isinstance(value, datetime):
        moment = datetime(value.year, value.month, value.day)
    # pandas' NaT is a datetime, too, but does not equal itself.
    if not isinstance(moment, datetime) or moment != moment:
        raise ConfigError(
            f"Split.time: the end of {name!r} is {shown(value)}; write a date, ISO 8601 text or a finite number"
        )
    if moment.tzinfo is not None:
        moment = moment.astimezone(timezone.utc).replace(tzinfo=None)
    return moment.isoformat(timespec="microseconds")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and abs(value) < 2**63


def _check_column(kind: str, option: str, name: object) -> None:
    if not (isinstance(name, str) and name):
        raise ConfigError(f"Split.{kind}: {option}={shown(name)} must be the name of a column")


def _check_names(names: Iterable[object]) -> None:
    listed = list(names)
    for name in listed:
        if not (isinstance(name, str) and name.isidentifier() and len(name) <= MAX_NAME):
            raise ConfigError(
                f"split name {shown(name)} must be a word of at most {MAX_NAME} letters, digits and underscores"
            )
        if listed.count(name) > 1:
            raise ConfigError(f"split name {name!r} is there twice")
