"""sparkdl: exact, fast, fail-loud distributed Keras 3 training and batch inference on Apache Spark.

The public names. Importing sparkdl imports no TensorFlow, Keras, Horovod, Petastorm, and no Spark. Each name is
imported when it is first used: a rank starts without what it does not need, half a second of a core sooner.
"""

import importlib
from typing import TYPE_CHECKING

from sparkdl.version import __version__ as __version__

if TYPE_CHECKING:
    from sparkdl.compat.runner import HorovodRunner
    from sparkdl.data.dataset import Dataset, open_dataset
    from sparkdl.data.prepare.prepare import prepare
    from sparkdl.data.prepare.splits.apply import split
    from sparkdl.data.prepare_config import PrepareConfig
    from sparkdl.data.read_prepared import read_prepared
    from sparkdl.data.reader_config import ReaderConfig
    from sparkdl.data.split import Split
    from sparkdl.data.windows.api import windows
    from sparkdl.errors import (
        CheckpointError,
        ConfigError,
        DatasetError,
        LaunchError,
        ModelError,
        SchemaError,
        SparkDLError,
        WorkerError,
    )
    from sparkdl.launch.config import LaunchConfig
    from sparkdl.launch.group import WorkerGroup
    from sparkdl.launch.run import run
    from sparkdl.launch.world import World, world
    from sparkdl.model.ensemble.api import ensemble
    from sparkdl.model.export import export_saved_model
    from sparkdl.model.load import LoadedModel, load_model
    from sparkdl.model.wrap import save_model
    from sparkdl.score.parquet.api import score_parquet
    from sparkdl.score.transform import transform
    from sparkdl.score.udf import predict_udf, register_udf
    from sparkdl.score.worker.metrics import ScoreMetrics
    from sparkdl.train.config import CheckpointConfig, TrainConfig
    from sparkdl.train.fit import TrainResult, evaluate, fit

__all__ = [
    "CheckpointConfig",
    "CheckpointError",
    "ConfigError",
    "Dataset",
    "DatasetError",
    "HorovodRunner",
    "LaunchConfig",
    "LaunchError",
    "LoadedModel",
    "ModelError",
    "PrepareConfig",
    "ReaderConfig",
    "SchemaError",
    "ScoreMetrics",
    "SparkDLError",
    "Split",
    "TrainConfig",
    "TrainResult",
    "WorkerError",
    "WorkerGroup",
    "World",
    "ensemble",
    "evaluate",
    "export_saved_model",
    "fit",
    "load_model",
    "open_dataset",
    "predict_udf",
    "prepare",
    "read_prepared",
    "register_udf",
    "run",
    "save_model",
    "score_parquet",
    "split",
    "transform",
    "windows",
    "world",
]

# The modules of the names.
_NAMES = {
    "compat.runner": "HorovodRunner",
    "data.dataset": "Dataset open_dataset",
    "data.prepare.splits.apply": "split",
    "data.prepare.prepare": "prepare",
    "data.prepare_config": "PrepareConfig",
    "data.read_prepared": "read_prepared",
    "data.reader_config": "ReaderConfig",
    "data.split": "Split",
    "data.windows.api": "windows",
    "errors": "CheckpointError ConfigError DatasetError LaunchError ModelError SchemaError SparkDLError WorkerError",
    "launch.config": "LaunchConfig",
    "launch.group": "WorkerGroup",
    "launch.run": "run",
    "launch.world": "World world",
    "model.ensemble.api": "ensemble",
    "model.export": "export_saved_model",
    "model.load": "LoadedModel load_model",
    "model.wrap": "save_model",
    "score.parquet.api": "score_parquet",
    "score.transform": "transform",
    "score.udf": "predict_udf register_udf",
    "score.worker.metrics": "ScoreMetrics",
    "train.config": "CheckpointConfig TrainConfig",
    "train.fit": "TrainResult evaluate fit",
}
_MODULE_OF = {name: f"sparkdl.{module}" for module, names in _NAMES.items() for name in names.split()}
_MODULES = ("compat", "errors", "features")


def __getattr__(name: str) -> object:
    """Import a public name, or one of the public modules, when it is first used (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f"sparkdl.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sparkdl' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF, *_MODULES})
