"""Read row groups through Petastorm's `Reader`, in the order of a plan.

Runs in rank processes. Petastorm, imported by `petastorm_names`, gives the interfaces (Reader, worker, pool,
ventilator). The worker, the order (Petastorm shuffles once for all epochs and shards by row-group index)
and the pool (Petastorm's thread pool does not keep an order) are sparkdl's: see docs/decisions/0004.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from sparkdl import storage
from sparkdl.data.dataset import Dataset, SplitParts
from sparkdl.data.feed.local_cache import LocalCache
from sparkdl.data.feed.petastorm_names import EmptyResultError, Parts, Reader, Ventilator
from sparkdl.data.feed.row_group_worker import RowGroup, RowGroupWorker
from sparkdl.data.feed.row_memory import RowMemory
from sparkdl.data.generations import fate
from sparkdl.data.layout import RECORD_COLUMN
from sparkdl.errors import DatasetError

__all__ = ["RowGroupReader"]


class _PlannedOrder(Ventilator):  # type: ignore[misc]
    """Hold the order in which row groups are read; the pool takes the next one when it has room, so nothing polls."""

    def __init__(self, row_groups: Iterable[tuple[int, RowGroup]]) -> None:
        super().__init__(None)
        self._rest = iter(row_groups)
        self.next = next(self._rest, None)
        """The row group to read next, or None at the end."""

    def advance(self) -> None:
        """Go on to the next row group: the pool has taken `next`."""
        self.next = next(self._rest, None)

    def start(self) -> None:
        """Do nothing: the pool takes row groups by itself."""

    def processed_item(self) -> None:
        """Do nothing: the pool bounds the row groups in flight by itself."""

    def completed(self) -> bool:
        return self.next is None

    def stop(self) -> None:
        self.next, self._rest = None, iter(())


class _OrderedPool:
    """Read ahead in threads, and give results in the planned order, by Petastorm's pool interface.

    The memory bounds the reading ahead: a row group is read when there is a slot for it.
    """

    def __init__(self, threads: int, memory: RowMemory, worker: RowGroupWorker) -> None:
        self.workers_count = threads
        self.diagnostics: dict[str, int] = {}
        self._memory = memory
        self._worker = worker
        self._executor: ThreadPoolExecutor | None = None
        self._pending: deque[Future[tuple[int, int]]] = deque()

    def start(self, worker_class: type[RowGroupWorker], worker_args: Any, ventilator: _PlannedOrder) -> None:
        self._executor = ThreadPoolExecutor(self.workers_count, thread_name_prefix="sparkdl-reader")
        self._order = ventilator
        self.read_ahead()

    def read_ahead(self) -> None:
        """Start to read the next row groups, as long as the memory has slots."""
        while self._executor is not None and (item := self._order.next) is not None:
            start = self._memory.reserve(item[0])
            if start is None:
                return
            self._order.advance()
            self._pending.append(self._executor.submit(self._worker.process, *item, start))

    def drain(self) -> None:
        """Wait until all reads have ended."""
        wait(self._pending)

    def get_results(self) -> tuple[int, int]:
        if not self._pending:
            raise EmptyResultError
        return self._pending.popleft().result()

    def stop(self) -> None:
        self._order.stop()
        self._pending.clear()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True)


class _PlannedReader(Reader):  # type: ignore[misc]
    def __init__(self, row_groups: Sequence[RowGroup], order: Iterable[int], pool: _OrderedPool) -> None:
        self._planned = ((index, row_groups[index]) for index in order)
        # Petastorm reads its schema from the first part alone: the manifest already knows all row groups, so no rank
        # opens the footers of parts that it does not read.
        fs, first = storage.filesystem(row_groups[0].path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().__init__(
                fs,
                Parts([first]),
                schema_fields=[f"^{RECORD_COLUMN}$"],
                worker_class=RowGroupWorker,
                reader_pool=pool,
                is_batched_reader=True,
                shuffle_row_groups=False,
            )

    def _create_ventilator(self, *_: Any) -> _PlannedOrder:
        return _PlannedOrder(self._planned)


class RowGroupReader:
    """Read the row groups of a split into a memory, in a given order; a context manager.

    Args:
        order: indices into the split's row groups to read; taken lazily, so it may go over many epochs.
        memory: receives the rows; the reader reads ahead as long as the memory has slots.
        threads: the number of threads that read and decode.
        cache: keeps copies for the next epochs, or None.

    All methods raise DatasetError where a part is missing or is not what the manifest says.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: SplitParts,
        order: Iterable[int],
        memory: RowMemory,
        *,
        threads: int,
        cache: LocalCache | None = None,
    ) -> None:
        row_groups = [
            RowGroup(storage.join(dataset.path, part.file), part.bytes, index, rows)
            for part in split.parts
            for index, rows in enumerate(part.row_groups)
        ]
        self._memory = memory
        self._pool = _OrderedPool(threads, memory, RowGroupWorker(dataset.layout, memory, cache))
        try:
            self._reader = _PlannedReader(row_groups, order, self._pool)
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{row_groups[0].path} cannot be opened: {error}; {fate(dataset.path, dataset.generation)}"
            ) from error

    def wait_for(self, row_group: int) -> None:
        """Wait until a row group is in the memory: it must be the next in the order, or be in the memory already."""
        if self._memory.places[row_group] >= 0:
            return
        got, start = next(self._reader, (None, -1))
        if got != row_group:
            raise DatasetError(
                f"row group {got} came where the plan awaits {row_group}; the dataset was changed or damaged"
            )
        self._memory.places[row_group] = start

    def read_ahead(self) -> None:
        """Read more, after slots were freed in the memory."""
        self._pool.read_ahead()

    def add_slots(self, count: int) -> None:
        """Add slots to the memory."""
        self._pool.drain()
        self._memory.add_slots(count)
        self._pool.read_ahead()

    def __enter__(self) -> RowGroupReader:
        return self

    def __exit__(self, *_: object) -> None:
        # Not Reader.__exit__: it prints to the terminal.
        self._reader.stop()
        self._reader.join()
