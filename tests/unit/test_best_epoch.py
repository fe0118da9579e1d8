"""Which epoch's model is the best."""

import pytest

from sparkdl.train.best_epoch import is_better, unknown_monitor

LARGER = [
    "accuracy",
    "val_acc",
    "val_top_k_categorical_accuracy",
    "val_auc",
    "pr_auc_1",
    "val_precision",
    "recall_at_precision",
    "f1_score",
    "val_fbeta_score",
    "r2_score",
    "val_mean_io_u",
    "io_u",
    "val_binary_io_u_1",
    "miou",
    "head/accuracy",
]
SMALLER = [
    "loss",
    "val_loss",
    "val_decoder2_loss",
    "tower2_mae",
    "accuracy_head_loss",
    "val_previous_loss",
    "val_accumulated_error",
    "mae",
    "val_layer2_mse",
]


@pytest.mark.parametrize("monitor", LARGER)
def test_more_is_better_of_what_measures_success(monitor):
    assert is_better(0.9, 0.1, monitor=monitor, mode="auto")
    assert not is_better(0.1, 0.9, monitor=monitor, mode="auto")


@pytest.mark.parametrize("monitor", SMALLER)
def test_less_is_better_of_losses_and_errors(monitor):
    assert is_better(0.1, 0.9, monitor=monitor, mode="auto")
    assert not is_better(0.9, 0.1, monitor=monitor, mode="auto")


def test_a_mode_that_is_given_counts():
    assert is_better(0.9, 0.1, monitor="loss", mode="max")
    assert is_better(0.1, 0.9, monitor="accuracy", mode="min")


def test_the_first_number_is_the_best_and_nan_never_is():
    assert is_better(5.0, None, monitor="loss", mode="auto")
    assert not is_better(float("nan"), None, monitor="loss", mode="auto")


def test_a_monitor_that_the_model_does_not_give_is_named_with_what_it_gives() -> None:
    given = {"loss", "accuracy", "val_loss", "val_accuracy", "lr"}
    assert unknown_monitor("val_accuracy", given) is None
    assert unknown_monitor(None, given) is None
    assert unknown_monitor("val_acuracy", given) == (
        "checkpoint.monitor='val_acuracy' is not in the history; did you mean 'val_accuracy'?"
    )
