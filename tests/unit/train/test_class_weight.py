"""Weights of classes by name and by code."""

import dataclasses

import pytest

from paths import FIXTURES
from sparkdl.data.dataset import Dataset, open_dataset
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.errors import ConfigError
from sparkdl.train.class_weight import class_weights, upgraded


def dataset_with(*labels) -> Dataset:
    manifest = next(FIXTURES.rglob("dataset.json"))
    return dataclasses.replace(open_dataset(str(manifest.parent)), label_encoders=labels)


def label(*classes) -> CategoricalEncoder:
    return dataclasses.replace(CATEGORICAL, vocabulary=classes)


CATEGORICAL = next(
    encoder
    for encoder in open_dataset(str(next(FIXTURES.rglob("dataset.json")).parent)).label_encoders
    if isinstance(encoder, CategoricalEncoder)
)


@pytest.mark.parametrize(
    ("classes", "given", "weights"),
    [
        (("a", "b", "c"), {"a": 3.0}, (3.0, 1.0, 1.0)),
        (("a", "b", "c"), {"c": 2, 0: 0.5}, (0.5, 1.0, 2.0)),
        ((3, 5, 9), {5: 2.0, 3: 0.0}, (0.0, 2.0, 1.0)),
        (("1", "2", "3"), {"1": 20.0}, (20.0, 1.0, 1.0)),
        (("0", "1", "2"), {1: 20.0}, (1.0, 20.0, 1.0)),
        ((1, 2, 3), {1: 20.0}, (20.0, 1.0, 1.0)),
    ],
)
def test_a_class_is_named_or_counted(classes, given, weights) -> None:
    assert class_weights(given, dataset_with(label(*classes))) == weights


@pytest.mark.parametrize(
    ("labels", "given", "message"),
    [
        ((label("a", "b"),), {"c": 1.0}, "names 'c', which is not a class"),
        ((label("apple", "pear"),), {"appel": 1.0}, "did you mean 'apple'"),
        ((label("a", "b"),), {2: 1.0}, "names 2"),
        ((label(3, 5),), {0: 1.0}, "names 0"),
        ((label(1, 2),), {"1": 1.0}, "names '1', which is not a class"),
        (
            (label("1", "2", "3"),),
            {1: 20.0},
            "names 1, which may be the class '1' or the code of class '2'; write '1' or '2'",
        ),
        ((label("a"), label("a")), {"a": 1.0}, "one categorical label"),
        ((), {"a": 1.0}, "one categorical label"),
        ((label("a", "b"),), {"kind": {"a": 1.0}}, "names the output 'kind', which is not a categorical label"),
    ],
)
def test_another_name_is_refused(labels, given, message) -> None:
    with pytest.raises(ConfigError, match=message):
        class_weights(given, dataset_with(*labels))


def test_weights_by_output_are_those_of_its_label() -> None:
    kind, size = (dataclasses.replace(label("a", "b", "c"), name=name) for name in ("kind", "size"))
    given = {"kind": {"b": 2.0}, "size": {0: 0.5}}
    assert class_weights(given, dataset_with(kind, size)) == {"kind": (1.0, 2.0, 1.0), "size": (0.5, 1.0, 1.0)}
    assert class_weights({"kind": {"b": 2.0}}, dataset_with(kind)) == (1.0, 2.0, 1.0)
    recorded = {"class_weight": {"kind": [1.0, 2.0, 1.0]}}
    assert upgraded(recorded, dataset=dataset_with(kind, size)) == recorded
    with pytest.raises(ConfigError, match="names 'd', which is not a class"):
        class_weights({"kind": {"d": 2.0}}, dataset_with(kind, size))


def test_no_weights_are_none() -> None:
    assert class_weights(None, dataset_with()) is None


@pytest.mark.parametrize(
    ("classes", "recorded", "weights"),
    [
        (("a", "b"), {"a": 3.0}, [3.0, 1.0]),
        (("a", "b"), {"1": 3.0}, [1.0, 3.0]),
        ((3, 5), {"5": 3.0}, [1.0, 3.0]),
        ((-1, 1), {"-1": 3.0}, [3.0, 1.0]),
        (("0", "1"), {"1": 3.0}, [1.0, 3.0]),
        (("7", "8"), {"7": 3.0}, [3.0, 1.0]),
        # A name, or the code of "2": nothing tells, so it equals nothing that is given now.
        (("1", "2"), {"1": 3.0}, {"1": 3.0}),
        (("a", "b"), None, None),
        (("a", "b"), [3.0, 1.0], [3.0, 1.0]),
    ],
)
def test_weights_that_older_runs_recorded_are_read_by_code(classes, recorded, weights) -> None:
    options = upgraded({"seed": 1, "class_weight": recorded}, dataset=dataset_with(label(*classes)))
    assert options == {"seed": 1, "class_weight": weights}
