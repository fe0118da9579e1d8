"""Read row groups through Petastorm's `Reader`, in the order of a plan.

Runs in rank processes. The only module that knows Petastorm. Petastorm gives the frame (Reader, worker, pool,
ventilator); ours are the worker (one row group -> records, no copy of copies), the order (Petastorm shuffles once for
all epochs and shards by row-group index) and the pool (its own thread pool does not keep an order): see
docs/decisions/0004.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from sparkdl import storage
from sparkdl.data.dataset import Dataset, SplitParts
from sparkdl.data.layout import RECORD_COLUMN, RecordLayout
from sparkdl.errors import DatasetError

with warnings.catch_warnings():
    # Petastorm and the pyarrow it needs announce each other's deprecations at import; users can do nothing about it.
    warnings.simplefilter("ignore")
    from petastorm.reader import Reader
    from petastorm.workers_pool import EmptyResultError
    from petastorm.workers_pool.ventilator import Ventilator
    from petastorm.workers_pool.worker_base import WorkerBase
    from pyarrow.filesystem import DaskFileSystem

__all__ = ["RowGroup", "RowGroupReader"]

# Row groups decoded ahead of the consumer, for each thread: enough to hide one read behind another.
READ_AHEAD_PER_THREAD = 2


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Where a row group lies."""

    path: str
    place: int
    rows: int


class _LegacyFileSystem(DaskFileSystem):  # type: ignore[misc]
    """An fsspec filesystem as the pyarrow interface that Petastorm 0.13.1 needs; it lacks two methods there."""

    def isdir(self, path: str) -> bool:
        return bool(self.fs.isdir(path))

    def isfile(self, path: str) -> bool:
        return bool(self.fs.isfile(path))


class _RecordWorker(WorkerBase):  # type: ignore[misc]
    """Reads row groups; called from several threads at once, each with file handles of its own."""

    def __init__(self, worker_id: int, publish: Any, layout: RecordLayout) -> None:
        super().__init__(worker_id, publish, None)
        self._layout = layout
        self._of_thread = threading.local()
        self._footers: dict[str, pq.FileMetaData] = {}

    @staticmethod
    def new_results_queue_reader() -> _Results:
        return _Results()

    def process(self, number: int, row_group: RowGroup) -> tuple[int, np.ndarray]:
        """The records of a row group. Raises DatasetError if the file does not hold what the manifest says."""
        try:
            file = self._file(row_group.path)
            table = file.read_row_group(row_group.place, columns=[RECORD_COLUMN], use_threads=False)
        except (OSError, ValueError, IndexError) as error:
            raise DatasetError(f"{row_group.path}, row group {row_group.place} cannot be read: {error}") from error
        records = self._layout.from_arrow(table.column(0))
        if len(records) != row_group.rows:
            raise DatasetError(
                f"{row_group.path}, row group {row_group.place} has {len(records)} rows, the manifest says "
                f"{row_group.rows}; prepare the dataset again"
            )
        return number, records

    def _file(self, path: str) -> pq.ParquetFile:
        files: dict[str, pq.ParquetFile] = self._of_thread.__dict__.setdefault("files", {})
        if path not in files:
            fs, inner = storage.filesystem(path)
            source = inner if storage.is_local(path) else fs.open(inner, "rb")
            footer = self._footers.get(path)
            files[path] = pq.ParquetFile(source, metadata=footer, memory_map=storage.is_local(path))
            self._footers[path] = files[path].metadata
        return files[path]


class _Results:
    """What Petastorm's Reader asks for the next result."""

    batched_output = True

    def read_next(self, pool: _OrderedPool, schema: Any, ngram: Any) -> tuple[int, np.ndarray]:
        try:
            return pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class _PlannedOrder(Ventilator):  # type: ignore[misc]
    """The order in which row groups are read; the pool takes from it when it has room, so nothing polls."""

    def __init__(self, row_groups: Iterable[tuple[int, RowGroup]]) -> None:
        super().__init__(None)
        self._rest: Iterator[tuple[int, RowGroup]] | None = iter(row_groups)

    def take(self) -> tuple[int, RowGroup] | None:
        item = next(self._rest, None) if self._rest is not None else None
        if item is None:
            self._rest = None
        return item

    def start(self) -> None:
        """The pool takes by itself."""

    def processed_item(self) -> None:
        """The pool bounds what is in flight by itself."""

    def completed(self) -> bool:
        return self._rest is None

    def stop(self) -> None:
        self._rest = None


class _OrderedPool:
    """Threads that read ahead; results come in the order that was asked for. Petastorm's pool interface."""

    def __init__(self, threads: int, layout: RecordLayout) -> None:
        self.workers_count = threads
        self.diagnostics: dict[str, int] = {}
        self._layout = layout
        self._executor: ThreadPoolExecutor | None = None
        self._pending: deque[Future[tuple[int, np.ndarray]]] = deque()

    def start(self, worker_class: type[_RecordWorker], worker_args: Any, ventilator: _PlannedOrder) -> None:
        self._executor = ThreadPoolExecutor(self.workers_count, thread_name_prefix="sparkdl-reader")
        self._worker = worker_class(0, None, self._layout)
        self._order = ventilator
        for _ in range(self.workers_count * (1 + READ_AHEAD_PER_THREAD)):
            self._submit()

    def _submit(self) -> None:
        item = self._order.take()
        if item is not None and self._executor is not None:
            self._pending.append(self._executor.submit(self._worker.process, *item))

    def get_results(self) -> tuple[int, np.ndarray]:
        if not self._pending:
            raise EmptyResultError
        result = self._pending.popleft().result()
        self._submit()
        return result

    def stop(self) -> None:
        self._order.stop()
        self._pending.clear()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True)


class _PlannedReader(Reader):  # type: ignore[misc]
    def __init__(self, *args: Any, planned: Iterable[tuple[int, RowGroup]], **options: Any) -> None:
        self._planned = planned
        super().__init__(*args, **options)

    def _create_ventilator(self, *_: Any) -> _PlannedOrder:
        return _PlannedOrder(self._planned)


class RowGroupReader:
    """The row groups of a split in a given order, each as records. A context manager.

    Args:
        order: indices into the split's row groups; read lazily, so it may go over many epochs.
        threads: decoding threads.

    Iterating yields (row group index, records), in `order`. Raises DatasetError where a part is missing or is not what
    the manifest says.
    """

    def __init__(self, dataset: Dataset, split: SplitParts, order: Iterable[int], *, threads: int) -> None:
        places = [
            RowGroup(storage.join(dataset.path, part.file), place, rows)
            for part in split.parts
            for place, rows in enumerate(part.row_groups)
        ]
        self._reader = _open_reader(places, order, _OrderedPool(threads, dataset.layout))

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return iter(self._reader)

    def __enter__(self) -> RowGroupReader:
        return self

    def __exit__(self, *_: object) -> None:
        # Not Reader.__exit__: it prints to the terminal.
        self._reader.stop()
        self._reader.join()


def _open_reader(places: Sequence[RowGroup], order: Iterable[int], pool: _OrderedPool) -> Reader:
    # Petastorm reads its schema from the first part alone: the manifest already knows all row groups, so no rank opens
    # the footers of parts that it does not read.
    fs, first = storage.filesystem(places[0].path)
    planned = ((index, places[index]) for index in order)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _PlannedReader(
                _LegacyFileSystem(fs),
                [first],
                schema_fields=[f"^{RECORD_COLUMN}$"],
                worker_class=_RecordWorker,
                reader_pool=pool,
                is_batched_reader=True,
                shuffle_row_groups=False,
                planned=planned,
            )
    except (OSError, ValueError) as error:
        raise DatasetError(f"{places[0].path} cannot be opened: {error}; the dataset was moved or damaged") from error
