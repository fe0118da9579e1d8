"""Configure `prepare`: features, label, splits, order.

Made on the driver; the values travel to ranks.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from sparkdl.checks import as_path, named_options, require, require_seed, require_whole
from sparkdl.data.features import Feature, as_feature
from sparkdl.data.features.feature import check_several
from sparkdl.data.split import Split
from sparkdl.errors import shown

__all__ = ["PrepareConfig"]

# 2^6 · 3 lanes divide evenly over 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64 workers, and to within 5 % over every other
# number up to 16 (docs/decisions/0003).
DEFAULT_LANES = 192


@named_options
@dataclass(frozen=True, slots=True)
class PrepareConfig:
    """Declare how a DataFrame becomes a prepared dataset.

    Raises ConfigError for a value out of range or for names used twice.
    """

    _: KW_ONLY

    path: str
    """Folder or URL of the dataset."""

    features: tuple[Feature, ...]
    """The model's inputs, in the order of the UDF's arguments. A bare column name means `Tensor(name)`.
    An encoder that is fitted, as `ds.features["age"]` or one of a model's `signature.inputs`, is taken as it is."""

    label: Feature | tuple[Feature, ...] | None = None
    """The target: a feature, several (for a model with several outputs), or None."""

    weight: str | None = None
    """A numeric column with each row's sample weight, or None."""

    keep: tuple[str, ...] = ()
    """Columns stored beside the features as they are, and not fed to the model: ids, for instance."""

    splits: Split | None = None
    """The rule that divides rows; None puts all rows into "train"."""

    seed: int = 0
    """Seed of the stored order."""

    lanes: int = DEFAULT_LANES
    """The number of sequences that an epoch interleaves, which is also the largest number of workers. It determines the
    order of an epoch."""

    version: str | int | None = None
    """An identifier of the input, in place of its plan or its rows: the same config, version and files, if the plan
    reads any, find the finished dataset. Neither plan nor rows are looked at; give a changed program another version.
    None: the plan and its files identify the input or, where they cannot (the plan runs Python, or reads no files),
    the rows do, by one pass over them."""

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # the one way to normalise a field of a frozen dataclass
        set_(self, "path", as_path("path", self.path))
        require(isinstance(self.features, (list, tuple)), f"features={shown(self.features)} must be a list of features")
        set_(self, "features", tuple(as_feature(f) for f in self.features))
        require(len(self.features) > 0, "features=[] must name at least one feature")
        if isinstance(self.label, (list, tuple)):
            labels = tuple(as_feature(f) for f in self.label)
            require(len(labels) > 0, "label=[] must name at least one feature; use label=None for none")
            set_(self, "label", labels if len(labels) > 1 else labels[0])
        elif self.label is not None:
            set_(self, "label", as_feature(self.label))
        require(isinstance(self.keep, (list, tuple)), f"keep={shown(self.keep)} must be a list of column names")
        set_(self, "keep", tuple(self.keep))
        require(all(isinstance(name, str) for name in self.keep), f"keep={shown(self.keep)} must hold column names")
        require(
            self.weight is None or isinstance(self.weight, str), f"weight={shown(self.weight)} must be a column name"
        )
        good = self.splits is None or isinstance(self.splits, Split)
        require(good, f"splits={shown(self.splits)} must be made by Split.fraction, Split.time or Split.column")
        for kind, names in (
            ("features", [feature.name for feature in self.features]),
            ("label", [feature.name for feature in self.labels]),
            ("keep", list(self.keep)),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            require(not twice, f"{shown(twice)} is named twice in {kind}; name each column once")
        self._check_several()
        require_seed(self.seed)
        require_whole("lanes", self.lanes)
        good = isinstance(self.version, (str, int)) and not isinstance(self.version, bool) and self.version != ""
        require(self.version is None or good, f"version={shown(self.version)} must be a string or a whole number")

    def _check_several(self) -> None:
        """Raise ConfigError for a label of several columns, and for an input of several that bears a column's name."""
        for label in self.labels:
            require(not getattr(label, "columns", ()), f"label {label.name!r}: give several columns as several labels")
        others = [*([self.weight] if self.weight else []), *self.keep, *(self.splits.reads if self.splits else ())]
        check_several((*self.features, *self.labels), others)

    @property
    def labels(self) -> tuple[Feature, ...]:
        """The label features as a tuple, in any number."""
        if self.label is None:
            return ()
        return self.label if isinstance(self.label, tuple) else (self.label,)
