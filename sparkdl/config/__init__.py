"""The configurations: what to prepare, what to train, where to run.

Built on the driver by users and jobs; frozen values that travel to ranks. `TrainConfig` is what determines the result,
`LaunchConfig` is where it runs and may change between runs.
"""

from sparkdl.config.checkpoint import CheckpointConfig
from sparkdl.config.launch import LaunchConfig
from sparkdl.config.prepare import PrepareConfig
from sparkdl.config.reader import ReaderConfig
from sparkdl.config.train import TrainConfig

__all__ = ["CheckpointConfig", "LaunchConfig", "PrepareConfig", "ReaderConfig", "TrainConfig"]
