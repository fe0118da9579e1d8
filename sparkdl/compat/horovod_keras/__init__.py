"""Give programs the names of Horovod's interface for Keras, for Keras 3.

Runs in rank processes, where `horovod.tensorflow.keras` and `horovod.keras` are this module (`replaced_modules`).
Names, arguments and formulas are those of Horovod 0.28.1; what cannot be done is refused by name.
"""

import keras
from horovod.tensorflow import Adasum, Average, Compression, Sum
from horovod.tensorflow.mpi_ops import (
    ProcessSet,
    add_process_set,
    ccl_built,
    cross_rank,
    cross_size,
    cuda_built,
    ddl_built,
    global_process_set,
    gloo_built,
    gloo_enabled,
    init,
    is_initialized,
    local_rank,
    local_size,
    mpi_built,
    mpi_enabled,
    mpi_threads_supported,
    nccl_built,
    rank,
    remove_process_set,
    rocm_built,
    shutdown,
    size,
    start_timeline,
    stop_timeline,
)

from sparkdl.errors import ConfigError

if keras.config.backend() != "tensorflow":
    raise ConfigError(
        f"KERAS_BACKEND={keras.config.backend()!r} must be 'tensorflow' for Horovod; use "
        "LaunchConfig(env={'KERAS_BACKEND': 'tensorflow'}), or set the variable before HorovodRunner's run"
    )

from sparkdl.compat.horovod_keras import callbacks, elastic
from sparkdl.compat.horovod_keras.keras_hooks import hook_keras
from sparkdl.compat.horovod_keras.load_model import load_model
from sparkdl.compat.horovod_keras.optimizer import DistributedOptimizer, PartialDistributedOptimizer
from sparkdl.compat.horovod_keras.values import (
    allgather,
    allreduce,
    broadcast,
    broadcast_global_variables,
    reducescatter,
)

hook_keras()

__all__ = [
    "Adasum",
    "Average",
    "Compression",
    "DistributedOptimizer",
    "PartialDistributedOptimizer",
    "ProcessSet",
    "Sum",
    "add_process_set",
    "allgather",
    "allreduce",
    "broadcast",
    "broadcast_global_variables",
    "callbacks",
    "ccl_built",
    "cross_rank",
    "cross_size",
    "cuda_built",
    "ddl_built",
    "elastic",
    "global_process_set",
    "gloo_built",
    "gloo_enabled",
    "init",
    "is_initialized",
    "load_model",
    "local_rank",
    "local_size",
    "mpi_built",
    "mpi_enabled",
    "mpi_threads_supported",
    "nccl_built",
    "rank",
    "reducescatter",
    "remove_process_set",
    "rocm_built",
    "shutdown",
    "size",
    "start_timeline",
    "stop_timeline",
]
