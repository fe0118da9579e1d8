"""Describe what a worker needs to score: checked on the driver, and small, since it travels in a UDF's closure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cloudpickle

from sparkdl import storage
from sparkdl.model.signature import Signature
from sparkdl.score.options import ScoreOptions
from sparkdl.score.own_code import OwnCode, own_code
from sparkdl.score.worker.predictions import Returns, check_returns

__all__ = ["ScoreSpec", "score_spec"]

# Increased when a change in sparkdl makes the same model give other predictions for the same rows than before.
_RULES = 2


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


def score_spec(model_dir: str, options: ScoreOptions) -> tuple[ScoreSpec, Signature]:
    """Read the signature of a model; return the spec and the signature.

    Raises ModelError: `model_dir` holds no model, the model has no classes, or it needs code and safe_mode is True.
    """
    model_dir = storage.absolute(model_dir)
    signature = Signature.read(model_dir)
    returns = Returns(options.returns, options.k)
    check_returns(signature, returns)
    signature.check_tokenizers(safe_mode=options.safe_mode)
    own = dict(options.custom_objects or {})
    pickled = cloudpickle.dumps(own)
    task = ScoreSpec(
        model_dir=model_dir,
        digest=signature.digest,
        returns=returns,
        batch_size=options.batch_size,
        on_error=options.on_error,
        device=options.device,
        safe_mode=options.safe_mode,
        custom_objects=pickled,
        code=own_code(
            {**signature.custom_objects, **signature.tokenizers}, own, pickled, import_modules=not options.safe_mode
        ),
    )
    return task, signature
