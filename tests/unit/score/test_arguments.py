"""Fields of a struct are inputs by their names, whatever their order; what does not fit is named."""

import pyarrow as pa
import pytest

from sparkdl import SchemaError
from sparkdl.score.arguments import check_order, field_places


def struct(*names: str, **types: pa.DataType) -> pa.StructType:
    return pa.struct([pa.field(name, types.get(name, pa.float64())) for name in names])


@pytest.mark.parametrize(
    ("fields", "names", "places"),
    [
        (["age", "job"], ["age", "job"], [0, 1]),
        (["job", "age"], ["age", "job"], [1, 0]),
        (["JOB", "Age"], ["age", "job"], [1, 0]),
        (["x", "X"], ["X", "x"], [1, 0]),
        (["a.b", "c d"], ["c d", "a.b"], [1, 0]),
    ],
)
def test_fields_are_found_by_name(fields, names, places) -> None:
    assert field_places(struct(*fields), names) == places


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (["age"], "'job' is missing"),
        (["age", "jobb"], "'job' is missing; did you mean 'jobb'.*'jobb' is not an input of the model; did you mean"),
        (["age", "job", "hours"], "'hours' is not an input of the model; known: age, job"),
        (["age", "age", "job"], "'age' is there 2 times"),
        (["age", "Age", "job"], "'Age' is not an input"),
        (["col1", "col2"], "'age' is missing.*name them, as in named_struct.'age', …, 'job', ….$"),
    ],
)
def test_a_field_that_does_not_fit_is_named(fields, problem) -> None:
    with pytest.raises(SchemaError, match=problem):
        field_places(struct(*fields), ["age", "job"])


def test_a_struct_in_the_struct_is_to_be_taken_apart() -> None:
    with pytest.raises(SchemaError, match="take 'person' apart with person.*"):
        field_places(struct("person", person=struct("age", "job")), ["age", "job"])


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (["age", "job"], ["age", "job"]),
        (["age", "job"], ["Age", "JOB"]),
        (["age", "job"], ["years", "job"]),
        (["age", "job"], [object(), "job"]),
        (["age", "Age"], ["age", "Age"]),
        (["a.b", "c"], ["a.b", "c"]),
    ],
)
def test_names_in_their_places_pass(names, given) -> None:
    check_order(names, given)


@pytest.mark.parametrize(
    ("names", "given", "stands"),
    [
        (["age", "job"], ["job", "age"], "'job' stands for 'age'"),
        (["age", "job"], ["JOB", "AGE"], "'JOB' stands for 'age'"),
        (["age", "job"], ["job", "work"], "'job' stands for 'age'"),
        (["age", "job"], ["years", "Age"], "'Age' stands for 'job'"),
        (["age", "Age"], ["Age", "age"], "'Age' stands for 'age'"),
    ],
)
def test_a_name_in_the_place_of_another_input_is_refused(names, given, stands) -> None:
    with pytest.raises(SchemaError, match=f"in another order than the model's inputs .*{stands}; if that is meant"):
        check_order(names, given)
