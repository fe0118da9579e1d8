"""sparkdl: exact, fast, fail-loud distributed Keras 3 training and batch inference on Apache Spark.

The public names. Importing sparkdl imports no TensorFlow, Keras, Horovod, Petastorm, and no Spark.
"""

from sparkdl.data.dataset import Dataset, open_dataset
from sparkdl.data.prepare.apply_split import split
from sparkdl.data.prepare.prepare import prepare
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
from sparkdl.launch.run import run
from sparkdl.launch.world import World, world
from sparkdl.model.export import export_saved_model
from sparkdl.model.load import LoadedModel, load_model
from sparkdl.model.wrap import save_model
from sparkdl.score.parquet.api import score_parquet
from sparkdl.score.transform import transform
from sparkdl.score.udf import predict_udf, register_udf
from sparkdl.score.worker.metrics import ScoreMetrics
from sparkdl.train.checkpoint_config import CheckpointConfig
from sparkdl.train.config import TrainConfig
from sparkdl.train.fit import TrainResult, evaluate, fit
from sparkdl.version import __version__ as __version__

__all__ = [
    "CheckpointConfig",
    "CheckpointError",
    "ConfigError",
    "Dataset",
    "DatasetError",
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
    "World",
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
