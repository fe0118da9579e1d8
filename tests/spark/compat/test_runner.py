"""HorovodRunner's way of running ranks, as Spark tasks."""

import pytest

from sparkdl.compat import HorovodRunner, log_to_driver
from sparkdl.launch.world import world

pytestmark = pytest.mark.timeout(120)


def speak(greeting):
    """Print a line, send a line, and return who speaks."""
    print(f"printed by {world().rank}")
    log_to_driver(f"{greeting} from {world().rank}")
    return world().rank, world().size


@pytest.mark.parametrize(
    ("verbosity", "printed"),
    [("log_callback_only", []), ("all", ["[rank 0] printed by 0", "[rank 1] printed by 1"])],
)
def test_two_tasks_run_and_only_what_was_asked_for_is_shown(spark, capsys, verbosity, printed):
    runner = HorovodRunner(np=2, driver_log_verbosity=verbosity)
    assert runner.run(speak, greeting="hello") == (0, 2)
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line for line in lines if line.startswith("hello")) == ["hello from 0", "hello from 1"]
    assert sorted(line for line in lines if "printed" in line) == printed


def wrapped():
    """Train one step with Horovod's Keras interface; return the update, the mean of the ranks' gradients."""
    import horovod.tensorflow.keras as hvd
    import keras
    import numpy as np

    hvd.init()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros", use_bias=False)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(1.0)), "mse")
    model.fit(
        np.ones((4, 1)), np.full((4, 1), hvd.rank()), callbacks=[hvd.callbacks.MetricAverageCallback()], verbose=0
    )
    return float(model.get_weights()[0][0, 0])


def test_tasks_have_horovods_interface_for_keras(spark):
    assert HorovodRunner(np=2).run(wrapped) == 1.0
