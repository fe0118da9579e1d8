"""Configurations refuse bad values, with the value and the way out in the message."""

import json
import re
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from paths import ROOT
from sparkdl import CheckpointConfig, ConfigError, LaunchConfig, PrepareConfig, ReaderConfig, Split, TrainConfig
from sparkdl.features import Categorical, Image, Numeric, Tensor, Text

TRAIN = {"run_dir": "run", "epochs": 1, "global_batch_size": 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be a whole number of at least 1"),
        ({"epochs": 2.5}, "epochs=2.5"),
        ({"epochs": True}, "epochs=True"),
        ({"global_batch_size": -4}, "global_batch_size=-4"),
        ({"seed": -1}, "seed=-1"),
        ({"run_dir": ""}, "run_dir"),
        ({"callbacks": ["not callable"]}, "callbacks must be a function"),
        ({"sync_every": 0}, "sync_every=0 must be a whole number of at least 1"),
        ({"sync_every": 4, "compression": "fp16"}, "sync_every=4 must be 1 with compression='fp16'"),
        ({"sync_every": 4, "sync_batch_norm": True}, "sync_every=4 must be 1 with sync_batch_norm=True"),
        (
            {"sync_every": 4, "gradient_accumulation_steps": 2},
            "must be 1 with gradient_accumulation_steps=2; use a larg",
        ),
        (
            {"sync_every": 4, "checkpoint": CheckpointConfig(every_steps=6)},
            "checkpoint.every_steps=6 must be a multiple of sync_every=4",
        ),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0 must be a whole number of at least 1"),
        ({"validation_every": 0}, "validation_every=0 must be a whole number of at least 1"),
        ({"augment": "flip"}, "augment='flip' must be a function; write def augment\\(inputs, seed\\), or def augment"),
        ({"augment": lambda image: image}, "augment=<lambda>\\(image\\) must take two or three arguments; write def"),
        ({"class_weight": {}}, "class_weight={} must map classes to weights"),
        ({"class_weight": ["a"]}, "class_weight=\\['a'\\] must map"),
        ({"class_weight": {"a": -1.0}}, "class_weight\\['a'\\]=-1.0 must be a number of at least 0"),
        ({"class_weight": {"a": float("nan")}}, "must be a number of at least 0"),
        ({"class_weight": {1.5: 2.0}}, "class_weight names 1.5; name a class, or its code"),
        ({"target": "input"}, "target='input' must be 'label' or 'inputs'"),
        ({"target": "inputs", "class_weight": {"a": 2.0}}, "class_weight is for a label, and target='inputs' has none"),
        ({"lr_scaling": "lin"}, "lr_scaling='lin' must be None, 'linear' or 'sqrt'"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1 must be a number of at least 0"),
        ({"warmup_epochs": "2"}, "warmup_epochs='2' must be a number"),
        ({"warmup_epochs": float("inf")}, "warmup_epochs=inf must be a number"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0 must be a whole number of at least 1"),
        ({"compression": "bf16"}, "compression='bf16' must be None or 'fp16'"),
        ({"sync_batch_norm": "yes"}, "sync_batch_norm='yes' must be True or False"),
    ],
)
def test_a_bad_training_option_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**{**TRAIN, **options})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (PrepareConfig, {"path": "p", "features": ["x"], "lable": "y"}, "unknown option 'lable'; did you mean 'label'"),
        (TrainConfig, {**TRAIN, "epoch": 2}, "unknown option 'epoch'; did you mean 'epochs'\\?"),
        (LaunchConfig, {"workers": 2}, "unknown option 'workers'; did you mean 'num_workers'\\?"),
        (CheckpointConfig, {"zzz": 1}, "unknown option 'zzz'; known: every_epochs, every_steps, keep, mode, monitor"),
        (ReaderConfig, {"treads": 2}, "unknown option 'treads'; did you mean 'threads'\\?"),
        (Numeric, {"name": "x", "sclae": "none"}, "unknown option 'sclae'; did you mean 'scale'\\?"),
        (Categorical, {"name": "x", "size": 3}, "unknown option 'size'; did you mean 'max_size'\\?"),
        (Image, {"name": "x", "hight": 3}, "unknown option 'hight'; did you mean 'height'\\?"),
        (Tensor, {"name": "x", "type": "int32"}, "unknown option 'type'; did you mean 'dtype'\\?"),
        (Text, {"name": "x"}, "missing a required argument: 'length'; its options are name, length, max_size"),
        (TrainConfig, {"run_dir": "r"}, "missing a required argument: 'epochs'"),
    ],
)
def test_an_option_that_is_not_there_is_named_with_the_one_that_was_meant(kind, options, message) -> None:
    with pytest.raises(ConfigError, match=f"^{kind.__name__}.*{message}"):
        kind(**options)


def test_options_by_place_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="PrepareConfig: too many positional arguments; its options are path, feat"):
        PrepareConfig("data", ["x"])


def test_class_weights_of_numpy_can_be_kept_in_a_run() -> None:
    given = dict(zip(np.unique([3, 5, 5]), np.array([0.5, 2.0], np.float32), strict=True))
    kept = TrainConfig(**TRAIN, class_weight=MappingProxyType(given)).class_weight
    assert json.loads(json.dumps(kept)) == {"3": 0.5, "5": 2.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 0}, "num_workers=0"),
        ({"num_workers": 2, "log": "loud"}, "log='loud' must be one of rank0, all, errors"),
        ({"num_workers": 2, "min_workers": 3}, "min_workers=3 must not be more than num_workers=2"),
        ({"num_workers": 2, "min_workers": 0}, "min_workers=0 must be a whole number of at least 1"),
        ({"num_workers": 2, "log_dir": ""}, "log_dir='' must be a folder or a URL"),
        (
            {"num_workers": 2, "gpus_per_worker": 1, "env": {"CUDA_VISIBLE_DEVICES": "0"}},
            "env must not set CUDA_VISIBLE_DEVICES with gpus_per_worker",
        ),
        ({"num_workers": 2, "start_timeout_s": 0}, "start_timeout_s=0 must be at least 0.001 seconds"),
        ({"num_workers": 2, "stall_timeout_s": 0.5}, "stall_timeout_s=0.5"),
        ({"num_workers": 2, "env": {"A": 1}}, "must be strings"),
        ({"num_workers": 2, "env": "A=1"}, "must map names"),
        ({"num_workers": 2, "env": {"A=B": "1"}}, "must be an environment variable"),
        ({"num_workers": 2, "env": {"A": "1\0"}}, "must be an environment variable"),
        ({"num_workers": 2, "local": "maybe"}, "local='maybe' must be True or False"),
        ({"num_workers": 2, "stall_timeout_s": "x"}, "stall_timeout_s='x'"),
        ({"num_workers": 2, "gpus_per_worker": -1}, "gpus_per_worker=-1 must be a whole number of at least 0"),
        ({"num_workers": 2, "gpus_per_worker": 0.5}, "gpus_per_worker=0.5 must be a whole number"),
        ({"num_workers": 2, "gpus_per_worker": True}, "gpus_per_worker=True must be a whole number"),
        ({"num_workers": 2, "driver_port": 80}, "driver_port=80 must be 0, or a port from 1024 to 65535"),
        ({"num_workers": 2, "driver_port": "7077"}, "driver_port='7077' must be 0"),
        ({"num_workers": 2, "allow_unencrypted": "yes"}, "allow_unencrypted='yes' must be True or False"),
    ],
)
def test_a_bad_launch_option_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LaunchConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "reader.threads=0 must be a whole number of at least 1"),
        ({"memory": "1 GiB"}, "reader.memory='1 GiB' must be a whole number"),
        ({"in_memory": "yes"}, "reader.in_memory='yes' must be True, False or 'auto'"),
        ({"cache": "auto"}, "reader.cache='auto' must be True, False or None"),
    ],
)
def test_a_bad_reader_option_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReaderConfig(**options)
    with pytest.raises(ConfigError, match="must be a ReaderConfig"):
        TrainConfig(**TRAIN, reader=options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": []}, "at least one feature"),
        ({"features": "age"}, "must be a list"),
        ({"features": ["a", "a"]}, "named twice"),
        ({"features": ["a"], "label": ["b", "b"]}, "named twice in label"),
        ({"features": [3]}, "3 is not a feature"),
        ({"features": ["a"], "lanes": 0}, "lanes=0"),
        ({"features": 5}, "features=5 must be a list"),
        ({"features": ["a"], "weight": 3}, "weight=3"),
        ({"features": ["a"], "splits": {"train": 1.0}}, "must be made by Split"),
        ({"features": ["a"], "keep": "id"}, "keep='id' must be a list"),
        ({"features": ["a"], "keep": ["id", "id"]}, "named twice"),
        ({"features": [{"numerc": "a"}]}, "did you mean 'numeric'"),
        ({"features": [{"numeric": "a", "scal": "none"}]}, "did you mean 'scale'"),
    ],
)
def test_a_bad_prepare_option_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareConfig(path="data", **options)


def test_features_may_be_names_objects_or_mappings() -> None:
    config = PrepareConfig(
        path="d", features=["a", Numeric("b"), {"tensor": "c", "shape": [2, 3]}], label={"categorical": "y"}
    )
    assert config.features == (Tensor("a"), Numeric("b"), Tensor("c", shape=(2, 3)))
    assert config.label == Categorical("y") and config.labels == (Categorical("y"),)


def test_several_labels_stay_several() -> None:
    assert PrepareConfig(path="d", features=["a"], label=["x", "y"]).labels == (Tensor("x"), Tensor("y"))
    assert PrepareConfig(path="d", features=["a"]).labels == ()


@pytest.mark.parametrize(
    ("fractions", "message"),
    [({"train": 0.5, "val": 0.4}, "sum to 1"), ({"a": 1.0}, "'train'"), ({"train": 1.2, "val": -0.2}, "above 0")],
)
def test_a_bad_fraction_is_refused(fractions: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Split.fraction(fractions)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Numeric("a", scale="log"), "scale='log'"),
        (lambda: Numeric("a", fill="median?"), "fill='median\\?'"),
        (lambda: Categorical("a", max_size=0), "max_size=0"),
        (lambda: Categorical("a", min_count=0), "min_count=0"),
        (lambda: Tensor("a", shape=3), "shape=3 must be a list"),
        (lambda: Numeric("a", fill=float("nan")), "fill=nan"),
        (lambda: Tensor("a", shape=(0,)), "shape=\\(0,\\)"),
        (lambda: Tensor("a", dtype="complex64"), "dtype='complex64'"),
    ],
)
def test_a_bad_feature_is_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_splits_and_manifests_round_trip() -> None:
    for split in (Split.fraction({"train": 0.9, "val": 0.1}, seed=3, key=["a", "b"]), Split.column("part")):
        assert Split.from_json(split.to_json()) == split


def test_a_column_may_be_feature_label_and_kept_and_paths_may_be_paths(tmp_path) -> None:
    config = PrepareConfig(path=tmp_path, features=["a"], label="a", keep=["a"])
    assert config.path == str(tmp_path) and config.features == (config.label,)
    assert TrainConfig(**{**TRAIN, "run_dir": tmp_path}).run_dir == str(tmp_path)


def test_the_training_options_of_the_docs_are_options() -> None:
    blocks = re.findall(
        r"```python\n((?:TrainConfig|def augment).*?)```", (ROOT / "docs/train.md").read_text(), re.DOTALL
    )
    assert len(blocks) == 4
    for block in blocks:
        exec(block, {"TrainConfig": TrainConfig, "first": SimpleNamespace(model_dir="run-1/model")})
