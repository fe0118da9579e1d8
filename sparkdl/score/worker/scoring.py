"""Score Arrow columns with a model: encode in a prefetching thread, predict in batches of one size, convert to Arrow.

Runs in Spark workers. `transform`, the UDFs and `score_parquet` are thin layers over `score_batches`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from sparkdl.model.batches import Batch, Batcher
from sparkdl.model.load import LoadedModel
from sparkdl.model.signature import Signature
from sparkdl.score.arguments import arguments_by_input
from sparkdl.score.worker.encode import encode_columns
from sparkdl.score.worker.metrics import Figures
from sparkdl.score.worker.model_cache import loaded_model, loaded_signature
from sparkdl.score.worker.model_call import predict
from sparkdl.score.worker.predictions import prediction_column, row_bytes
from sparkdl.score.worker.prefetch import ahead
from sparkdl.score.worker.prepared_rows import PreparedRows
from sparkdl.score.worker.spec import ScoreSpec

if TYPE_CHECKING:
    from pyspark.accumulators import Accumulator

__all__ = ["Scored", "piece_rows", "score_batches"]

T = TypeVar("T")

# The bytes of encoded values that are encoded, and given to Spark, at once. Fewer cost calls, more cost memory.
_BYTES_AT_ONCE = 8 << 20


@dataclass(frozen=True, slots=True)
class Scored(Generic[T]):
    """Hold the predictions of one piece of rows.

    Attributes:
        source: the object that came with the rows.
        prediction: a column of `outputs.prediction_type`; null for the rows in `problems`.
        problems: the bad rows with their reasons, 0 is the piece's first row; empty unless `on_error="null"`.
    """

    source: T
    prediction: pa.Array
    problems: Mapping[int, str]

    def reasons(self) -> pa.Array:
        """Return a column of each row's error, a string, null for good rows."""
        rows = len(self.prediction)
        if not self.problems:
            return pa.nulls(rows, pa.string())
        return pa.array([self.problems.get(row) for row in range(rows)], pa.string())

    def with_reasons(self) -> pa.Array:
        """Return a column of structs: the prediction, and the error."""
        return pa.StructArray.from_arrays([self.prediction, self.reasons()], ["prediction", "error"])


@dataclass(frozen=True, slots=True)
class _Piece(Generic[T]):
    """Hold rows that are being predicted, with room for their results by output."""

    source: T
    rows: int
    first_row: int
    problems: dict[int, str]
    results: dict[str, np.ndarray]


def piece_rows(task: ScoreSpec) -> int:
    """Return the most rows for a piece of `score_batches`, which processes a whole piece and holds two or three."""
    return max(task.batch_size, _BYTES_AT_ONCE // max(row_bytes(loaded_signature(task)), 1))


def score_batches(
    pieces: Iterable[tuple[T, Sequence[pa.Array]]],
    task: ScoreSpec,
    accumulator: Accumulator[dict[str, float]] | None = None,
    *,
    row_name: Callable[[int], str] | None = None,
    prepared: PreparedRows | None = None,
) -> Iterator[Scored[T]]:
    """Yield the predictions for pieces of raw columns, one for each piece, in order.

    A batch of the model takes rows of several pieces: a piece comes back when the last of its rows is predicted.
    Meanwhile the next pieces are read and encoded.

    Args:
        pieces: an object that the caller wants back with the predictions, and the columns of the model's inputs, in
            order; or one column of structs that names the inputs.
        task: the model and the options of scoring.
        accumulator: the accumulator of a `ScoreMetrics`, which gets this task's metrics at its end.
        row_name: names a row in messages; None: by its number in the Spark partition.
        prepared: makes inputs of the columns of a dataset; None: the columns are raw.

    Raises:
        SchemaError: a bad row, or a column as a whole.
        ModelError: the model cannot be loaded, or fails on a row.
        ConfigError: the GPU is missing.
    """
    started, figures = time.perf_counter(), Figures()
    signature, row_name = loaded_signature(task), row_name or _row_of_partition()
    encoded = ahead(_encoded(pieces, task, signature, prepared, row_name, figures))
    model: LoadedModel | None = None
    open_pieces: deque[_Piece[T]] = deque()
    predicted = 0
    while True:
        with figures.timed("wait_seconds"):
            piece, batches = next(encoded, (None, None))
        if batches is None:
            break
        if piece is not None:
            open_pieces.append(piece)
        for batch in batches:
            # Loaded only if the partition has rows: most partitions of a small input have none.
            model = model or loaded_model(task, figures)
            with figures.timed("predict_seconds"):
                results, problems = predict(model, batch, task, row_name=_from(predicted, row_name))
            with figures.timed("convert_seconds"):
                _hand_out(results, problems, open_pieces, predicted, batch.rows)
            figures.add("batches", 1)
            predicted += batch.rows
        while open_pieces and open_pieces[0].first_row + open_pieces[0].rows <= predicted:
            with figures.timed("convert_seconds"):
                scored = _finished(open_pieces.popleft(), signature, task)
            figures.add("bad_rows", len(scored.problems))
            yield scored
    figures.add("tasks", 1)
    figures.add("rows", predicted)
    figures.add("seconds", time.perf_counter() - started)
    if accumulator is not None:
        accumulator.add(figures.values)


def _row_of_partition() -> Callable[[int], str]:
    """Name rows by their numbers in the Spark partition that is scored."""
    from pyspark import TaskContext

    context = TaskContext.get()
    where = "the input" if context is None else f"partition {context.partitionId()}"
    return lambda row: f"row {row} of {where}"


def _from(first_row: int, row_name: Callable[[int], str]) -> Callable[[int], str]:
    """Name rows that are counted from `first_row`."""
    return lambda row: row_name(first_row + row)


def _encoded(
    pieces: Iterable[tuple[T, Sequence[pa.Array]]],
    task: ScoreSpec,
    signature: Signature,
    prepared: PreparedRows | None,
    row_name: Callable[[int], str],
    figures: Figures,
) -> Iterator[tuple[_Piece[T] | None, list[Batch]]]:
    """Yield each piece with the batches that its rows fill; at the end None with the batches of the rows left over."""
    batcher = Batcher(task.batch_size)
    first_row = 0
    for source, columns in pieces:
        with figures.timed("encode_seconds"):
            how: Any = {"row_name": _from(first_row, row_name), "keep_bad": task.on_error == "null"}
            if prepared is None:
                columns = arguments_by_input(columns, signature)
                by_name = dict(zip(signature.input_names, columns, strict=True))
                inputs, problems = encode_columns(signature.inputs, by_name, **how)
            else:
                inputs, problems = prepared.encode(columns, **how)
            rows = len(columns[0])
            results = {o.name: np.empty((rows, *o.shape), o.numpy_dtype) for o in signature.outputs}
            batches = batcher.add(inputs)
        yield _Piece(source, rows, first_row, problems, results), batches
        first_row += rows
    yield None, batcher.rest()


def _hand_out(
    results: Mapping[str, np.ndarray], problems: Mapping[int, str], pieces: Iterable[_Piece], first_row: int, rows: int
) -> None:
    """Write a batch's results, whose first row is number `first_row`, into the pieces that its rows came from."""
    for piece in pieces:
        start = max(first_row, piece.first_row)
        stop = min(first_row + rows, piece.first_row + piece.rows)
        if start >= stop:
            continue
        in_piece = slice(start - piece.first_row, stop - piece.first_row)
        for name, values in results.items():
            piece.results[name][in_piece] = values[start - first_row : stop - first_row]
        for row, problem in problems.items():
            if start <= first_row + row < stop:
                piece.problems.setdefault(first_row + row - piece.first_row, problem)


def _finished(piece: _Piece[T], signature: Signature, task: ScoreSpec) -> Scored[T]:
    missing = None
    if piece.problems:
        missing = np.zeros(piece.rows, dtype=bool)
        missing[list(piece.problems)] = True
    prediction = prediction_column(piece.results, signature, task.returns, missing=missing)
    return Scored(piece.source, prediction, piece.problems)
