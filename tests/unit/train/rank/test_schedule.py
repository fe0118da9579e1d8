"""Epochs of any number of steps are consecutive pieces of the passes over the rows."""

import itertools

import pytest

from sparkdl.train.rank.schedule import Schedule
from sparkdl.train.run.checkpoint import Position


@pytest.mark.parametrize(("steps", "epochs"), [(1, 9), (2, 6), (3, 1), (3, 5), (5, 4), (6, 2), (7, 3), (40, 2)])
def test_from_any_position_on_the_steps_are_those_of_the_passes(steps, epochs) -> None:
    schedule = Schedule(epochs=epochs, steps=steps, steps_of_pass=3)
    all_steps = list(itertools.islice(itertools.product(range(1000), range(3)), epochs * steps))
    for done in range(epochs * steps):
        passes, first = schedule.passes_from(Position(*divmod(done, steps)))
        # The last pass may go on after the last step.
        given = [(one, step) for one in passes for step in range(first if one == passes[0] else 0, 3)]
        assert given[: len(all_steps) - done] == all_steps[done:] and len(given) < len(all_steps) - done + 3


@pytest.mark.parametrize(
    ("every", "validated"), [(1, [0, 1, 2, 3, 4, 5, 6]), (2, [1, 3, 5, 6]), (3, [2, 5, 6]), (7, [6]), (9, [6])]
)
def test_each_nth_epoch_and_the_last_are_validated(every, validated) -> None:
    schedule = Schedule(epochs=7, steps=1, steps_of_pass=1, validation_every=every)
    assert [epoch for epoch in range(7) if schedule.validates(epoch)] == validated
