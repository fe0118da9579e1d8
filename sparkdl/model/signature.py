"""Describe a trained model: encoders of its inputs; names, dtypes, shapes and classes of its outputs.

Pure values, stored as `signature.json` beside the model; read on the driver, in Spark workers and in ranks.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import numpy as np

from sparkdl import storage
from sparkdl.data.features import Encoder, encoder_from_json
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.feature import raw_columns
from sparkdl.errors import ModelError, shown
from sparkdl.storage.format_version import check_format_version

__all__ = [
    "FORMAT_VERSION",
    "MODEL_NAME",
    "SIGNATURE_NAME",
    "Output",
    "Signature",
    "output_classes",
    "sha256",
    "unique_names",
]

FORMAT_VERSION = 1
MODEL_NAME = "model.keras"
SIGNATURE_NAME = "signature.json"


@dataclass(frozen=True, slots=True)
class Output:
    """Describe one output of a model.

    Attributes:
        shape: the shape of one row.
        classes: the label's classes, where the output gives one probability (or score) for each, or, for two classes,
            that of the second class; else None.
        threshold: the value of a two-class output above which it means the second class: 0.5 for a probability, as in
            Keras' metrics, 0 for a logit.
        values: the kind of values of an output with classes: "probabilities", "logits", "scores" (neither, but the best
            class has the highest score), or "unknown"; else None.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    classes: tuple[str | int, ...] | None
    threshold: float = 0.5
    values: str | None = None

    def __post_init__(self) -> None:
        if self.classes is not None and self.values is None:
            object.__setattr__(self, "values", _values_by_threshold(self.threshold))

    @property
    def numpy_dtype(self) -> np.dtype:
        """The dtype of predictions: float32 for bfloat16, which numpy and Spark do not have."""
        return np.dtype("float32" if self.dtype == "bfloat16" else self.dtype)

    @property
    def is_scalar(self) -> bool:
        """True if a row's value is one number; an output of one unit counts as one number."""
        return self.shape in ((), (1,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Describe the inputs, in the order of the UDF's arguments, and the outputs of a model.

    Attributes:
        raw_types: the Spark type of each raw column in training.
        labels: the encoders of the labels that the model was trained on; empty if sparkdl did not train it.
        content_hash: the SHA-256 of model.keras, which is the key of caches of loaded models.
        floatx: Keras' default float in training; losses and metrics that it compiles use it.
        target: the values that the model learned to predict: "label", or "inputs" for an autoencoder.
        custom_objects: the user's own classes and functions in the model, by the name under which Keras looks for them,
            each with its module; None in older signatures for a function that was not registered.
        inexact: the losses, metrics and layers that were trained with exactness="per_worker" on several workers and
            have no exact form, such as "loss 'dice'".
    """

    inputs: tuple[Encoder, ...]
    raw_types: Mapping[str, str]
    outputs: tuple[Output, ...]
    content_hash: str
    floatx: str
    labels: tuple[Encoder, ...] = ()
    target: str = "label"
    custom_objects: Mapping[str, str | None] = field(default_factory=dict)
    inexact: tuple[str, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the raw columns, in order, once each."""
        return tuple(dict.fromkeys(name for encoder in self.inputs for name in raw_columns(encoder)))

    @property
    def tokenizers(self) -> dict[str, str]:
        """The tokenizers of the inputs, "module:function", each with its module: code that is not part of the model."""
        named = {getattr(encoder, "tokenizer", None) for encoder in self.inputs}
        return {name: name.partition(":")[0] for name in sorted(filter(None, named))}

    def check_tokenizers(self, *, safe_mode: bool) -> None:
        """Raise ModelError if encoding an input calls a function that the signature names, and `safe_mode` is True."""
        if safe_mode and self.tokenizers:
            raise ModelError(
                f"the model's text is split by {', '.join(self.tokenizers)}, code that is not part of the model; use "
                "safe_mode=False if you trust it"
            )

    @property
    def digest(self) -> str:
        """The SHA-256 of the signature's content, content hash included: the identity of a model directory."""
        content = {key: value for key, value in self.to_json().items() if key != "library_version"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the signature as JSON values, for `from_json`."""
        from sparkdl.version import __version__

        return {
            "format_version": FORMAT_VERSION,
            "library_version": __version__,
            "content_hash": self.content_hash,
            "floatx": self.floatx,
            "inputs": [encoder.to_json() for encoder in self.inputs],
            "raw_types": dict(self.raw_types),
            "labels": [encoder.to_json() for encoder in self.labels],
            "target": self.target,
            "custom_objects": dict(self.custom_objects),
            # Left out if empty, so that signatures without it keep their digests.
            **({"inexact": list(self.inexact)} if self.inexact else {}),
            "outputs": [_output_json(output) for output in self.outputs],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, path: str) -> Signature:
        """Read a signature from what `to_json` returned. Raises ModelError for a newer format."""
        check_format_version(content, path=path, newest=FORMAT_VERSION, error=ModelError)
        names = unique_names([o["name"] for o in content["outputs"]])
        outputs = tuple(
            Output(
                name=name,
                dtype=o["dtype"],
                shape=tuple(o["shape"]),
                classes=None if o["classes"] is None else tuple(o["classes"]),
                threshold=o["threshold"],
                values=o.get("values"),
            )
            for name, o in zip(names, content["outputs"], strict=True)
        )
        inputs, labels = (tuple(encoder_from_json(e) for e in content[key]) for key in ("inputs", "labels"))
        return cls(
            inputs=inputs,
            raw_types=content["raw_types"],
            outputs=outputs,
            content_hash=content["content_hash"],
            floatx=content["floatx"],
            labels=labels,
            target=content.get("target", "label"),
            custom_objects=content["custom_objects"],
            inexact=tuple(content.get("inexact", ())),
        )

    @classmethod
    def read(cls, model_dir: str) -> Signature:
        """Read the signature of a model directory. Raises ModelError if it is missing or cannot be read."""
        path = storage.join(model_dir, SIGNATURE_NAME)
        try:
            return cls.from_json(json.loads(storage.read_bytes(path)), path=path)
        except FileNotFoundError as error:
            raise ModelError(f"no model at {model_dir}: it has no {SIGNATURE_NAME}") from error
        except (ValueError, KeyError, TypeError, AttributeError, NotADirectoryError) as error:
            problem = shown(f"{type(error).__name__}: {error}")
            raise ModelError(f"{path} cannot be read ({problem}); save the model again") from error


def unique_names(names: Sequence[str]) -> list[str]:
    """Make names differ without regard to case, as Spark's fields must: repeated names become score_1, score_2, …"""
    unique: list[str] = []
    for index, name in enumerate(names):
        taken = {other.casefold() for other in (*unique, *names[index + 1 :])}
        is_first = name.casefold() not in {other.casefold() for other in unique}
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        unique.append(name if is_first else next(found for found in numbered if found.casefold() not in taken))
    return unique


def _output_json(output: Output) -> dict[str, Any]:
    content = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(output).items()}
    # Left out if the threshold implies it, so that older signatures keep their digests.
    if output.values in (None, _values_by_threshold(output.threshold)):
        del content["values"]
    return content


def _values_by_threshold(threshold: float) -> str:
    """Return the kind of values of an output with classes that a threshold implies in older signatures."""
    return "logits" if threshold == 0 else "probabilities"


def sha256(file: IO[bytes]) -> str:
    """Return the SHA-256 of an open file from its position on, in hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def output_classes(shape: Sequence[int], label: Encoder | None) -> tuple[str | int, ...] | None:
    """Return the classes of an output of this shape that learned this label; None if they do not fit."""
    if not isinstance(label, CategoricalEncoder):
        return None
    count = len(label.vocabulary)
    one_each = tuple(shape) == (count,)
    second_of_two = tuple(shape) in ((), (1,)) and count == 2
    return label.vocabulary if one_each or second_of_two else None
