"""Read row groups, score their rows, and write them as one Parquet file.

Runs in Spark workers, inside `score_parquet`; holds a few pieces of rows and one row group of the output at a time.
"""

from __future__ import annotations

import contextlib
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparkdl import storage
from sparkdl.data.features.columns import as_array
from sparkdl.data.part_writer import PartWriter
from sparkdl.errors import DatasetError, SchemaError
from sparkdl.model.save import one_line
from sparkdl.score.parquet.input import InputFile, file_state
from sparkdl.score.parquet.old_calendar import check_calendar
from sparkdl.score.worker.prepared_rows import PreparedRows
from sparkdl.score.worker.scoring import piece_rows, score_batches
from sparkdl.score.worker.spec import ScoreSpec
from sparkdl.storage.ranges import RangeFile

if TYPE_CHECKING:
    from pyspark.accumulators import Accumulator

__all__ = ["PartsPlan", "Run", "WrittenPart", "runs_of_tasks", "score_part"]

# The bytes of one row group of the output, in memory: as many as Spark writes, which readers are made for.
_ROW_GROUP_BYTES = 128 << 20
# The bytes of row groups, uncompressed, that are read from a store at once: few requests, and little memory.
_REMOTE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Run:
    """Describe consecutive row groups of a file, from number `start` up to `stop`."""

    file: InputFile
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """The number of rows of this run."""
        return sum(self.file.row_groups[self.start : self.stop])


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsPlan:
    """Hold what tasks need to score their parts.

    Attributes:
        inputs: the columns that `score_batches` takes, in order.
        types: the types to which the values of all columns that are read are cast.
        partition: the types of the columns that folders name.
        written: the columns of the output; `keep` first, then the prediction and, if requested, the error.
        keep: the columns of the input that are written, too.
    """

    inputs: tuple[str, ...]
    types: pa.Schema
    partition: pa.Schema
    written: pa.Schema
    keep: tuple[str, ...]
    score: ScoreSpec
    prepared: PreparedRows | None


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """Describe a finished part: the task's number, the file's name in the plan's folder, its rows and bytes."""

    task: int
    file: str
    rows: int
    bytes: int


def runs_of_tasks(files: Sequence[InputFile], *, tasks: int) -> tuple[tuple[Run, ...], ...]:
    """Divide whole files among `tasks` tasks, in order, at borders of row groups, by rows as evenly as these allow.

    Tasks that would get no row group are left out; without any row group one task stays.
    """
    total, before = sum(sum(file.row_groups) for file in files), 0
    found: list[list[Run]] = [[] for _ in range(tasks)]
    for file in files:
        of_group = []
        for rows in file.row_groups:
            # The task whose share contains the middle of the row group.
            of_group.append(min(tasks - 1, (2 * before + rows) * tasks // (2 * total)) if total else 0)
            before += rows
        for task in sorted(set(of_group)):
            start = of_group.index(task)
            found[task].append(Run(file, start, start + of_group.count(task)))
    return tuple(tuple(runs) for runs in found if runs) or ((),)


def score_part(
    plan: PartsPlan,
    number: int,
    runs: tuple[Run, ...],
    folder: str,
    lease: str,
    accumulator: Accumulator[dict[str, float]] | None,
) -> WrittenPart:
    """Score the runs of the task of this number, and write them to `folder` under a name that no other attempt has.

    `lease` is the file that exists while the driver waits for the parts.

    Raises:
        SchemaError, ModelError, ConfigError: as `score_batches`; rows are named by their numbers in their files.
        DatasetError: a file has changed since the plan was made, or cannot be read; the driver has given up.
    """
    rows, pieces = 0, _pieces(runs, plan, rows=piece_rows(plan.score))
    name = f"part-{number:05d}-{uuid.uuid4().hex[:12]}.parquet"
    path, encodings = storage.join(folder, name), _encodings(plan)
    with PartWriter(path, plan.written, lease=lease, group_bytes=_ROW_GROUP_BYTES, **encodings) as writer:
        row_name = _row_names(runs)
        for scored in score_batches(pieces, plan.score, accumulator, row_name=row_name, prepared=plan.prepared):
            columns = [*scored.source, scored.prediction]
            if len(plan.written) > len(columns):
                columns.append(scored.reasons())
            writer.add(pa.Table.from_arrays(columns, schema=plan.written))
            rows += len(scored.prediction)
    return WrittenPart(number, name, rows, writer.bytes)


def _pieces(runs: tuple[Run, ...], plan: PartsPlan, *, rows: int) -> Iterator[tuple[list[pa.Array], list[pa.Array]]]:
    """Yield the columns to keep and the columns of the model for each piece, which has at most `rows` rows."""
    for run in runs:
        for batch in _batches(run, plan.types.names, rows=rows):
            columns = {field.name: _cast(batch, field, run.file) for field in plan.types}
            for field, value in zip(plan.partition, run.file.partition, strict=True):
                columns[field.name] = pa.repeat(pa.scalar(value, field.type), batch.num_rows)
            yield [columns[name] for name in plan.keep], [columns[name] for name in plan.inputs]


def _batches(run: Run, columns: list[str], *, rows: int) -> Iterator[pa.RecordBatch]:
    """Read a run's rows, at most `rows` at once. Raises DatasetError if the file has changed, is gone or damaged."""
    path, state = run.file.path, run.file.state
    changed = DatasetError(f"{path} has changed since scoring began; score it again")
    try:
        with _opened(path, None if state is None else state[0]) as file:
            found = tuple(file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups))
            if found != run.file.row_groups:
                raise changed
            groups = range(run.start, run.stop)
            together = [groups] if storage.is_local(path) else _at_once(groups, file.metadata)
            for some in together:
                yield from file.iter_batches(rows, row_groups=list(some), columns=columns, use_threads=False)
        # After all was read, to notice a file that was replaced before or meanwhile.
        fs, inner = storage.filesystem(path)
        fs.invalidate_cache()
        if state is not None and file_state(fs.info(inner)) != state:
            raise changed
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is gone since scoring began; score it again") from error
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} cannot be read: {one_line(error)}") from error


def _at_once(groups: range, metadata: pq.FileMetaData) -> list[range]:
    """Divide row groups into those that are read from a store at once: pyarrow buffers all that it is asked for."""
    found, begin, size = [], groups.start, 0
    for group in groups:
        more = metadata.row_group(group).total_byte_size
        if group > begin and size + more > _REMOTE_BYTES:
            found.append(range(begin, group))
            begin, size = group, 0
        size += more
    return [*found, range(begin, groups.stop)]


@contextlib.contextmanager
def _opened(path: str, size: int | None) -> Iterator[pq.ParquetFile]:
    is_local = storage.is_local(path)
    source = storage.filesystem(path)[1] if is_local else RangeFile(path, size)
    # pre_buffer: a row group's columns come by few large requests.
    how: Any = {"memory_map": True} if is_local else {"pre_buffer": True}
    with pq.ParquetFile(source, coerce_int96_timestamp_unit="us", **how) as file:
        yield file


def _cast(batch: pa.RecordBatch, field: pa.Field, file: InputFile) -> pa.Array:
    """Return a column, cast to the type of `field`; nulls if the file lacks it."""
    index = batch.schema.get_field_index(field.name)
    if index < 0:
        return pa.nulls(batch.num_rows, field.type)
    column = as_array(batch.column(index))
    if column.type != field.type:
        try:
            column = column.cast(field.type)
        except pa.ArrowInvalid as error:
            problem = f"column {field.name!r} of {file.path} is {field.type} to Spark: {one_line(error)}"
            raise SchemaError(problem) from error
    why = file.calendar.int96 if field.name in file.int96 else file.calendar.dates
    if why:
        check_calendar(field.name, column, file.path, why, file.calendar.first_moment)
    return column


def _row_names(runs: Sequence[Run]) -> Callable[[int], str]:
    """Name the rows of a task by their numbers in their files."""
    first = list(accumulate((run.rows for run in runs), initial=0))

    def row_name(row: int) -> str:
        index = bisect_right(first, row) - 1
        run = runs[index]
        return f"row {sum(run.file.row_groups[: run.start]) + row - first[index]} of {run.file.path}"

    return row_name


def _encodings(plan: PartsPlan) -> dict[str, Any]:
    """Return the writer's options: those of Spark, except for the model's raw numbers."""
    numbers = plan.written.names[len(plan.keep)] if plan.score.returns.kind == "raw" else ""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, plan.written).close()
    leaves = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    paths = [leaves.column(index).path for index in range(len(leaves))]
    # They neither compress nor repeat; a dictionary would only double the work.
    others = [path for path in paths if path != numbers and not path.startswith(f"{numbers}.")]
    return {
        "compression": {path: "snappy" if path in others else "none" for path in paths},
        "use_dictionary": others,
    }
