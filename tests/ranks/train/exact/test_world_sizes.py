"""Training gives the same numbers on 1, 2 and 3 ranks, and those of plain Keras in one process."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from groups import local_group
from sparkdl import PrepareConfig, Split, TrainConfig
from sparkdl.features import Categorical, Numeric, Tensor
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.spec import EvaluateSpec, TrainSpec

BATCH = 100  # does not divide the 1,468 rows
# The first test with a number of ranks trains all runs on them.
pytestmark = pytest.mark.timeout(400)

EPOCHS = 2
# Three ranks share steps unevenly, and leave some without a row; two are for `make soak`.
TWO = pytest.param(2, marks=pytest.mark.soak)
TIMES = {"seconds", "rows_per_second", "data_wait_seconds", "allreduce_share"}


def digits_model(optimizer: str, floatx: str = "float64"):
    """A `build_model` with float64 weights (or others), no dropout."""

    def build_model(ds):
        import keras

        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(floatx)
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Rescaling(1 / 16),
                layers.Conv2D(8, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(32, activation="relu", kernel_regularizer="l2"),
                layers.Dense(len(ds.classes), activation="softmax"),
            ]
        )
        made = {
            "sgd": keras.optimizers.SGD(0.1, momentum=0.9),
            "adam": keras.optimizers.Adam(0.003, global_clipnorm=1.0),
        }[optimizer]
        model.compile(made, "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    return build_model


def recorder(folder: str):
    """Callbacks that write this rank's losses of every step and its final weights."""

    def make():
        import keras

        class Recorder(keras.callbacks.Callback):
            losses: list[float]

            def on_train_begin(self, logs=None):
                self.losses = []

            def on_train_batch_end(self, batch, logs=None):
                self.losses.append(float(logs["loss"]))

            def on_train_end(self, logs=None):
                rank = sparkdl.world().rank
                weights = {f"weights_{i}": w for i, w in enumerate(self.model.get_weights())}
                np.savez(f"{folder}/rank-{rank}.npz", losses=np.array(self.losses), **weights)

        return [Recorder()]

    return make


def worst(one: dict, other: dict) -> float:
    """The largest difference of two records, relative to the largest value of each array."""
    assert one.keys() == other.keys()
    return max(float(np.max(np.abs(one[k] - other[k])) / np.max(np.abs(one[k]))) for k in one)


def plain_keras(task: TrainSpec) -> dict:
    """The same training without anything of `train`: Keras' own train_on_batch over the epoch's batches."""
    import keras

    from sparkdl.data.feed.feed import Feed

    dataset, config = task.dataset, task.config
    keras.utils.set_random_seed(config.seed)
    model = task.build_model(dataset)
    order = {"global_batch_size": config.global_batch_size, "seed": config.seed}
    feed = Feed(dataset, dataset.split("train"), rank=0, world_size=1, **order)
    losses = []
    for epoch in range(config.epochs):
        total = rows = 0.0
        for block in feed.blocks([epoch]):
            for start, stop in zip(block.starts, block.stops, strict=True):
                pixels, digits = (array[start:stop] for array in block.arrays)
                # train_on_batch returns the loss before the update; of this batch alone in every version of Keras.
                model.reset_metrics()
                loss = model.train_on_batch(pixels, digits, return_dict=True)["loss"]
                total, rows = total + float(loss) * len(digits), rows + len(digits)
                losses.append(total / rows)
    return {"losses": np.array(losses), **{f"weights_{i}": w for i, w in enumerate(model.get_weights())}}


@pytest.fixture(scope="module")
def mixed_dataset(spark, tmp_path_factory):
    """Several inputs of several kinds, two labels, weights."""
    rng = np.random.default_rng(4)
    rows = [
        (
            float(rng.normal()),
            str(rng.integers(0, 5)),
            rng.normal(size=3).tolist(),
            int(rng.integers(0, 3)),
            float(rng.normal()),
            float(rng.uniform(0.1, 3)),
        )
        for _ in range(157)
    ]
    df = spark.createDataFrame(rows, "a double, b string, c array<double>, kind int, size double, w double")
    return sparkdl.prepare(
        df,
        PrepareConfig(
            path=str(tmp_path_factory.mktemp("mixed") / "d"),
            features=[Numeric("a"), Categorical("b"), "c"],
            label=[Categorical("kind"), Tensor("size")],
            weight="w",
            splits=Split.fraction({"train": 0.7, "val": 0.3}, seed=1),
        ),
    )


def mixed_model(ds):
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    layers = keras.layers
    inputs = {
        "a": keras.Input((), name="a"),
        "b": keras.Input((), name="b", dtype="int32"),
        "c": keras.Input((3,), name="c"),
    }
    embedded = layers.Embedding(ds.features["b"].size, 4)(inputs["b"])
    joined = layers.Concatenate()([layers.Reshape((1,))(inputs["a"]), embedded, inputs["c"]])
    outputs = {
        "kind": layers.Dense(3, activation="softmax", name="kind", kernel_regularizer="l2")(joined),
        "size": layers.Dense(1, name="size")(layers.Dense(8, activation="tanh")(joined)),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.AdamW(0.01, clipnorm=0.1, use_ema=True, ema_overwrite_frequency=3),
        {"kind": "sparse_categorical_crossentropy", "size": "mse"},
        loss_weights={"kind": 1.0, "size": 0.3},
        metrics={"kind": ["accuracy"], "size": ["mae", keras.metrics.RootMeanSquaredError()]},
        weighted_metrics={"kind": ["accuracy"], "size": [keras.metrics.R2Score(name="r2")]},
    )
    return model


def normalized_model(ds):
    import keras

    layers = keras.layers
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    return model


@pytest.fixture(scope="module")
def five_rows(spark, tmp_path_factory):
    df = spark.createDataFrame([([float(i), 1.0, 2.0, 3.0], float(i)) for i in range(5)], "x array<double>, y double")
    path = str(tmp_path_factory.mktemp("five") / "d")
    return sparkdl.prepare(df, PrepareConfig(path=path, features=["x"], label="y"))


@dataclass(frozen=True)
class Trained:
    """What one world size gave: by run, the history, and what each rank recorded; by evaluation, its numbers.

    `plain` is what Keras alone recorded of one run, beside one rank.
    """

    histories: dict[str, list[dict]]
    records: dict[str, list[dict]]
    evaluated: dict[str, dict]
    plain: dict


def train_all(tasks: dict[str, TrainSpec], evaluations: dict[str, EvaluateSpec]):
    """Several runs in the same rank processes: starting TensorFlow costs more than any of them."""
    from sparkdl.train.entry import evaluate_rank, train_rank

    histories = {name: train_rank(task).history for name, task in tasks.items()}
    evaluated = {name: evaluate_rank(task) for name, task in evaluations.items()}
    return histories, evaluated, plain_keras(tasks["adam"]) if sparkdl.world().size == 1 else {}


@pytest.fixture(scope="module")
def trained(digits_dataset, mixed_dataset, five_rows, tmp_path_factory) -> Callable[[int], Trained]:
    """The runs of this module on a number of ranks."""
    runs = {
        "sgd": (digits_model("sgd"), digits_dataset, BATCH),
        "adam": (digits_model("adam"), digits_dataset, BATCH),
        "float32": (digits_model("adam", "float32"), digits_dataset, BATCH),
        "mixed": (mixed_model, mixed_dataset, 16),
        # Steps of two rows: on 3 ranks one has none in every step, and BatchNormalization makes NaN of its padding row.
        "five": (normalized_model, five_rows, 2),
    }
    return functools.cache(lambda workers: train_on(workers, runs, tmp_path_factory.mktemp(f"on-{workers}")))


def train_on(workers: int, runs: dict, folder: Path) -> Trained:
    tasks = {}
    for name, (build_model, dataset, batch) in runs.items():
        (folder / name).mkdir()
        config = TrainConfig(
            run_dir=str(folder / name),
            epochs=EPOCHS,
            global_batch_size=batch,
            seed=1,
            callbacks=recorder(str(folder / name)),
        )
        tasks[name] = TrainSpec(build_model=build_model, dataset=dataset, config=config, run=RunDir(str(folder / name)))
    evaluations = {
        f"{name} {batch}": EvaluateSpec(
            model_dir=tasks[name].run.model,
            dataset=tasks[name].dataset,
            split="val",
            global_batch_size=batch,
            safe_mode=True,
        )
        for name in ("adam", "mixed")
        for batch in (7, 1000)
    }
    launch = local_group(workers)
    histories, evaluated, plain = sparkdl.run(train_all, tasks, evaluations, launch=launch)[0]
    records = {name: [dict(np.load(folder / name / f"rank-{rank}.npz")) for rank in range(workers)] for name in runs}
    return Trained(histories, records, evaluated, plain)


def without_times(record: dict) -> dict:
    return {name: value for name, value in record.items() if name not in TIMES}


@pytest.mark.parametrize("run", ["sgd", "adam", "mixed"])
@pytest.mark.parametrize("workers", [TWO, 3])
def test_float64_losses_weights_and_history_do_not_depend_on_the_ranks(trained, run, workers) -> None:
    (alone,) = trained(1).records[run]
    for record in trained(workers).records[run]:
        assert worst(alone, record) < 1e-9
    for one, many in zip(trained(1).histories[run], trained(workers).histories[run], strict=True):
        assert without_times(one) == pytest.approx(without_times(many), rel=1e-9, abs=1e-12)


def test_the_history_holds_all_figures(trained) -> None:
    for record in trained(3).histories["mixed"]:
        assert {
            "epoch",
            "loss",
            "kind_loss",
            "size_loss",
            "size_mae",
            "kind_accuracy",
            "val_loss",
            "val_size_mae",
            "lr",
        } <= record.keys()
        assert record.keys() >= {*TIMES, "gradient_norm"} and record["rows_per_second"] > 0
        assert 0 < record["allreduce_share"] < 1
    assert {record["allreduce_share"] for record in trained(1).histories["mixed"]} == {0.0}


@pytest.mark.parametrize("workers", [TWO, 3])
def test_float32_follows_for_20_steps(trained, workers) -> None:
    one, many = (trained(w).records["float32"][0]["losses"][:20] for w in (1, workers))
    assert np.allclose(one, many, rtol=1e-5, atol=0)


@pytest.mark.parametrize("workers", [1, TWO, 3])
@pytest.mark.parametrize("run", ["adam", "mixed"])
def test_evaluation_depends_on_neither_ranks_nor_batches(trained, workers, run) -> None:
    reference = trained(1).evaluated[f"{run} 1000"]
    assert len(reference) >= 2
    for batch in (7, 1000):
        assert trained(workers).evaluated[f"{run} {batch}"] == pytest.approx(reference, rel=1e-9)


@pytest.mark.parametrize("workers", [1, TWO, 3])
def test_five_rows_train_on_any_number_of_ranks(trained, workers) -> None:
    for record in trained(workers).records["five"]:
        assert len(record["losses"]) == EPOCHS * 3
        assert all(np.isfinite(values).all() for values in record.values())


def test_three_ranks_equal_plain_keras(trained) -> None:
    for record in trained(3).records["adam"]:
        assert worst(trained(1).plain, record) < 1e-9
