"""Give tests ranks that start quickly, worker groups of this machine, and what tests of groups have ranks do."""

from sparkdl import LaunchConfig, WorkerGroup

# Processes that no test has used for this long end.
IDLE_S = 30.0
# pytest changes this variable in each test, and another environment would start other processes.
ENV = {"PYTEST_CURRENT_TEST": ""}

_groups: dict[str, WorkerGroup] = {}


def local_group(workers: int, **options: object) -> WorkerGroup:
    """The session's group of so many ranks on this machine."""
    launch = LaunchConfig(num_workers=workers, local=True, env=ENV, **options)  # type: ignore[arg-type]
    return _groups.setdefault(repr(launch), WorkerGroup(launch, idle_timeout_s=IDLE_S))


def allreduce(start: float) -> float:
    """Sum each rank's number, from `start` on, with Horovod."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    return float(hvd.allreduce(tf.constant(float(hvd.rank() + start)), op=hvd.Sum))


def age_model(dataset):
    """Build a model that draws, of one column of the fixture dataset-v1."""
    import keras

    inputs = {feature.name: keras.Input(feature.shape, name=feature.name) for feature in dataset.features.values()}
    hidden = keras.layers.Dropout(0.2)(keras.layers.Dense(8, "relu")(keras.layers.Reshape((1,))(inputs["age"])))
    model = keras.Model(inputs["age"], keras.layers.Dense(1, "sigmoid")(hidden))
    model.compile("adam", "binary_crossentropy", metrics=["mae"])
    return model
