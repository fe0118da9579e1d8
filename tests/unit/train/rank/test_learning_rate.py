"""What the learning rate is multiplied by, step for step."""

import pytest

from sparkdl.train.rank.callbacks.learning_rate import batch_factor, rate_factor


@pytest.mark.parametrize(
    ("lr_scaling", "rows", "expected"),
    [(None, 4096, 1.0), ("linear", 32, 1.0), ("linear", 256, 8.0), ("linear", 8, 0.25), ("sqrt", 512, 4.0)],
)
def test_the_factor_is_that_of_the_rows_beside_32(lr_scaling, rows, expected) -> None:
    assert batch_factor(lr_scaling, rows=rows) == expected


@pytest.mark.parametrize(
    ("full", "warmup_steps", "expected"),
    [
        # From the user's own rate to a higher one, by the same amount with each step.
        (9.0, 4, [1.0, 3.0, 5.0, 7.0, 9.0, 9.0]),
        (3.0, 1, [1.0, 3.0, 3.0]),
        # From a small one where the rate is not made larger.
        (1.0, 4, [0.25, 0.4375, 0.625, 0.8125, 1.0, 1.0]),
        (0.5, 2, [0.25, 0.375, 0.5, 0.5]),
        (1.0, 1, [1.0, 1.0]),
        # Without warm-up.
        (8.0, 0, [8.0, 8.0]),
    ],
)
def test_the_warm_up_grows_evenly_and_stays_where_it_arrives(full, warmup_steps, expected) -> None:
    steps = [*range(len(expected)), 1000]
    found = [rate_factor(step, full=full, warmup_steps=warmup_steps) for step in steps]
    assert found == pytest.approx([*expected, full], rel=1e-15)
