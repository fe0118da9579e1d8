"""What predictions become: types, classes, probabilities, nulls."""

import numpy as np
import pyarrow as pa
import pytest

from sparkdl.errors import ConfigError, ModelError
from sparkdl.model.signature import Output, Signature
from sparkdl.score.options import ScoreOptions
from sparkdl.score.worker.predictions import Returns, check_returns, not_numbers, prediction_column, prediction_type

PETS = ("cat", "cow", "dog")
RAW, CLASS, TOP_2 = Returns("raw", 5), Returns("class", 5), Returns("top_k", 2)


def signature(*outputs: Output) -> Signature:
    return Signature(inputs=(), raw_types={}, outputs=outputs, content_hash="", floatx="float32")


def column(values, output: Output, returns: Returns, missing=None) -> pa.Array:
    made = prediction_column({output.name: np.asarray(values)}, signature(output), returns, missing=missing)
    assert made.type == prediction_type(signature(output), returns)
    made.validate(full=True)
    return made


@pytest.mark.parametrize(
    ("shape", "dtype", "type_"),
    [
        ((), "float32", pa.float32()),
        ((1,), "float64", pa.float64()),
        ((2,), "int64", pa.list_(pa.int64())),
        ((2, 1), "bfloat16", pa.list_(pa.list_(pa.float32()))),
        ((1, 2, 2), "float16", pa.list_(pa.list_(pa.list_(pa.float32())))),
        ((2,), "uint8", pa.list_(pa.int16())),
        ((2,), "bool", pa.list_(pa.bool_())),
    ],
)
def test_raw_predictions_of_any_rank_and_type(shape, dtype, type_) -> None:
    output = Output("o", dtype, shape, None)
    values = (np.arange(3 * int(np.prod(shape))) % 2).reshape(3, *shape).astype(output.numpy_dtype)
    made = column(values, output, RAW)
    assert made.type == type_
    assert np.array_equal(np.array(made.to_pylist()).reshape(values.shape), values)
    assert len(column(values[:0], output, RAW)) == 0


def test_the_best_classes_come_first_with_their_probabilities() -> None:
    made = column([[0.1, 0.2, 0.7], [0.4, 0.4, 0.2]], Output("o", "float64", (3,), PETS), TOP_2).to_pylist()
    assert made[0] == [{"class": "dog", "probability": 0.7}, {"class": "cow", "probability": 0.2}]
    assert [entry["class"] for entry in made[1]] == ["cat", "cow"], "of equals the first class comes first"


def test_more_classes_than_there_are_give_all() -> None:
    made = column([[0.1, 0.2, 0.7]], Output("o", "float64", (3,), PETS), Returns("top_k", 99))
    assert [entry["class"] for entry in made[0].as_py()] == ["dog", "cow", "cat"]


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_probability_is_that_of_the_second_of_two_classes(shape) -> None:
    values = np.array([0.25, 0.75]).reshape(2, *shape)
    output = Output("o", "float64", shape, (10, 20))
    assert column(values, output, CLASS).to_pylist() == [10, 20]
    first, second = ([tuple(e.values()) for e in row] for row in column(values, output, TOP_2).to_pylist())
    assert first == [(10, 0.75), (20, 0.25)] and second == [(20, 0.75), (10, 0.25)]


def test_logits_become_probabilities() -> None:
    binary = Output("o", "float64", (1,), (0, 1), threshold=0.0)
    values = np.array([[0.0], [2.0], [-800.0], [800.0]])
    made = column(values, binary, TOP_2).to_pylist()
    assert np.allclose([row[0]["probability"] for row in made], [0.5, 1 / (1 + np.exp(-2.0)), 1.0, 1.0])
    assert [row[0]["class"] for row in made] == column(values, binary, CLASS).to_pylist() == [0, 1, 0, 1]
    many = Output("o", "float64", (3,), PETS, threshold=0.0)
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, 0.0]])
    best = [row[0]["probability"] for row in column(logits, many, TOP_2).to_pylist()]
    assert np.allclose(best, [np.exp(3.0) / np.exp([1.0, 2.0, 3.0]).sum(), 1.0])


@pytest.mark.parametrize("returns", [RAW, CLASS, TOP_2])
def test_missing_rows_are_null_and_the_others_as_they_are(returns) -> None:
    output, values = Output("o", "float32", (3,), PETS), np.eye(3, dtype=np.float32)
    whole = column(values, output, returns).to_pylist()
    made = column(values, output, returns, missing=np.array([False, True, False])).to_pylist()
    assert made == [whole[0], None, whole[2]]


def test_several_outputs_are_a_struct_that_is_null_as_a_whole() -> None:
    outputs = Output("a", "float32", (), None), Output("b", "float32", (2,), None)
    results = {"a": np.array([1.0, 2.0], np.float32), "b": np.zeros((2, 2), np.float32)}
    made = prediction_column(results, signature(*outputs), RAW, missing=np.array([True, False]))
    assert made.to_pylist() == [None, {"a": 2.0, "b": [0.0, 0.0]}]


def test_of_several_outputs_those_without_classes_stay_as_they_are() -> None:
    outputs = Output("kind", "float32", (3,), PETS), Output("size", "float32", (1,), None)
    results = {"kind": np.eye(3, dtype=np.float32), "size": np.array([[1.0], [np.nan], [3.0]], np.float32)}
    made = prediction_column(results, signature(*outputs), CLASS)
    assert made.field("kind").to_pylist() == list(PETS) and made.field("size")[0].as_py() == 1.0
    assert made.type == prediction_type(signature(*outputs), CLASS)
    assert not_numbers(results, signature(*outputs)) == {}
    check_returns(signature(*outputs), CLASS)
    with pytest.raises(ModelError, match="returns='top_k': output 'size' has no classes"):
        check_returns(signature(*outputs), TOP_2)


def test_rows_that_are_no_numbers_are_found_in_any_output() -> None:
    outputs = Output("a", "float32", (2,), PETS[:2]), Output("b", "int32", (), None)
    results = {"a": np.array([[1.0, 2.0], [np.nan, 1.0]]), "b": np.array([1, 2])}
    assert not_numbers(results, signature(*outputs)) == {1: "output 'a' is NaN: no class"}


def test_wrong_returns_are_refused() -> None:
    plain = signature(Output("o", "float32", (3,), None))
    with pytest.raises(ConfigError, match="returns='top' must be one of raw, class, top_k"):
        ScoreOptions(returns="top")
    with pytest.raises(ConfigError, match="k=True"):
        ScoreOptions(k=True)
    with pytest.raises(ModelError, match="output 'o' has no classes"):
        check_returns(plain, Returns("top_k", 5))
