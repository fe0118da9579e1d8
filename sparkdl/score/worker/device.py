"""Set TensorFlow up in a Spark worker: its threads, and the GPU that Spark gave to the task.

Runs in Spark workers, before a model is loaded.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from sparkdl.errors import ConfigError
from sparkdl.imports import load_tensorflow

__all__ = ["prepare_tensorflow"]

log = logging.getLogger(__name__)


def prepare_tensorflow(device: str) -> None:
    """Give TensorFlow the task's cores, and the task's GPU if it has one and `device` allows it.

    A worker process has one TensorFlow: the settings of the first task stay.

    Args:
        device: "auto", a GPU if Spark gave the task one; "cpu"; or "gpu", a GPU that Spark gave, or any GPU where Spark
            gives tasks no GPUs (in local mode it cannot).

    Raises:
        ConfigError: `device` is "gpu", and TensorFlow sees no GPU.
    """
    cores, addresses = _resources()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if addresses and device != "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(addresses)
    load_tensorflow()
    import tensorflow as tf

    wants_gpu = device == "gpu" or (device == "auto" and bool(addresses))
    try:
        tf.config.threading.set_intra_op_parallelism_threads(cores)
        tf.config.threading.set_inter_op_parallelism_threads(cores)
        if not wants_gpu:
            # This worker and the others beside it would each take the memory of all GPUs.
            tf.config.set_visible_devices([], "GPU")
        for gpu in tf.config.get_visible_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        threads = tf.config.threading.get_intra_op_parallelism_threads()
        if threads != cores:
            log.warning("TensorFlow already runs in this worker and keeps its %d threads (0: all cores)", threads)
    if device == "gpu" and not tf.config.get_visible_devices("GPU"):
        raise ConfigError(
            f"device='gpu' but TensorFlow on {socket.gethostname()} sees no GPU (Spark gave the task "
            f"{', '.join(addresses) or 'none'}); install sparkdl-tf[gpu] there, or use device='cpu'"
        )


def _resources() -> tuple[int, tuple[str, ...]]:
    """Return the cores and the GPUs' addresses of the Spark task that runs."""
    from pyspark import TaskContext

    context: Any = TaskContext.get()
    if context is None:
        return 1, ()
    gpu = context.resources().get("gpu")
    return context.cpus(), tuple(gpu.addresses) if gpu else ()
