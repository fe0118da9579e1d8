"""What made a run, kept and compared."""

import copy
import json

import pytest

from sparkdl.differences import first_difference
from sparkdl.errors import CheckpointError
from sparkdl.train.run.made_by import (
    Code,
    MadeBy,
    callbacks_difference,
    code_of,
    model_difference,
    read_made_by,
    weights_difference,
    write_made_by,
)

LAYER = {"class_name": "Dense", "config": {"name": "dense", "units": 4}}
LAMBDA = {"class_name": "__lambda__", "config": {"value": {"code": "of line 3"}}}
MODEL = {
    "keras": "3.12.0",
    "config": {"layers": [LAYER], "compile_config": {"loss": "mse", "optimizer": {"learning_rate": 0.1}}},
    "variables": [["dense/kernel", [2, 4], "float32"]],
    "code": {"Scaled": "ab"},
    "values": {"Scaled": [{"factor": 2.0}]},
}


def changed(facts, *path, to):
    facts = copy.deepcopy(facts)
    entry = facts
    for name in path[:-1]:
        entry = entry[name]
    entry[path[-1]] = to
    return facts


@pytest.mark.parametrize(
    ("path", "to", "difference"),
    [
        (("config", "layers", 0, "config", "units"), 8, "model.config.layers[0].config.units was 4, is 8"),
        (("config", "compile_config", "loss"), "mae", "model.config.compile_config.loss was 'mse', is 'mae'"),
        (
            ("config", "compile_config", "optimizer", "learning_rate"),
            0.2,
            "model.config.compile_config.optimizer.learning_rate was 0.1, is 0.2",
        ),
        (("code", "Scaled"), "cd", "the code of Scaled is another"),
        (("code",), {}, "the code of Scaled is another"),
        (("code",), {"Scaled": "ab", "loss": "x"}, "the code of loss is another"),
        (("values", "Scaled", 0, "factor"), 3.0, "model.values.Scaled[0].factor was 2.0, is 3.0"),
    ],
)
def test_another_model_is_named_by_its_first_difference(path, to, difference) -> None:
    assert model_difference(MODEL, copy.deepcopy(MODEL)) is None
    assert model_difference(MODEL, changed(MODEL, *path, to=to)) == difference


def test_a_run_of_before_has_no_values_to_compare() -> None:
    before = {name: part for name, part in MODEL.items() if name != "values"}
    assert model_difference(before, MODEL) is None


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ([[2.0, 0.5]], [[2.0001, 0.4999]], False),
        ([[2.0, 0.5]], [[2.0, -0.5]], True),
        ([[0.0, 0.0]], [[9.5, 9.5]], True),
        ([[0.0, 0.0]], [[0.0, 0.0]], False),
        ((), [[2.0, 0.5]], False),
    ],
)
def test_first_weights_are_the_same_but_for_rounding(old, new, differs) -> None:
    code = Code(build_model="a", callbacks="b")
    before, now = (MadeBy(code=code, model=MODEL, callbacks=[], weights=weights) for weights in (old, new))
    expected = "build_model gives 'dense/kernel' other first weights than it did"
    assert weights_difference(before, now) == (expected if differs else None)


def test_another_keras_writes_other_configurations_of_one_model() -> None:
    newer = changed(changed(MODEL, "keras", to="3.13.0"), "config", to={})
    assert model_difference(MODEL, newer) is None
    assert model_difference(MODEL, changed(newer, "code", "Scaled", to="cd")) == "the code of Scaled is another"
    wider = changed(newer, "variables", 0, 1, to=[2, 8])
    assert model_difference(MODEL, wider) == "model.variables[0][1][1] was 4, is 8"


def test_a_run_that_knew_no_code_is_compared_without() -> None:
    older = {name: value for name, value in MODEL.items() if name != "code"}
    assert model_difference(older, MODEL) is None
    assert model_difference(older, changed(MODEL, "config", "layers", to=[]))


def test_the_lines_of_a_lambda_are_not_its_code() -> None:
    here = changed(MODEL, "config", "layers", to=[LAMBDA])
    there = changed(MODEL, "config", "layers", to=[changed(LAMBDA, "config", "value", "code", to="of line 9")])
    assert model_difference(here, there) is None
    assert model_difference(here, changed(there, "code", to={"<lambda>": "x"})) == "the code of Scaled is another"


STOP = {"class": "EarlyStopping", "code": "", "config": {"patience": 3, "monitor": "val_loss"}}
OWN = {"class": "Own", "code": "ab", "config": {}}


@pytest.mark.parametrize(
    ("new", "difference"),
    [
        ([STOP, OWN], None),
        ([OWN, STOP], "there were EarlyStopping, Own, there are Own, EarlyStopping"),
        ([], "there were EarlyStopping, Own, there are no callbacks"),
        ([changed(STOP, "config", "patience", to=5), OWN], "EarlyStopping.patience was 3, is 5"),
        ([STOP, changed(OWN, "code", to="cd")], "the code of Own is another"),
    ],
)
def test_other_callbacks_are_named(new, difference) -> None:
    assert callbacks_difference([STOP, OWN], new) == difference


def test_what_was_written_is_read(tmp_path) -> None:
    path = str(tmp_path / "code.json")
    assert read_made_by(path) is None
    code = code_of(lambda ds: None, None)
    assert code.is_known() and not Code(build_model=None, callbacks="x").is_known()
    made_by = MadeBy(code=code, model=MODEL, callbacks=[STOP], directions={"mae": "min", "own": None})
    write_made_by(path, made_by)
    assert read_made_by(path) == made_by
    (tmp_path / "code.json").write_text(json.dumps({"format_version": 2}))
    with pytest.raises(CheckpointError, match="has format_version 2"):
        read_made_by(path)


def test_lists_of_other_lengths_differ() -> None:
    assert first_difference([1, 2], [1], "a") == "a was [1, 2], is [1]"
    assert first_difference({"a": 1}, {"b": 1}) == "a is gone"
