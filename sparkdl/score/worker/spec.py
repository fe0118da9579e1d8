"""Describe what a worker needs to score: checked on the driver, and small, since it travels in a UDF's closure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle

from sparkdl import storage
from sparkdl.checks import require_whole
from sparkdl.errors import ConfigError, shown
from sparkdl.model.custom_objects import check_custom_objects
from sparkdl.model.signature import Signature
from sparkdl.score.own_code import OwnCode, own_code
from sparkdl.score.worker.outputs import Returns, check_returns

__all__ = ["DEFAULT_BATCH_SIZE", "ScoreSpec", "score_spec"]

DEFAULT_BATCH_SIZE = 1024
# Increased when a change in sparkdl makes the same model give other predictions for the same rows than before.
_RULES = 2
ON_ERROR = ("raise", "null")
DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSpec:
    """Hold all that a worker needs to score, except the signature, which may be large (vocabularies): it is read."""

    model_dir: str
    digest: str
    """The digest of the signature that the driver read: the worker scores with that model, or not at all."""
    returns: Returns
    batch_size: int
    on_error: str
    device: str
    safe_mode: bool
    custom_objects: bytes
    """The user's classes and functions by name, pickled once, so that equal ones compare as equal."""
    code: OwnCode
    """The code of the custom objects on the driver: the worker scores with that code, or not at all."""

    @property
    def content(self) -> list[Any]:
        """All that determines a row's prediction (JSON), where `code.is_named`; the way of computing it is left out.

        Versions of Keras and TensorFlow are left out: they promise the same numbers, up to rounding.
        """
        k = self.returns.k if self.returns.kind == "top_k" else None
        code = [list(map(list, self.code.objects)), list(map(list, self.code.modules))]
        return [_RULES, self.digest, self.returns.kind, k, self.on_error, code]


def score_spec(
    model_dir: str,
    *,
    returns: str = "raw",
    k: int = 5,
    batch_size: int = DEFAULT_BATCH_SIZE,
    on_error: str = "raise",
    device: str = "auto",
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> tuple[ScoreSpec, Signature]:
    """Check the options; return the spec and the model's signature.

    Raises:
        ModelError: `model_dir` holds no model, or the model has no classes.
        ConfigError: an option is wrong.
    """
    model_dir = storage.absolute(model_dir)
    signature = Signature.read(model_dir)
    chosen = Returns(returns, k)
    check_returns(signature, chosen)
    check_custom_objects(custom_objects)
    require_whole("batch_size", batch_size)
    if on_error not in ON_ERROR:
        raise ConfigError(f"on_error={shown(on_error)} must be one of {', '.join(ON_ERROR)}")
    if device not in DEVICES:
        raise ConfigError(f"device={shown(device)} must be one of {', '.join(DEVICES)}")
    own = dict(custom_objects or {})
    pickled = cloudpickle.dumps(own)
    task = ScoreSpec(
        model_dir=model_dir,
        digest=signature.digest,
        returns=chosen,
        batch_size=batch_size,
        on_error=on_error,
        device=device,
        safe_mode=safe_mode,
        custom_objects=pickled,
        code=own_code(signature.custom_objects, own, pickled, import_modules=not safe_mode),
    )
    return task, signature
