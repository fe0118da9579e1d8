"""Whether a function is a mean over rows is found for any order of rows and any scale of values."""

import numpy as np
import pytest

from sparkdl.train.exactness.row_form import find_form
from sparkdl.train.exactness.trials import ROWS, make_trials, partitions


def mean_square(y, p):
    return np.mean(np.square(y - p))


def root_mean_square(y, p):
    return np.sqrt(np.mean(np.square(y - p)))


def squares(y, p):
    return np.square(y - p).mean(axis=-1)


def by_class_counts(y, p):
    """The mean error of the positives and that of the negatives, of the batch."""
    errors, y = np.square(y - p)[:, 0], y[:, 0]
    return np.sum(y * errors) / max(y.sum(), 1) + np.sum((1 - y) * errors) / max((1 - y).sum(), 1)


def of_the_batch(y, p):
    """A value for each row, which the batch's positives weigh."""
    return np.square(y - p)[:, 0] / (np.mean(y) + 0.1)


def valid_mean(y, p):
    valid = y >= 0
    return np.sum(np.square(y - p)[valid]) / max(valid.sum(), 1)


def correlation(y, p):
    with np.errstate(invalid="ignore"):
        return 1 - np.corrcoef(y[:, 0], p[:, 0])[0, 1]


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (mean_square, "mean"),
        (root_mean_square, "batch"),
        (squares, "rows"),
        (valid_mean, "batch"),
        (correlation, "batch"),
        (lambda y, p: np.mean(y * p), "mean"),
        (lambda y, p: np.max(np.abs(y - p)), "batch"),
        (lambda y, p: squares(y, p) + 1e-3 * np.var(p), "batch"),
        (lambda y, p: np.sum(np.square(y - p)), "batch"),
    ],
)
def test_a_form_depends_on_neither_the_order_of_rows_nor_their_scale(function, kind, scale) -> None:
    rng = np.random.default_rng(0)
    y, p = rng.normal(size=(64, 1)) * scale, rng.normal(size=(64, 1)) * scale
    for order in range(20):
        rows = np.random.default_rng(order).permutation(64)
        assert find_form(function, make_trials(y[rows], p[rows])).kind == kind


@pytest.mark.parametrize("function", [by_class_counts, of_the_batch])
@pytest.mark.parametrize("labels", [np.zeros((64, 1)), np.eye(64)[:, :1], np.ones((64, 1))])
def test_a_class_that_is_not_among_the_rows_hides_nothing(function, labels) -> None:
    assert find_form(function, make_trials(labels, np.full((64, 1), 0.5))).kind == "batch"


def test_a_model_that_gives_one_prediction_for_all_rows_hides_nothing() -> None:
    rng = np.random.default_rng(0)
    assert find_form(correlation, make_trials(rng.normal(size=(64, 1)), np.zeros((64, 1)))).kind == "batch"


def test_values_that_are_never_finite_prove_nothing_and_are_not_trusted() -> None:
    form = find_form(lambda y, p: np.float64("nan"), make_trials(np.ones((8, 1)), np.ones((8, 1))))
    assert form.kind == "batch" and "no finite value" in form.reason


def test_values_that_are_sometimes_not_finite_are_judged_by_the_others() -> None:
    def logarithm(y, p):
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(p).mean(axis=-1)

    predictions = np.full((64, 1), 0.5)
    predictions[3] = np.nan
    assert find_form(logarithm, make_trials(np.ones((64, 1)), predictions)).kind == "rows"


def test_a_function_that_fails_for_some_of_the_rows_is_a_function_of_the_batch() -> None:
    def of_sixteen(y, p):
        return np.square(y - p).reshape(ROWS).mean()

    form = find_form(of_sixteen, make_trials(np.ones((16, 1)), np.ones((16, 1))))
    assert form.kind == "batch" and "fails for 2 rows" in form.reason


def test_the_reason_holds_the_numbers_that_prove_it() -> None:
    y = np.arange(16.0)[:, None] * 100
    form = find_form(root_mean_square, make_trials(y, np.zeros((16, 1)) - 50.0))
    assert "it is 923.309 for 16 rows" in form.reason


@pytest.mark.parametrize(
    ("labels", "predictions", "drawn"),
    [
        (np.zeros(64), np.full((64, 5), 0.2), {0, 1, 2, 3, 4}),
        (np.zeros((64, 1)), np.full((64, 1), 0.5), {0, 1}),
        (np.where(np.arange(64) % 2, 1.0, -1.0)[:, None], np.zeros((64, 1)), {-1, 1}),
        (np.arange(64) % 3 + 4.0, np.zeros((64, 1)), {4, 5, 6}),
    ],
)
def test_drawn_labels_are_codes_of_classes_where_the_real_ones_are(labels, predictions, drawn) -> None:
    trials = list(make_trials(labels, predictions))
    assert all(set(np.unique(trial.y_true)) <= drawn for trial in trials[2:])
    assert set(np.unique(trials[3].y_true)) == drawn


def test_drawn_probabilities_are_probabilities() -> None:
    chances = np.full((64, 3), 1 / 3)
    for trial in make_trials(np.zeros(64), chances):
        assert np.allclose(trial.y_pred.sum(axis=1), 1) and (trial.y_pred > 0).all()


def test_trials_of_large_rows_have_few_of_them() -> None:
    masks = np.zeros((8, 512, 512, 4))
    assert {len(trial.y_pred) for trial in make_trials(masks, masks)} == {4}


def test_every_row_lies_in_one_part_and_no_part_has_one_row() -> None:
    for rows in (4, 7, ROWS, 64):
        for parts in partitions(rows):
            assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
            assert min(map(len, parts)) >= 2
