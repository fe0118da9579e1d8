"""Gradients are summed in buckets, from the last layer to the first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkdl.train.exact.gradients import LARGEST, SMALLEST, buckets

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([8], [[0]]),
        ([100, 200, 300], [[2, 1, 0]]),
        # A small network: the last layer's large kernel at once, what the first layers leave alone.
        ([600, 64, 18_000, 128, MIB, 256, 2_560, 40], [[7, 6, 5, 4], [3, 2, 1, 0]]),
        ([MIB] * 8, [[7, 6], [5, 4], [3, 2], [1, 0]]),
        ([100 * MIB] * 3, [[2], [1], [0]]),
    ],
)
def test_buckets_are_filled_from_the_end(sizes, expected) -> None:
    assert buckets(sizes) == expected


@given(st.lists(st.integers(0, 40 * MIB), max_size=60))
def test_every_gradient_is_in_one_bucket_and_only_the_last_is_small(sizes) -> None:
    found = buckets(sizes)
    assert [place for bucket in found for place in bucket] == list(reversed(range(len(sizes))))
    enough = min(max(sum(sizes) // 4, SMALLEST), LARGEST)
    for bucket in found[:-1]:
        filled = sum(sizes[place] for place in bucket)
        assert filled >= enough > filled - sizes[bucket[-1]]
