"""Batches for the model: all rows once, in order, in two sizes at most; and the thread that makes them ahead."""

import threading

import numpy as np
import pytest

from sparkdl.model.batches import Batcher, small_batch
from sparkdl.score.worker.prefetch import ahead


def batched(pieces: list[int], batch_size: int):
    """The batches of pieces with so many rows; a row's value is its number plus one."""
    batcher, batches, start = Batcher(batch_size), [], 1
    for rows in pieces:
        values = np.arange(start, start + rows, dtype=np.float32)
        batches += batcher.add({"x": values, "y": np.stack([values, -values], axis=1)})
        start += rows
    return batches + batcher.rest()


@pytest.mark.parametrize("pieces", [[], [0], [1], [5, 0, 3], [1] * 50, [1000], [7, 100, 31, 1], [64, 64]])
@pytest.mark.parametrize("batch_size", [1, 7, 32, 1024])
def test_every_row_comes_once_in_order_in_two_sizes_at_most(pieces, batch_size) -> None:
    batches = batched(pieces, batch_size)
    rows = np.concatenate([np.empty(0), *(b.inputs["x"][: b.rows] for b in batches)])
    assert rows.tolist() == list(range(1, sum(pieces) + 1))
    for batch in batches:
        assert np.array_equal(batch.inputs["y"], np.stack([batch.inputs["x"], -batch.inputs["x"]], axis=1))
        assert not batch.inputs["x"][batch.rows :].any(), "what fills a batch up is zeros"
    assert {len(b.inputs["x"]) for b in batches} <= {batch_size, small_batch(batch_size)}
    assert all(len(b.inputs["x"]) == b.rows for b in batches[:-1]), "only the last batch is filled up"


def test_a_tail_computes_at_most_twice_its_rows_or_a_small_batch() -> None:
    for rows in range(1, 1024):
        computed = sum(len(b.inputs["x"]) for b in batched([rows], 1024))
        assert computed <= max(2 * rows, small_batch(1024))


def test_rows_within_a_piece_are_not_copied() -> None:
    values = np.zeros((100, 3))
    batches = Batcher(32).add({"x": values})
    assert len(batches) == 3 and all(np.shares_memory(batch.inputs["x"], values) for batch in batches)


def test_the_next_item_is_made_while_the_current_one_is_worked_on() -> None:
    made, go_on = threading.Event(), threading.Event()

    def source():
        yield 1
        made.set()
        yield 2
        go_on.set()
        yield 3

    items = ahead(source())
    assert next(items) == 1
    assert made.wait(10), "the second item waits for the first to be finished"
    assert not go_on.is_set(), "it works more than one item ahead"
    assert list(items) == [2, 3]


def test_an_error_comes_where_its_item_would_have() -> None:
    def source():
        yield 1
        raise KeyError("lost")

    items = ahead(source())
    assert next(items) == 1
    with pytest.raises(KeyError, match="lost"):
        next(items)


def test_a_caller_that_stops_ends_the_thread() -> None:
    ended = threading.Event()

    def source():
        try:
            while True:
                yield 0
        finally:
            ended.set()

    items = ahead(source())
    next(items)
    items.close()
    assert ended.wait(10)
