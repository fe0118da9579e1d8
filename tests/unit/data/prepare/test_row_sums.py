"""Sums of hashes: equal for the same rows in any order, and what a difference between readings is called."""

import numpy as np
import pyarrow as pa
import pytest

from sparkdl.data.prepare.count import Counted
from sparkdl.data.prepare.row_sums import NOTHING, Seen, add, sums_in
from sparkdl.data.prepare.shuffle import ORDER_COLUMN
from sparkdl.data.prepare.write import differing


def some(seed, rows=1000):
    return np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, rows, dtype=np.int64)


def test_sums_do_not_depend_on_order_or_division() -> None:
    hashes = some(0)
    whole = sums_in(pa.array(hashes))
    mixed = np.random.default_rng(1).permutation(hashes)
    parts = NOTHING
    for piece in np.array_split(mixed, 7):
        parts = add(parts, sums_in(pa.array(piece)))
    assert parts == whole == tuple(sum((int(h) >> 16 * limb) & 0xFFFF for h in hashes) for limb in range(4))
    assert sums_in(pa.array(hashes).slice(3)) != whole
    assert sums_in(pa.array([], pa.int64())) == NOTHING


@pytest.mark.parametrize(
    ("train", "test", "fitted", "told"),
    [
        (0, 1, 2, ""),
        (9, 1, 2, "rows of split 'train' were others when they were written than when they were counted"),
        (0, 9, 2, "rows of split 'test' were others when they were written than when they were counted"),
        # Counted and written alike, and fitted on others: a plan over fewer columns may be divided in another way.
        (0, 1, 9, "values of 'x', 'y' were others when they were written than when their statistics were computed"),
    ],
)
def test_the_readings_that_differ_are_named(train, test, fitted, told) -> None:
    sums = {seed: sums_in(pa.array(some(seed))) for seed in (0, 1, 2, 9)}
    counted = Counted((1000, 1000), (sums[0], sums[1]), (NOTHING, NOTHING), repeated=False)
    seen = [Seen("their statistics were computed", ("x", "y"), sums[2])]
    written = {"train": {(ORDER_COLUMN,): sums[train], ("x", "y"): sums[fitted]}, "test": {(ORDER_COLUMN,): sums[test]}}
    assert differing(written, counted, ("train", "test"), seen) == told
    empty = {"train": {("x", "y"): sums[2]}, "test": {}}
    assert "split 'train'" in differing(empty, counted, ("train", "test"), seen)
