"""Divide rows into splits by a rule that depends on the rows alone, never on partitions or their order.

Used on the driver by `prepare` and `split`; the rule itself is a Spark expression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkdl.errors import ConfigError, near_miss, shown
from sparkdl.spark_columns import column

if TYPE_CHECKING:
    from pyspark.sql import Column

__all__ = ["Split"]

# 53 bits of a hash make a double in [0, 1) without rounding.
_MANTISSA_BITS = 53


@dataclass(frozen=True, slots=True)
class Split:
    """How rows are divided; made by `Split.fraction` or `Split.column`."""

    kind: str
    names: tuple[str, ...]
    fractions: tuple[float, ...] = ()
    seed: int = 0
    key: tuple[str, ...] = ()
    name_column: str = ""

    @classmethod
    def fraction(cls, fractions: Mapping[str, float], *, seed: int = 0, key: str | Sequence[str] = ()) -> Split:
        """Each row to a split by the hash of its key: about this fraction of rows each, the same in every run.

        Args:
            fractions: split name -> share; they sum to 1 and one is named "train".
            seed: another seed gives another division.
            key: the column(s) that are hashed: all rows of one key fall into one split. Without it, the hash is over
                all columns that the dataset uses, so equal rows fall into one split.

        Raises:
            ConfigError: the shares do not sum to 1, one is not above 0, or "train" is missing.
        """
        if not isinstance(fractions, Mapping) or "train" not in fractions:
            raise ConfigError(f"Split.fraction({shown(fractions)}) must name a split 'train'")
        shares = tuple(float(share) for share in fractions.values())
        if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise ConfigError(f"Split.fraction({shown(dict(fractions))}): shares must be above 0 and sum to 1")
        _check_names(fractions)
        keys = (key,) if isinstance(key, str) else tuple(key)
        return cls("fraction", tuple(fractions), fractions=shares, seed=seed, key=keys)

    @classmethod
    def column(cls, name: str, names: Sequence[str] = ("train", "val", "test")) -> Split:
        """Each row to the split that its column `name` says. Rows with a value outside `names` are an error."""
        if "train" not in names:
            raise ConfigError(f"Split.column({name!r}, {shown(names)}) must name a split 'train'")
        _check_names(names)
        return cls("column", tuple(names), name_column=name)

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Split:
        """A split as YAML writes it: `{fraction: {train: 0.8, test: 0.2}, seed: 7, key: id}` or `{column: name}`."""
        known = {"fraction": {"seed", "key"}, "column": {"names"}}
        kinds = [kind for kind in known if kind in options]
        if len(kinds) != 1:
            raise ConfigError(f"splits={shown(dict(options))} must have one of: {', '.join(known)}")
        rest = {key: value for key, value in options.items() if key != kinds[0]}
        for option in rest:
            if option not in known[kinds[0]]:
                raise ConfigError(f"unknown option {option!r} of splits{near_miss(str(option), known[kinds[0]])}")
        make = cls.fraction if kinds[0] == "fraction" else cls.column
        return make(options[kinds[0]], **rest)

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """The columns the rule reads by name (none: it hashes the whole row)."""
        return (self.name_column,) if self.kind == "column" else self.key

    def index(self, row_columns: Sequence[str]) -> Column:
        """A Spark column with each row's position in `names`; null where the rule gives none.

        Args:
            row_columns: what is hashed where the split has no key.
        """
        from pyspark.sql import functions as F

        position = F.lit(None).cast("int")
        if self.kind == "column":
            for place, name in enumerate(self.names):
                position = F.when(column(self.name_column).cast("string") == name, F.lit(place)).otherwise(position)
            return position
        hashed = F.xxhash64(F.lit(self.seed), *[column(name) for name in self.key or sorted(row_columns)])
        unit = F.shiftrightunsigned(hashed, 64 - _MANTISSA_BITS) / F.lit(float(2**_MANTISSA_BITS))
        edges = _edges(self.fractions)
        position = F.lit(len(self.names) - 1)
        for place in range(len(self.names) - 2, -1, -1):
            position = F.when(unit < F.lit(edges[place]), F.lit(place)).otherwise(position)
        return position

    def to_json(self) -> dict[str, Any]:
        """All that `from_json` needs."""
        return {
            "kind": self.kind,
            "names": list(self.names),
            "fractions": list(self.fractions),
            "seed": self.seed,
            "key": list(self.key),
            "name_column": self.name_column,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Split:
        """The split that `to_json` described."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**fields)


def _edges(fractions: Sequence[float]) -> list[float]:
    """The upper end of each share in [0, 1]."""
    edges, total = [], 0.0
    for share in fractions:
        total += share
        edges.append(total)
    return edges


def _check_names(names: object) -> None:
    for name in names:  # type: ignore[attr-defined]
        if not (isinstance(name, str) and name.isidentifier()):
            raise ConfigError(f"split name {shown(name)} must be a word of letters, digits and underscores")
