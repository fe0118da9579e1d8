"""Errors survive pickling, are the builtins they claim to be, and show little of a value."""

import inspect
import pickle

import pytest

import sparkdl
from sparkdl import errors
from sparkdl.errors import near_miss, shown
from sparkdl.spark.errors import own_error_in

ALL = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.SparkDLError)]


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_pickling(kind: type[errors.SparkDLError]) -> None:
    again = pickle.loads(pickle.dumps(kind("what went wrong")))
    assert type(again) is kind and str(again) == "what went wrong"


def test_a_worker_error_keeps_all_it_carries() -> None:
    error = errors.WorkerError("rank 3 failed", 3, "host-a", "Traceback …", "last line", "signal")
    again = pickle.loads(pickle.dumps(error))
    kept = (again.rank, again.host, again.remote_traceback, again.last_lines, again.kind)
    assert kept == (3, "host-a", "Traceback …", "last line", "signal")


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_a_public_name(kind: type[errors.SparkDLError]) -> None:
    assert getattr(sparkdl, kind.__name__) is kind


def test_errors_are_also_the_builtin_of_their_cause() -> None:
    assert issubclass(errors.ConfigError, ValueError) and issubclass(errors.SchemaError, TypeError)


def test_a_shown_value_has_at_most_80_characters() -> None:
    assert shown("short") == "'short'"
    assert len(shown("x" * 1000)) == 80


def test_a_near_miss_is_named_and_otherwise_the_choices() -> None:
    assert near_miss("epoch", ["epochs", "seed"]) == "; did you mean 'epochs'?"
    assert near_miss("zzz", ["b", "a"]) == "; known: a, b"


def test_our_error_is_found_in_a_workers_traceback() -> None:
    text = (
        "Traceback (most recent call last):\n  File …\nsparkdl.errors.SchemaError: column 'a': null\n\n\tat org.apache"
    )
    found = own_error_in(text)
    assert type(found) is errors.SchemaError and str(found) == "column 'a': null"
    assert own_error_in("ValueError: no") is None
    cause = "sparkdl.errors.SchemaError: row 2 of a piece"
    chained = f"Traceback:\n{cause}\n\nThe above exception was the direct cause of the following exception:\n\n{text}"
    assert type(own_error_in(chained)) is type(found) and str(own_error_in(chained)) == str(found), "not its cause"
