"""Describe a prepared dataset: its manifest, and the handle that users and ranks hold.

The handle is read on the driver (`open_dataset`) and carried to ranks and Spark workers as a plain value.
`dataset.json` is written last and atomically: a folder without this file does not hold a dataset, and files that the
manifest does not list are not part of the dataset.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparkdl import storage
from sparkdl.data.features import Encoder, encoder_from_json
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.feature import raw_columns
from sparkdl.data.layout import Field, RecordLayout
from sparkdl.data.split import Split
from sparkdl.errors import DatasetError, near_miss, shown
from sparkdl.storage.format_version import check_format_version

__all__ = ["FORMAT_VERSION", "MANIFEST_NAME", "Dataset", "Part", "Source", "SplitParts", "find_dataset", "open_dataset"]

FORMAT_VERSION = 1
MANIFEST_NAME = "dataset.json"


@dataclass(frozen=True, slots=True)
class Part:
    """Describe a Parquet file of one split.

    Attributes:
        file: the path below the dataset's folder.
        row_groups: the number of rows of each row group.
        bytes: the size of the file.
    """

    file: str
    split: str
    row_groups: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """Describe what a dataset was prepared from.

    Attributes:
        fingerprint: equal for the same config, plan and files; None if nothing identifies the input.
        paths: some of the folders and files that were read, without credentials.
    """

    fingerprint: str | None = None
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SplitParts:
    """Describe one split of a dataset."""

    name: str
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """The number of rows of the split."""
        return sum(self.row_group_rows)

    @property
    def row_group_rows(self) -> tuple[int, ...]:
        """The number of rows of every row group, part after part: the numbering that plans use."""
        return tuple(rows for part in self.parts for rows in part.row_groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Hold the description of a prepared dataset; `prepare` and `open_dataset` return one.

    Attributes:
        path: the folder or URL.
        encoders: the fitted encoder of each feature, in the order of the model's inputs.
        label_encoders: the fitted encoder of each label, in any number.
        weight: the column of sample weights, or None.
        keep: the columns stored as they are.
        raw_types: the Spark type (DDL) that each raw column had when the dataset was prepared.
        rule: how rows were divided, or None if all are "train".
        seed, lanes: determine the order of every epoch.
        fingerprint: identifies the content: another fingerprint means other rows, or another order.
        source: what the dataset was prepared from.
        previous: the folder of the dataset that this one replaced; open handles may still read it.
    """

    path: str
    encoders: tuple[Encoder, ...]
    label_encoders: tuple[Encoder, ...]
    weight: str | None
    keep: tuple[str, ...]
    raw_types: Mapping[str, str]
    rule: Split | None
    seed: int
    lanes: int
    layout: RecordLayout
    parts: tuple[Part, ...]
    fingerprint: str
    source: Source = Source()
    previous: str | None = None

    @property
    def generation(self) -> str:
        """The name of the folder, below the dataset's, that holds all parts."""
        return self.parts[0].file.split("/")[0]

    @property
    def features(self) -> dict[str, Encoder]:
        """The fitted encoder of each feature by name: `ds.features["age"].mean`."""
        return {encoder.name: encoder for encoder in self.encoders}

    @property
    def labels(self) -> dict[str, Encoder]:
        """The fitted encoder of each label by name."""
        return {encoder.name: encoder for encoder in self.label_encoders}

    @property
    def raw_types_of_features(self) -> dict[str, str]:
        """The Spark type (DDL) of each raw column that a feature is made of."""
        return {name: self.raw_types[name] for encoder in self.encoders for name in raw_columns(encoder)}

    @property
    def schema(self) -> tuple[Field, ...]:
        """Role, name, dtype and shape of everything a row holds for the model."""
        return self.layout.fields

    @property
    def classes(self) -> tuple[str | int, ...]:
        """The classes of the categorical label, by code. Raises DatasetError unless the dataset has exactly one."""
        labels = [e for e in self.label_encoders if isinstance(e, CategoricalEncoder)]
        if len(labels) != 1:
            raise DatasetError(f"the dataset has {len(labels)} categorical labels; use ds.labels[name].vocabulary")
        return labels[0].vocabulary

    def encoder_of(self, field: Field) -> Encoder:
        """Return the encoder of a feature or a label of the layout."""
        encoders = self.encoders if field.role == "feature" else self.label_encoders
        return next(encoder for encoder in encoders if encoder.name == field.name)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return ("train",) if self.rule is None else self.rule.names

    def split(self, name: str) -> SplitParts:
        """Return one split with its parts. Raises DatasetError for an unknown name."""
        if name not in self.splits:
            raise DatasetError(f"{self.path} has no split {name!r}{near_miss(name, self.splits)}")
        return SplitParts(name, tuple(part for part in self.parts if part.split == name))

    def to_json(self) -> dict[str, Any]:
        """Return the manifest, without the path: a dataset may be moved."""
        from sparkdl.version import __version__

        return {
            "format_version": FORMAT_VERSION,
            "library_version": __version__,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "lanes": self.lanes,
            "features": [encoder.to_json() for encoder in self.encoders],
            "labels": [encoder.to_json() for encoder in self.label_encoders],
            "weight": self.weight,
            "keep": list(self.keep),
            "raw_types": dict(self.raw_types),
            "splits": None if self.rule is None else self.rule.to_json(),
            "layout": self.layout.to_json(),
            "source": dataclasses.asdict(self.source),
            "previous": self.previous,
            "parts": [dataclasses.asdict(part) for part in self.parts],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, path: str) -> Dataset:
        """Make the dataset that a manifest at `path` describes. Raises DatasetError for a newer format."""
        check_format_version(content, path=path, newest=FORMAT_VERSION, error=DatasetError)
        return cls(
            path=path,
            encoders=tuple(encoder_from_json(e) for e in content["features"]),
            label_encoders=tuple(encoder_from_json(e) for e in content["labels"]),
            weight=content["weight"],
            keep=tuple(content["keep"]),
            raw_types=content["raw_types"],
            rule=None if content["splits"] is None else Split.from_json(content["splits"]),
            seed=content["seed"],
            lanes=content["lanes"],
            layout=RecordLayout.from_json(content["layout"]),
            parts=tuple(Part(p["file"], p["split"], tuple(p["row_groups"]), p["bytes"]) for p in content["parts"]),
            fingerprint=content["fingerprint"],
            source=Source(content["source"]["fingerprint"], tuple(content["source"]["paths"])),
            previous=content["previous"],
        )

    def commit(self) -> None:
        """Write the manifest, which makes this the dataset at `path`."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        storage.write_atomic(storage.join(self.path, MANIFEST_NAME), text.encode())


def open_dataset(path: str) -> Dataset:
    """Open the prepared dataset at a folder or URL.

    Raises:
        DatasetError: the folder does not hold a dataset, the manifest is damaged, or a newer version wrote it.
    """
    path = storage.absolute(path)
    found = find_dataset(path)
    if found is None:
        raise DatasetError(f"no prepared dataset at {path}: it has no {MANIFEST_NAME}; run prepare first")
    return found


def find_dataset(path: str) -> Dataset | None:
    """Return the prepared dataset at an absolute path, or None. Raises DatasetError for an unreadable manifest."""
    try:
        content = json.loads(storage.read_bytes(storage.join(path, MANIFEST_NAME)))
        return Dataset.from_json(content, path=path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = shown(f"{type(error).__name__}: {error}")
        raise DatasetError(
            f"{path}/{MANIFEST_NAME} cannot be read ({problem}); delete the folder and prepare the dataset again"
        ) from error
