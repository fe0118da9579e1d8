"""sparkdl: exact, fast, fail-loud distributed Keras 3 training and batch inference on Apache Spark.

The public names. Importing sparkdl imports no TensorFlow, Keras, Horovod, Petastorm, and no Spark.
"""

from sparkdl.data.dataset import Dataset as Dataset
from sparkdl.data.dataset import open_dataset as open_dataset
from sparkdl.data.prepare.apply_split import split as split
from sparkdl.data.prepare.prepare import prepare as prepare
from sparkdl.data.prepare_config import PrepareConfig as PrepareConfig
from sparkdl.data.read_prepared import read_prepared as read_prepared
from sparkdl.data.reader_config import ReaderConfig as ReaderConfig
from sparkdl.data.split import Split as Split
from sparkdl.data.windows.api import windows as windows
from sparkdl.errors import CheckpointError as CheckpointError
from sparkdl.errors import ConfigError as ConfigError
from sparkdl.errors import DatasetError as DatasetError
from sparkdl.errors import LaunchError as LaunchError
from sparkdl.errors import ModelError as ModelError
from sparkdl.errors import SchemaError as SchemaError
from sparkdl.errors import SparkDLError as SparkDLError
from sparkdl.errors import WorkerError as WorkerError
from sparkdl.launch.config import LaunchConfig as LaunchConfig
from sparkdl.launch.run import run as run
from sparkdl.launch.world import World as World
from sparkdl.launch.world import world as world
from sparkdl.model.export import export_saved_model as export_saved_model
from sparkdl.model.load import LoadedModel as LoadedModel
from sparkdl.model.load import load_model as load_model
from sparkdl.model.wrap import save_model as save_model
from sparkdl.score.parquet.api import score_parquet as score_parquet
from sparkdl.score.transform import transform as transform
from sparkdl.score.udf import predict_udf as predict_udf
from sparkdl.score.udf import register_udf as register_udf
from sparkdl.score.worker.metrics import ScoreMetrics as ScoreMetrics
from sparkdl.train.checkpoint_config import CheckpointConfig as CheckpointConfig
from sparkdl.train.config import TrainConfig as TrainConfig
from sparkdl.train.fit import TrainResult as TrainResult
from sparkdl.train.fit import evaluate as evaluate
from sparkdl.train.fit import fit as fit
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
