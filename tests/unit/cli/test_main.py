"""YAML, overrides, near misses."""

import math

import pytest

from paths import ROOT
from sparkdl import ConfigError, LaunchConfig, PrepareConfig, ReaderConfig, Split, TrainConfig
from sparkdl.cli import build, load_function, read_options, take


@pytest.fixture
def yaml_file(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("epochs: 3\nglobal_batch_size: 64\nrun_dir: here\nlaunch: {num_workers: 2}\n")
    return str(file)


def test_overrides_reach_nested_keys_and_keep_the_rest(yaml_file: str) -> None:
    options = read_options([yaml_file, "epochs=5", "launch.num_workers=4", "run_dir=a=b", "launch.log=all"])
    assert options == {
        "epochs": 5,
        "global_batch_size": 64,
        "run_dir": "a=b",
        "launch": {"num_workers": 4, "log": "all"},
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give the job a YAML file"),
        (["nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["FILE", "epochs"], "'epochs' is not an override"),
        (["FILE", "x=[1"], "is not a YAML value"),
        (["FILE", "epochs.more=1"], "epochs holds 3, which has no keys"),
    ],
)
def test_bad_arguments_are_refused(yaml_file: str, argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_options([yaml_file if a == "FILE" else a for a in argv])


def test_a_file_that_is_no_mapping_is_refused(tmp_path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="must hold keys and values"):
        read_options([str(tmp_path / "list.yaml")])


def test_a_configuration_is_built_from_options() -> None:
    options = {"run_dir": "r", "epochs": 2, "global_batch_size": 8}
    assert build(TrainConfig, options) == TrainConfig(run_dir="r", epochs=2, global_batch_size=8)


def test_the_training_job_takes_a_scaled_rate_and_another_target() -> None:
    file = str(ROOT / "conf" / "train.yaml")
    options = read_options([file, "lr_scaling=linear", "warmup_epochs=0.5", "target=inputs"])
    for key in ("dataset", "build_model", "launch"):
        take(options, key)
    config = build(TrainConfig, options)
    assert (config.lr_scaling, config.warmup_epochs, config.target) == ("linear", 0.5, "inputs")


def test_an_unknown_option_names_the_near_miss() -> None:
    with pytest.raises(ConfigError, match="unknown option 'epoch'; did you mean 'epochs'?"):
        build(TrainConfig, {"epoch": 2})


def test_a_missing_option_is_named() -> None:
    with pytest.raises(ConfigError, match="option 'epochs' is missing"):
        build(TrainConfig, {"run_dir": "r"})


def test_yaml_forms_of_splits_and_launch_are_understood() -> None:
    assert build(LaunchConfig, {"num_workers": 3}) == LaunchConfig(num_workers=3)
    with pytest.raises(ConfigError, match="did you mean 'num_workers'"):
        build(LaunchConfig, {"num_worker": 3})
    with pytest.raises(ConfigError, match="LaunchConfig must hold keys and values, not 3"):
        build(LaunchConfig, 3)
    train = {"run_dir": "r", "epochs": 2, "global_batch_size": 8}
    assert build(TrainConfig, {**train, "reader": {"threads": 3}}).reader == ReaderConfig(threads=3)
    assert build(TrainConfig, {**train, "augment": "math:pow"}).augment is math.pow
    with pytest.raises(ConfigError, match="'flip' must have the form module:function"):
        build(TrainConfig, {**train, "augment": "flip"})
    with pytest.raises(ConfigError, match="did you mean 'memory'"):
        build(TrainConfig, {**train, "reader": {"memroy": 3}})
    config = build(PrepareConfig, {"path": "p", "features": ["a"], "splits": {"column": "part"}})
    assert config.splits == Split.column("part")
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        build(PrepareConfig, {"path": "p", "features": ["a"], "splits": {"fraction": {"train": 1.0}, "sed": 3}})


def test_an_option_is_taken_once() -> None:
    options = {"source": "x"}
    assert take(options, "source") == "x" and options == {}
    with pytest.raises(ConfigError, match="option 'source' is missing"):
        take(options, "source")


def test_functions_are_found_by_name() -> None:
    assert load_function("examples.digits:build_model").__name__ == "build_model"
    for name, message in (
        ("no_colon", "module:function"),
        ("not.there:f", "No module named"),
        ("examples.digits:build_modle", "did you mean 'build_model'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_function(name)
