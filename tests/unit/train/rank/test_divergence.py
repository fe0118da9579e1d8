"""When ranks count as training the same model."""

import math

import numpy as np
import pytest

from sparkdl.train.rank.callbacks.divergence import difference

NAMES = ["a", "b"]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([[1.0, 2.0], [1.0, 2.0]], None),
        ([[1.0, 2.0], [1.0, 2.0 + 1e-5]], None),
        ([[1.0, math.nan], [1.0, math.nan]], None),
        ([[1.0, math.inf], [1.0, math.inf]], None),
        ([[0.0, 0.0], [0.0, 0.0]], None),
        ([[1.0, 2.0], [1.0, 2.0], [1.0, 2.5]], "b is 2 on rank 0 and 2.5 on rank 2"),
        ([[1.0, 2.0], [1.0, math.nan]], "b is 2 on rank 0 and nan on rank 1"),
        ([[0.0, 2.0], [1e-9, 2.0]], "a is 0 on rank 0 and 1e-09 on rank 1"),
    ],
)
def test_what_differs_is_named(values, found) -> None:
    assert difference(np.array(values), NAMES) == found
