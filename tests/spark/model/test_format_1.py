"""A model directory of format 1, committed, loads and scores as it did on the day it was made.

Made by tests/fixtures/make_model_v1.py; the rows and their predictions lie beside it.
"""

import hashlib
import json
import re
import shutil
import zipfile

import numpy as np
import pytest

import sparkdl
from paths import FIXTURES
from sparkdl import ModelError

FOLDER = FIXTURES / "model-v1"
EXPECTED = json.loads(FOLDER.with_name("model-v1.expected.json").read_text())


def test_format_1_loads_compiled_and_predicts() -> None:
    model = sparkdl.load_model(str(FOLDER))
    found = model.predict(EXPECTED["rows"])
    assert sorted(found) == sorted(EXPECTED["predictions"])
    for name, values in EXPECTED["predictions"].items():
        assert np.allclose(found[name], values, rtol=1e-5, atol=1e-6)
    assert type(model.keras_model.optimizer).__name__ == "Adam" and model.keras_model.compiled
    classes = {output.name: output.classes for output in model.signature.outputs}
    assert classes == {"pay": ("high", "low"), "grade": None} and model.signature.target == "label"
    assert json.loads((FOLDER / "signature.json").read_text())["format_version"] == 1


def test_format_1_is_scored_in_spark_and_exported(spark, tmp_path) -> None:
    import tensorflow as tf

    columns = EXPECTED["rows"]
    types = "age double, job string, code int, grid array<double>, size double, note string, hours array<double>"
    names = [entry.split()[0] for entry in types.split(", ")]
    rows = spark.createDataFrame(list(zip(*(columns[name] for name in names), strict=True)), types).coalesce(1)
    scored = sparkdl.transform(rows, str(FOLDER)).collect()
    for name, values in EXPECTED["predictions"].items():
        found = np.array([row.prediction[name] for row in scored]).reshape(np.shape(values))
        assert np.allclose(found, values, rtol=1e-5, atol=1e-6)

    sparkdl.export_saved_model(str(FOLDER), str(tmp_path / "out"))
    serve = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"]
    raw = {name: [np.nan if value is None else value for value in column] for name, column in columns.items()}
    given = serve.structured_input_signature[1]
    found = serve(**{name: tf.constant(raw[name], spec.dtype) for name, spec in given.items()})
    for name, values in EXPECTED["predictions"].items():
        assert np.allclose(found[name], values, rtol=1e-5, atol=1e-6)


def test_a_model_of_a_newer_keras_is_told_by_its_version(tmp_path) -> None:
    import keras

    with zipfile.ZipFile(FOLDER / "model.keras") as archive, zipfile.ZipFile(tmp_path / "model.keras", "w") as newer:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "metadata.json":
                content = json.dumps({**json.loads(content), "keras_version": "99.1.0"}).encode()
            if name == "config.json":
                content = content.replace(b'"mask_zero"', b'"only_known_later"')
            newer.writestr(name, content)
    signature = json.loads((FOLDER / "signature.json").read_text())
    signature["content_hash"] = hashlib.sha256((tmp_path / "model.keras").read_bytes()).hexdigest()
    (tmp_path / "signature.json").write_text(json.dumps(signature))
    told = f"Keras 99.1.0 saved it, and this is Keras {re.escape(keras.__version__)}; install keras>=99.1.0$"
    with pytest.raises(ModelError, match=told):
        sparkdl.load_model(str(tmp_path))


@pytest.mark.parametrize("version", [2, 0, None, "1", True])
def test_another_format_is_refused(tmp_path, version) -> None:
    shutil.copytree(FOLDER, tmp_path / "m")
    content = json.loads((FOLDER / "signature.json").read_text())
    (tmp_path / "m" / "signature.json").write_text(json.dumps({**content, "format_version": version}))
    message = f"signature.json has format_version {version!r}; this version of sparkdl reads up to 1: update sparkdl"
    with pytest.raises(ModelError, match=message):
        sparkdl.load_model(str(tmp_path / "m"))


@pytest.mark.parametrize("damaged", ["{", "[]", '{"format_version": 1}'])
def test_a_damaged_signature_is_an_error_of_one_line(tmp_path, damaged) -> None:
    (tmp_path / "signature.json").write_text(damaged)
    with pytest.raises(ModelError, match="signature.json cannot be read .*; save the model again") as raised:
        sparkdl.load_model(str(tmp_path))
    assert "\n" not in str(raised.value)
