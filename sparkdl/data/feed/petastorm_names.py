"""Import Petastorm's interfaces beside the pyarrow and the numpy of today.

Petastorm 0.13.1, the last one, asks pyarrow for names that are gone since pyarrow 16, and numpy for names that went
with numpy 2. Its modules find them here; pyarrow and numpy stay as they are, also while Petastorm is imported. See
docs/decisions/0017.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq

__all__ = ["EmptyResultError", "Parts", "Reader", "Ventilator", "WorkerBase"]


class Parts(list[str]):
    """Name the Parquet files that a `Reader` opens; its file system is then fsspec's."""


class _Unused:
    """Stand for a class of pyarrow that Petastorm names and the feed does not use."""


@dataclass(frozen=True)
class _Piece:
    """Hold what Petastorm asks of pyarrow's `ParquetDatasetPiece`."""

    path: str
    open_file_func: Any
    row_group: int | None = None
    partition_keys: Any = None

    def get_metadata(self) -> pq.FileMetaData:
        with self.open_file_func(self.path, "rb") as file:
            return pq.read_metadata(file)


def _dataset(path_or_paths: Any, *args: Any, filesystem: Any = None, **options: Any) -> Any:
    """Describe the files of a `Parts` as pyarrow's `ParquetDataset` did; anything else is pyarrow's own."""
    if not isinstance(path_or_paths, Parts):
        return pq.ParquetDataset(path_or_paths, *args, filesystem=filesystem, **options)
    pieces = [_Piece(path, filesystem.open) for path in path_or_paths]
    return SimpleNamespace(pieces=pieces, fs=filesystem, metadata=None, common_metadata=None, partitions=None)


class _View:
    """Show the names of a module, some of them replaced."""

    def __init__(self, module: ModuleType, **replaced: Any) -> None:
        vars(self).update(replaced)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _stub(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(names)
    return module


@contextmanager
def _names_for_the_import() -> Iterator[None]:
    """Let Petastorm's `from pyarrow.filesystem import …` and the like succeed within the block."""
    stubs: dict[str, Any] = {
        "pyarrow.filesystem": _stub("pyarrow.filesystem", LocalFileSystem=_Unused),
        "pyarrow.hdfs": _stub("pyarrow.hdfs", HadoopFileSystem=_Unused),
    }
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        with warnings.catch_warnings():
            # Petastorm and the packages that it needs announce deprecations; users can do nothing about them.
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


with _names_for_the_import():
    import petastorm.etl.dataset_metadata
    import petastorm.reader
    import petastorm.unischema
    from petastorm.reader import Reader
    from petastorm.workers_pool import EmptyResultError
    from petastorm.workers_pool.ventilator import Ventilator
    from petastorm.workers_pool.worker_base import WorkerBase

petastorm.unischema.np = _View(np, string_=np.bytes_, unicode_=np.str_)
_parquet = _View(pq, ParquetDataset=_dataset, ParquetDatasetPiece=getattr(pq, "ParquetDatasetPiece", _Piece))
petastorm.reader.pq = petastorm.etl.dataset_metadata.pq = _parquet
