"""Which epoch's model is the best."""

import pytest

from sparkdl.train.run.best_epoch import best_value, direction_of, is_better, unknown_monitor

KNOWN = {"accuracy": "max", "top2": "max", "mae": "min", "head_pr": "max", "fairness": None, "loss": None}


@pytest.mark.parametrize(
    ("monitor", "direction"),
    [
        ("accuracy", "max"),
        ("val_top2", "max"),
        ("val_head_pr", "max"),
        ("val_mae", "min"),
        ("loss", "min"),
        ("val_loss", "min"),
        ("accuracy_head_loss", "min"),
        ("val_decoder2_loss", "min"),
        # What a name sounds like says nothing.
        ("val_fairness", None),
        ("my_accuracy", None),
        ("lr", None),
        ("gradient_norm", None),
        ("lossless", None),
    ],
)
def test_the_direction_is_what_the_metric_states_and_down_for_losses(monitor, direction) -> None:
    assert direction_of(monitor, "auto", KNOWN) == direction


def test_a_mode_that_is_given_counts() -> None:
    assert direction_of("loss", "max", KNOWN) == "max"
    assert direction_of("val_accuracy", "min", KNOWN) == "min"
    assert direction_of("fairness", "max", {}) == "max"


def test_the_first_number_is_the_best_and_nan_never_is() -> None:
    assert is_better(5.0, None, direction="min")
    assert not is_better(float("nan"), None, direction="min")
    assert is_better(0.9, 0.1, direction="max") and not is_better(0.1, 0.9, direction="max")
    assert is_better(0.1, 0.9, direction="min") and not is_better(0.9, 0.1, direction="min")


def test_the_best_of_a_history_is_found_again() -> None:
    history = [{"mae": 3.0}, {"mae": float("nan")}, {"mae": 1.0, "iou": [0.5, 0.5]}, {"mae": 2.0}]
    assert best_value(history, "mae", "min") == 1.0 and best_value(history, "mae", "max") == 3.0
    assert best_value(history, "iou", "max") is None and best_value([], "mae", "min") is None


def test_a_monitor_that_the_model_does_not_give_is_named_with_what_it_gives() -> None:
    given = {"loss", "accuracy", "val_loss", "val_accuracy", "lr"}
    assert unknown_monitor("val_accuracy", given) is None
    assert unknown_monitor(None, given) is None
    assert unknown_monitor("val_acuracy", given) == (
        "checkpoint.monitor='val_acuracy' is not in the history; did you mean 'val_accuracy'?"
    )
