"""Run programs that were written for Databricks' HorovodRunner, and for Horovod's Keras interface.

`runner` is used on the driver, `horovod_keras` in ranks, where it is imported as `horovod.tensorflow.keras`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparkdl.compat.runner import HorovodRunner, log_to_driver

__all__ = ["HorovodRunner", "log_to_driver"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562): ranks that want `horovod_keras` alone load no launcher."""
    if name not in __all__:
        raise AttributeError(f"module 'sparkdl.compat' has no attribute {name!r}")
    value: object = getattr(importlib.import_module("sparkdl.compat.runner"), name)
    globals()[name] = value
    return value
