"""Processes that train or score import TensorFlow in silence, and neither scikit-learn nor Matplotlib for Keras."""

import subprocess
import sys

import sparkdl

SCORE = """
import sys
from sparkdl.score.options import ScoreOptions
from sparkdl.score.worker.metrics import Figures
from sparkdl.score.worker.model_cache import loaded_model
from sparkdl.score.worker.spec import score_spec

task, _ = score_spec(sys.argv[1], ScoreOptions(batch_size=8, device="cpu"))
model = loaded_model(task, Figures())
print([name for name in ("sklearn", "matplotlib", "matplotlib.pyplot") if name in sys.modules])
import sklearn
print(model.predict({"x": [3.0]}), sklearn.__name__)
"""


def loaded_in_a_rank() -> tuple[list[str], bool, str]:
    from sparkdl.imports import load_libraries

    load_libraries()
    loaded = [name for name in ("sklearn", "matplotlib", "matplotlib.pyplot") if name in sys.modules]
    import keras
    import matplotlib
    import numpy as np
    import sklearn

    matplotlib.use("agg")
    keras.visualization.plot_image_gallery(np.zeros((4, 8, 8, 3)), rows=2, cols=2, path="gallery.png", show=False)
    return loaded, "matplotlib.pyplot" in sys.modules, sklearn.__name__


def test_a_process_that_scores_goes_without_what_keras_may_use(tmp_path) -> None:
    import keras

    model = keras.Sequential([keras.Input((), name="x"), keras.layers.Rescaling(2.0)])
    sparkdl.save_model(model, str(tmp_path / "m"), inputs=["x"])
    command = [sys.executable, "-c", SCORE, str(tmp_path / "m")]
    done = subprocess.run(command, text=True, timeout=150, capture_output=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[6.] sklearn"], done.stderr


def test_a_rank_goes_without_what_keras_may_use_until_it_uses_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    launch = sparkdl.LaunchConfig(num_workers=1, local=True)
    assert sparkdl.run(loaded_in_a_rank, launch=launch) == [([], True, "sklearn")]
    assert (tmp_path / "gallery.png").read_bytes().startswith(b"\x89PNG")


def test_the_libraries_are_imported_in_silence() -> None:
    program = (
        "from sparkdl.imports import load_libraries; load_libraries(); import tensorflow as tf; tf.constant(1) + 1"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout + done.stderr == ""
