"""A notebook whose cells are edited and run again: what counts as the same model, and what does not."""

import os
import textwrap

import nbclient
import nbformat
import pytest

from paths import ROOT

pytestmark = pytest.mark.timeout(300)

BEGIN = """
import sparkdl
ds = sparkdl.open_dataset({dataset!r})
one = sparkdl.LaunchConfig(num_workers=1, local=True, log="errors")

def fit():
    config = sparkdl.TrainConfig(run_dir="run", epochs=1, global_batch_size=7, callbacks=make_callbacks)
    try:
        sparkdl.fit(build_model, ds, config, launch=one)
    except sparkdl.CheckpointError as error:
        print("refused:", error)
"""
MODEL = """
import keras
import own_helper

@keras.saving.register_keras_serializable("notebook")
class Scaled(keras.layers.Layer):
    def call(self, x):
        return 2.0 * x  # a comment

def build_model(ds):
    inputs = {e.name: keras.Input(e.shape, name=e.name) for e in ds.features.values() if e.name == "age"}
    x = keras.layers.Dense(own_helper.width(), "relu")(keras.layers.Reshape((1,))(inputs["age"]))
    model = keras.Model(list(inputs.values()), keras.layers.Dense(1, "sigmoid", name="pay")(Scaled()(x)))
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
    return model
"""
CALLBACKS = """
class Watch(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.last = logs["loss"]

def make_callbacks():
    return [Watch()]
"""
HELPER = "def width():\n    return 4\n"


def edit_helper(new):
    return f"from pathlib import Path\nPath('own_helper.py').write_text({new!r})"


def test_cells_that_are_edited_and_run_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "own_helper.py").write_text(HELPER)
    edits = [
        ("trained", MODEL, "epoch 1/1"),
        ("run again", MODEL, "its result is given back"),
        ("a comment", MODEL.replace("a comment", "another\n        # and one more"), "its result is given back"),
        ("a layer", MODEL.replace("2.0 * x", "3.0 * x"), "another model: the code of Scaled is another"),
        ("back", MODEL, "its result is given back"),
        ("a callback", CALLBACKS.replace('logs["loss"]', 'logs["loss"] + 1'), "the code of Watch is another"),
        ("back", CALLBACKS, "its result is given back"),
        ("a helper", edit_helper(HELPER.replace("4", "8")), ".units was 4, is 8; choose another run_dir, or resume="),
        ("a helper's comment", edit_helper(f"# a comment\n{HELPER}"), "its result is given back"),
    ]
    book = nbformat.v4.new_notebook()
    sources = [BEGIN.format(dataset=str(ROOT / "tests" / "fixtures" / "dataset-v1")), MODEL + CALLBACKS]
    sources += [f"{source}\nfit()" for _, source, _ in edits]
    book.cells = [nbformat.v4.new_code_cell(textwrap.dedent(source)) for source in sources]
    nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for (name, _, expected), cell in zip(edits, book.cells[2:], strict=True):
        shown = "".join(output.get("text", "") for output in cell.outputs)
        assert expected in shown, (name, shown)
        assert ("refused:" in shown) == ("another" in expected), (name, shown)
        # Without a rank where the code is the same.
        assert ("one rank builds" in shown) == ("refused:" in shown), (name, shown)
