"""The rows that a model is tried on come from all over a split and hold each value of a label."""

import numpy as np

from paths import FIXTURES
from sparkdl.data.dataset import open_dataset
from sparkdl.data.feed.sample_rows import _spread, sample_rows


def test_each_value_of_a_label_comes_before_any_comes_again() -> None:
    labels = np.zeros((1000, 1))
    labels[[17, 500, 999]] = [[1], [2], [1]]
    chosen = labels[_spread(labels)[:6], 0]
    assert sorted(chosen[:3]) == [0, 1, 2] and sorted(chosen) == [0, 0, 0, 1, 1, 2]


def test_the_rows_are_the_same_each_time_and_at_most_as_many_as_asked_for() -> None:

    dataset = open_dataset(str(FIXTURES / "dataset-v1"))
    first, second = (sample_rows(dataset, dataset.split("train"), most=7) for _ in range(2))
    assert {len(rows) for rows in first} == {7}
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
