"""What is not exact over ranks gets the same verdict on any number of them, and trains where that is asked for."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from groups import local_group
from sparkdl import PrepareConfig, Split, TrainConfig
from sparkdl.errors import ModelError
from sparkdl.features import Tensor
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.spec import EvaluateSpec, TrainSpec

pytestmark = pytest.mark.timeout(400)

ROWS = 600


@pytest.fixture(scope="module")
def datasets(spark, tmp_path_factory):
    """Numbers of an everyday size, small ones, and two classes of which one is rare."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 3))
    y = x @ [1, -2, 0.5] + rng.normal(size=ROWS) * 0.3
    rare = np.zeros(ROWS)
    rare[np.argsort(-x[:, 0])[:5]] = 1
    made = {}
    for name, labels in {"numbers": y, "small": y * 1e-4, "rare": rare}.items():
        rows = [(i, x[i].tolist(), float(labels[i])) for i in range(ROWS)]
        config = PrepareConfig(
            path=str(tmp_path_factory.mktemp(name) / "d"),
            features=[Tensor("x")],
            label=Tensor("y"),
            lanes=8,
            splits=Split.fraction({"train": 0.8, "val": 0.2}, key="id"),
        )
        frame = spark.createDataFrame(rows, "id long, x array<double>, y double")
        made[name] = sparkdl.prepare(frame, config)
    weighted = dataclasses.replace(config, path=str(tmp_path_factory.mktemp("weighted") / "d"), weight="w")
    made["weighted"] = sparkdl.prepare(frame.selectExpr("*", "1 + id % 3 w"), weighted)
    return made


def compiled(loss="mse", metrics=(), *, layer=None, units=1, activation=None, kind=None, squeezed=False):
    """A `build_model`; `loss`, each of `metrics` and `layer` are made by functions of keras.

    `squeezed`: predictions have the shape (rows,).
    """

    def build_model(ds):
        import keras

        inputs = keras.Input((3,))
        hidden = inputs if layer is None else layer(keras)(inputs)
        dense = keras.layers.Dense(units, activation, kernel_initializer=keras.initializers.GlorotUniform(1))
        outputs = keras.ops.squeeze(dense(hidden), -1) if squeezed else dense(hidden)
        model = (kind(keras) if kind else keras.Model)(inputs, outputs)
        made = [one if isinstance(one, str) else one(keras) for one in metrics]
        model.compile(keras.optimizers.SGD(1e-3), loss if isinstance(loss, str) else loss(keras), metrics=made)
        return model

    return build_model


def rmse(keras):
    def root_mean_square(y, p):
        return keras.ops.sqrt(keras.ops.mean(keras.ops.square(y - p)))

    return root_mean_square


def balanced(keras):
    """Weigh two classes by the batch's counts, in floats of one kind, as many programs do."""

    def balanced(t, p):
        ops = keras.ops
        y = ops.reshape(ops.cast(t, "float32"), (-1,))
        losses = keras.losses.binary_crossentropy(y[:, None], p)
        positives = ops.sum(y * losses) / ops.maximum(ops.sum(y), 1.0)
        return positives + ops.sum((1 - y) * losses) / ops.maximum(ops.sum(1 - y), 1.0)

    return balanced


def valid_only(keras):
    import tensorflow as tf

    return lambda y, p: tf.boolean_mask(tf.square(y - p), y > 0)


def summing_in_training(keras):
    class Summing(keras.layers.Layer):
        def call(self, x, training=False):
            if training:
                self.add_loss(0.1 * keras.ops.sum(keras.ops.square(x)))
            return x

    return Summing()


def centring(keras):
    return keras.layers.Lambda(lambda x: x - keras.ops.mean(x, axis=0, keepdims=True))


def sum_within_a_step(keras):
    class Summing(keras.Model):
        def train_step(self, data):
            import tensorflow as tf

            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(tf.reshape(y, (-1, 1)) - self(x, training=True)))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {}

    return Summing


def mean_within_a_step(keras):
    class Averaging(keras.Model):
        def train_step(self, data):
            import tensorflow as tf

            x, y = data
            with tf.GradientTape() as tape:
                noise = keras.random.normal(keras.ops.shape(x))
                loss = tf.reduce_mean(tf.square(tf.reshape(y, (-1, 1)) - self(x + 0.01 * noise, training=True)))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {}

    return Averaging


def counter(*, declared=None):
    def make(keras):
        class Counter(keras.layers.Layer):
            sparkdl_reduction = declared

            def build(self, shape):
                def state(name, dtype="float32"):
                    return self.add_weight(shape=(), initializer="zeros", trainable=False, dtype=dtype, name=name)

                self.rows, self.whole, self.steps = state("rows"), state("whole", "int32"), state("steps", "int64")
                self.largest, self.mean = state("largest"), state("mean")

            def call(self, x, training=False):
                ops = keras.ops
                if training:
                    rows = ops.shape(x)[0]
                    self.rows.assign_add(ops.cast(rows, "float32"))
                    self.whole.assign_add(rows)
                    self.steps.assign_add(1)
                    self.largest.assign(ops.maximum(self.largest, ops.max(x)))
                    self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(x))
                return x

        return Counter()

    return make


def remembering_a_variance(keras):
    class Remembering(keras.layers.Layer):
        def build(self, shape):
            self.spread = self.add_weight(shape=(), initializer="zeros", trainable=False, name="spread")

        def call(self, x, training=False):
            if training:
                self.spread.assign(keras.ops.std(x))
            return x

    return Remembering()


def start_at_one(keras):
    class StartAtOne(keras.metrics.Metric):
        sparkdl_reduction = "sum"

        def __init__(self, name="one_and_rows"):
            super().__init__(name=name)
            self.seen = self.add_variable((), lambda *_, **__: keras.ops.ones(()), name="seen")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.seen.assign_add(keras.ops.cast(keras.ops.shape(y_pred)[0], "float32"))

        def reset_state(self):
            self.seen.assign(1.0)

        def result(self):
            return self.seen + 0.0

    return StartAtOne()


def largest_batch_mean(keras):
    """A metric whose class does not say how states of several ranks become one."""

    class LargestBatchMean(keras.metrics.Metric):
        def __init__(self, name="largest_batch_mean"):
            super().__init__(name=name)
            self.largest = self.add_variable((), "zeros", name="largest")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.largest.assign(keras.ops.maximum(self.largest, keras.ops.mean(keras.ops.abs(y_true))))

        def result(self):
            return self.largest + 0.0

    return LargestBatchMean()


def mean_distance(keras):
    def mean_distance(y, p):
        return keras.ops.mean(keras.ops.abs(y - p[:, 0]))

    return mean_distance


def each_label_with_each_prediction(keras):
    """Labels (rows,) and predictions (rows, 1) make a matrix (rows, rows): each row is compared with all others."""

    def distances(y, p):
        return keras.ops.mean(keras.ops.abs(y - p), axis=-1)

    return distances


def noting_a_mean(keras):
    """A layer that keeps the mean of what it gets in a metric."""

    class Noting(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.size = keras.metrics.Mean(name="size")

        def call(self, x):
            self.size.update_state(keras.ops.mean(keras.ops.square(x)))
            return x

    return Noting()


def own_means(keras):
    """A train_step that keeps its loss in a subclass of Mean."""

    class Loss(keras.metrics.Mean):
        sparkdl_reduction = "sum"

    class Averaging(keras.Model):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.kept = Loss(name="kept")

        def train_step(self, data):
            import tensorflow as tf

            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(tf.reshape(y, (-1, 1)) - self(x, training=True)))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            self.kept.update_state(loss)
            return {"kept": self.kept.result()}

    return Averaging


def loss_of_its_own(keras):
    """A compute_loss as it was written before Keras knew `training`, which leaves the compiled loss alone."""

    class Own(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return keras.ops.mean(keras.ops.square(keras.ops.reshape(y, (-1, 1)) - y_pred))

    return Own


def adding_noise(keras):
    """A layer that draws in a shape that is a tensor, and a single number."""

    class Noise(keras.layers.Layer):
        def call(self, x, training=False):
            import tensorflow as tf

            noise = keras.random.normal(tf.shape(x)) * keras.random.uniform(())
            return x + 0.01 * noise if training else x

    return Noise()


def noisy_labels(keras):
    def noisy(y, p):
        noise = keras.random.normal(keras.ops.shape(y), dtype=y.dtype)
        return keras.ops.mean(keras.ops.square(y + 0.1 * noise - p), -1)

    return noisy


def keeping(name, kind, value):
    """A train_step and a test_step that keep one value for each batch in a metric, of `kind`."""

    def make(keras):
        class Keeping(keras.Model):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.kept = getattr(keras.metrics, kind)(name=name)

            def train_step(self, data):
                import tensorflow as tf

                x, y = data
                with tf.GradientTape() as tape:
                    errors = tf.abs(tf.reshape(y, (-1, 1)) - self(x, training=True))
                    loss = tf.reduce_mean(errors)
                gradients = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
                self.kept.update_state(value(keras.ops, errors))
                return {name: self.kept.result()}

            def test_step(self, data):
                x, y = data
                errors = keras.ops.abs(keras.ops.reshape(y, (-1, 1)) - self(x, training=False))
                self.kept.update_state(value(keras.ops, errors))
                return {name: self.kept.result()}

        return Keeping

    return make


def near(ops, errors):
    """How many rows are off by less than 2."""
    return ops.sum(ops.cast(errors < 2, "float32"))


def summing_in_a_layer(keras):
    class Summing(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.positive = keras.metrics.Sum(name="positive")

        def call(self, x):
            self.positive.update_state(keras.ops.sum(keras.ops.cast(x[:, 0] > 0, "float32")))
            return x

    return Summing()


REFUSED = {
    # Keras' own functions make one value of predictions (rows,), and take an axis that is that of the rows.
    "loss 'mae' is not a mean over rows: it gives one value for all rows, and weights": (
        "weighted",
        compiled("mae", squeezed=True),
    ),
    "loss 'cosine_similarity' is not a mean over rows": (
        "numbers",
        compiled(lambda keras: keras.losses.CosineSimilarity(axis=0)),
    ),
    "loss 'root_mean_square' is not a mean over rows": ("numbers", compiled(rmse)),
    "loss 'root_mean_square' is not a mean": ("small", compiled(rmse)),
    "loss 'balanced' is not a mean over rows": ("rare", compiled(balanced, activation="sigmoid")),
    "loss 'dice' is not a mean over rows": ("rare", compiled(lambda keras: keras.losses.Dice(), activation="sigmoid")),
    "use Tversky(axis=(1, 2, …))": ("rare", compiled(lambda keras: keras.losses.Tversky(), activation="sigmoid")),
    "loss 'lambda' is not a mean over rows": ("numbers", compiled(valid_only)),
    "metric 'root_mean_square' is not a mean over rows": ("numbers", compiled(metrics=[rmse])),
    "metric 'pearson_correlation' (PearsonCorrelation) is a mean of the correlations of batches": (
        "numbers",
        compiled(metrics=[lambda keras: keras.metrics.PearsonCorrelation()]),
    ),
    "metric 'distances' is not a mean over rows": ("numbers", compiled(metrics=[each_label_with_each_prediction])),
    "add_loss of model 'functional": ("numbers", compiled(layer=summing_in_training)),
    "a layer looks at the whole batch": ("numbers", compiled(layer=centring)),
    "applies a gradient that is not the mean": ("numbers", compiled(kind=sum_within_a_step)),
    "metric 'rmse' gets one value for a batch that is not a mean over rows": (
        "numbers",
        compiled(kind=keeping("rmse", "Mean", lambda ops, errors: ops.sqrt(ops.mean(ops.square(errors))))),
    ),
    "metric 'largest' gets one value for a batch that is not a sum or a mean over rows": (
        "numbers",
        compiled(kind=keeping("largest", "Sum", lambda ops, errors: ops.max(errors))),
    ),
    "state 'spread' of layer 'remembering": ("numbers", compiled(layer=remembering_a_variance)),
    "has reduction='sum', and the model has its own train_step": (
        "numbers",
        compiled(lambda keras: keras.losses.MeanSquaredError(reduction="sum"), kind=mean_within_a_step),
    ),
}
ACCEPTED = {
    "squeezed": ("numbers", compiled("mae", [lambda keras: "mse"], squeezed=True)),
    "own compute_loss": ("numbers", compiled(kind=loss_of_its_own)),
    "drawn shapes": ("numbers", compiled(layer=adding_noise)),
    "drawn labels": ("numbers", compiled(noisy_labels)),
    "mean": ("numbers", compiled(lambda keras: lambda y, p: keras.ops.mean(keras.ops.square(y - p)))),
    "dropout": ("numbers", compiled(layer=lambda keras: keras.layers.Dropout(0.5))),
    "noise": ("numbers", compiled(layer=lambda keras: keras.layers.GaussianNoise(1.0))),
    "batch norm": ("numbers", compiled(layer=lambda keras: keras.layers.BatchNormalization())),
    "spectral norm": (
        "numbers",
        compiled(layer=lambda keras: keras.layers.SpectralNormalization(keras.layers.Dense(3))),
    ),
    "regularizer": ("numbers", compiled(layer=lambda keras: keras.layers.Dense(4, kernel_regularizer="l2"))),
    "own step": ("numbers", compiled(kind=mean_within_a_step)),
    "sum of an own step": ("numbers", compiled(kind=keeping("near", "Sum", near))),
    "states": ("numbers", compiled(layer=counter())),
    "sum": ("numbers", compiled(lambda keras: keras.losses.MeanSquaredError(reduction="sum"))),
}


def verdicts(models: dict, orders: int):
    """The verdict on each model, as `find_inexact` gives it, for several orders of the rows it is tried on."""
    import keras

    from sparkdl.data.feed.sample_rows import sample_rows
    from sparkdl.data.feed.tensors import batch_of
    from sparkdl.train.checks.check_model import build, check_model
    from sparkdl.train.exactness.find import find_inexact
    from sparkdl.train.rank.built_model import example_of

    found: dict[str, set[tuple[str, ...]]] = {}
    for name, (ds, build_model) in models.items():
        arrays = sample_rows(ds, ds.split("train"))
        model = build_model(ds)
        check_model(model)
        build(model, example_of(ds))
        for order in range(orders):
            rows = np.random.default_rng(order).permutation(len(arrays[0]))
            batch = batch_of([array[rows] for array in arrays], ds.layout)
            kinds = tuple(str(one) for one in find_inexact(model, batch).inexact)
            found.setdefault(name, set()).add(kinds)
        keras.backend.clear_session()
    return found


def test_what_is_not_exact_is_found_by_name_for_any_order_of_rows(datasets) -> None:
    models = {name: (datasets[ds], build_model) for name, (ds, build_model) in {**REFUSED, **ACCEPTED}.items()}
    (found,) = sparkdl.run(verdicts, models, 3, launch=local_group(1))
    for name in REFUSED:
        assert all(name in " | ".join(kinds) for kinds in found[name]), (name, found[name])
    assert {name: found[name] for name in ACCEPTED if name in found and found[name] != {()}} == {}


def verdicts_in_little_memory(ds, losses: dict, most_rows: int):
    """What is found of a model that takes so many rows at most, and raises TensorFlow's error for more."""
    import keras
    import tensorflow as tf

    from sparkdl.data.feed.sample_rows import sample_rows
    from sparkdl.data.feed.tensors import batch_of
    from sparkdl.train.checks.check_model import build
    from sparkdl.train.exactness.judge import _found
    from sparkdl.train.rank.built_model import example_of

    class Large(keras.layers.Dense):
        def call(self, inputs):
            if (inputs.shape[0] or 0) > most_rows:
                raise tf.errors.ResourceExhaustedError(None, None, "no memory")
            return super().call(inputs)

    batch = batch_of(sample_rows(ds, ds.split("train")), ds.layout)
    found = {}
    for name, loss in losses.items():
        model = keras.Sequential([keras.Input((3,)), Large(1)])
        model.compile("sgd", loss)
        build(model, example_of(ds))
        found[name] = [one.what for one in _found(model, batch, 8, class_weights=False, training=True).inexact]
    return found


def test_a_model_that_needs_much_memory_is_tried_on_fewer_rows(datasets) -> None:
    def root(y_true, y_pred):
        import keras

        return keras.ops.sqrt(keras.ops.mean((y_true - y_pred) ** 2))

    losses, here = {"mse": "mse", "root": root}, local_group(1)
    (found,) = sparkdl.run(verdicts_in_little_memory, datasets["numbers"], losses, 8, launch=here)
    assert found == {"mse": [], "root": ["loss 'root'"]}
    # Nothing can be said where four rows are too many.
    (found,) = sparkdl.run(verdicts_in_little_memory, datasets["numbers"], losses, 2, launch=here)
    assert found == {"mse": [], "root": []}


def train_all(tasks: dict, evaluations: dict):
    """Train, and evaluate what was trained; what is refused gives its message."""
    import keras

    from sparkdl.errors import ModelError
    from sparkdl.train.entry import evaluate_rank, train_rank

    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("sparkdl.train.exactness.judge").addHandler(handler)
    results: dict = {}
    for name, task in tasks.items():
        told.clear()
        try:
            history = train_rank(task).history
            results[name] = {"history": history, "told": list(told)}
        except ModelError as error:
            results[name] = {"refused": str(error)}
        keras.backend.clear_session()
    evaluated = {name: evaluate_rank(task) for name, task in evaluations.items()}
    return results, evaluated


RUNS = {
    # First, for other ranks are done before rank 0 has written a model.
    "sum": ("numbers", compiled(lambda keras: keras.losses.MeanSquaredError(reduction="sum")), {}),
    "rmse": ("numbers", compiled(rmse), {"exactness": "per_worker"}),
    "rmse strict": ("numbers", compiled(rmse), {}),
    "balanced strict": ("rare", compiled(balanced, activation="sigmoid"), {}),
    "valid only": ("numbers", compiled(valid_only), {"exactness": "per_worker"}),
    "own metric": ("numbers", compiled(metrics=[largest_batch_mean]), {"exactness": "per_worker"}),
    "mean metric": ("numbers", compiled(metrics=[mean_distance]), {}),
    "start at one": ("numbers", compiled(metrics=[start_at_one]), {}),
    "metric of a layer": ("numbers", compiled(layer=noting_a_mean), {}),
    "sum of a layer": ("numbers", compiled(layer=summing_in_a_layer), {}),
    "sum of an own step": ("numbers", compiled(kind=keeping("near", "Sum", near)), {}),
    "subclass of Mean": ("numbers", compiled(kind=own_means), {"validation": None}),
    "counter": ("numbers", compiled(layer=counter()), {}),
    "squeezed": ("numbers", compiled("mae", [lambda keras: "mse"], squeezed=True), {}),
    "own compute_loss": ("numbers", compiled(kind=loss_of_its_own), {}),
    "drawn shapes": ("numbers", compiled(layer=adding_noise), {}),
}


@pytest.fixture(scope="module")
def trained(datasets, tmp_path_factory):
    """What one and two ranks gave: by run its history, or why it was refused; by evaluation its numbers."""
    found = {}
    for workers in (1, 2):
        folder = tmp_path_factory.mktemp(f"on-{workers}")
        tasks = {}
        for name, (ds, build_model, options) in RUNS.items():
            run_dir = str(folder / name)
            Path(run_dir).mkdir()
            config = TrainConfig(run_dir=run_dir, epochs=2, global_batch_size=64, **options)
            tasks[name] = TrainSpec(build_model=build_model, dataset=datasets[ds], config=config, run=RunDir(run_dir))
        evaluations = {
            batch: EvaluateSpec(
                model_dir=tasks["sum"].run.model, dataset=datasets["numbers"], split="val", global_batch_size=batch
            )
            for batch in (17, 64, 1000)
        }
        results = sparkdl.run(train_all, tasks, evaluations, launch=local_group(workers))
        found[workers] = (*results[0], {name: task.run for name, task in tasks.items()})
    return found


def test_one_worker_trains_what_several_refuse_and_says_so(trained) -> None:
    for name in ("rmse strict", "balanced strict"):
        assert "is not a mean over rows" in trained[2][0][name]["refused"]
        assert "exactness='per_worker'" in trained[2][0][name]["refused"]
        (told,) = trained[1][0][name]["told"]
        assert "as plain Keras does with one worker" in told and "is not a mean over rows" in told
        assert "per_worker" not in trained[1][0][name]["history"][0]


def test_per_worker_trains_says_so_once_and_marks_history_and_model(trained) -> None:
    from sparkdl.model.signature import Signature

    for name, what in (("rmse", "loss 'root_mean_square'"), ("valid only", "loss 'lambda'")):
        result = trained[2][0][name]
        assert [line.startswith("exactness='per_worker'") for line in result["told"]] == [True]
        assert what in result["told"][0]
        assert [record["per_worker"] for record in result["history"]] == [[what], [what]]
        assert all(np.isfinite(record["loss"]) for record in result["history"])
        assert Signature.read(trained[2][2][name].model).inexact == (what,)
        assert Signature.read(trained[1][2][name].model).inexact == ()


def test_a_metric_without_an_exact_form_is_averaged_by_rows(trained) -> None:
    one, two = (trained[workers][0]["own metric"]["history"][-1] for workers in (1, 2))
    assert one["val_largest_batch_mean"] == pytest.approx(two["val_largest_batch_mean"], rel=0.3)
    assert one["val_largest_batch_mean"] != two["val_largest_batch_mean"] > 0
    assert two["per_worker"] == ["metric 'largest_batch_mean' (LargestBatchMean)"]


def test_a_metric_that_gives_one_value_counts_by_rows(trained) -> None:
    one, two = (trained[workers][0]["mean metric"]["history"] for workers in (1, 2))
    for record, other in zip(one, two, strict=True):
        assert record["val_mean_distance"] == pytest.approx(other["val_mean_distance"], rel=1e-5)
        assert record["mean_distance"] == pytest.approx(other["mean_distance"], rel=1e-5)


def test_predictions_without_an_axis_have_the_metrics_of_all_rows(trained) -> None:
    one, two = (trained[workers][0]["squeezed"]["history"] for workers in (1, 2))
    for name in ("loss", "mse", "val_loss", "val_mse"):
        assert [record[name] for record in one] == pytest.approx([record[name] for record in two], rel=1e-5)


def test_what_plain_keras_trains_is_tried_without_failing(trained) -> None:
    for name in ("own compute_loss", "drawn shapes"):
        assert len(trained[2][0][name]["history"]) == 2
    one, two = (trained[workers][0]["own compute_loss"]["history"][-1]["val_loss"] for workers in (1, 2))
    assert one == pytest.approx(two, rel=1e-5)


def test_means_that_a_layer_or_a_train_step_keeps_are_those_over_all_rows(trained) -> None:
    for run, name in (("metric of a layer", "size"), ("metric of a layer", "val_size"), ("subclass of Mean", "kept")):
        one, two = ([record[name] for record in trained[workers][0][run]["history"]] for workers in (1, 2))
        assert one == pytest.approx(two, rel=1e-5)


def test_sums_that_a_layer_or_a_step_keeps_are_those_over_all_rows(trained, datasets) -> None:
    rows = {name: datasets["numbers"].split(name).rows for name in ("train", "val")}
    for run, name in (("sum of a layer", "positive"), ("sum of an own step", "near")):
        for prefix, split in (("", "train"), ("val_", "val")):
            one, two = (trained[w][0][run]["history"][-1][prefix + name] for w in (1, 2))
            assert one == two == round(one)
            assert 0.2 * rows[split] < one <= rows[split]


def test_a_summed_metric_counts_its_start_once(trained, datasets) -> None:
    for workers in (1, 2):
        record = trained[workers][0]["start at one"]["history"][-1]
        assert record["one_and_rows"] == datasets["numbers"].split("train").rows + 1
        assert record["val_one_and_rows"] == datasets["numbers"].split("val").rows + 1


def test_layers_count_and_sum_over_all_rows(trained, datasets) -> None:
    import io
    import zipfile

    import h5py

    states = {}
    for workers in (1, 2):
        archive = zipfile.ZipFile(Path(trained[workers][2]["counter"].model) / "model.keras")
        weights = h5py.File(io.BytesIO(archive.read("model.weights.h5")))["layers/counter/vars"]
        states[workers] = [float(weights[str(place)][()]) for place in range(5)]
    rows, whole, steps, largest, mean = states[2]
    assert rows == whole == 2 * datasets["numbers"].split("train").rows
    assert steps == 2 * -(-datasets["numbers"].split("train").rows // 64)
    assert largest == states[1][3] > 0
    assert mean == pytest.approx(states[1][4], rel=1e-5)


def test_a_summed_loss_is_evaluated_over_all_rows_whatever_the_batch(trained) -> None:
    for workers in (1, 2):
        results, evaluated, _ = trained[workers]
        losses = [evaluated[batch]["loss"] for batch in (17, 64, 1000)]
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
        assert losses[0] == pytest.approx(results["sum"]["history"][-1]["val_loss"], rel=1e-5)
        assert losses[0] == pytest.approx(trained[1][1][64]["loss"], rel=1e-5)


def test_rows_that_come_to_depend_on_each_other_later_fail_the_run_by_name(datasets, tmp_path) -> None:
    def later(keras):
        """A layer that looks at the whole batch once it has been trained for a while."""

        class Later(keras.layers.Layer):
            def build(self, shape):
                self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

            def call(self, x, training=False):
                if training:
                    self.seen.assign_add(1.0)
                share = keras.ops.cast(self.seen > 9, x.dtype)
                return x - share * keras.ops.mean(x, axis=0, keepdims=True)

        return Later()

    config = TrainConfig(run_dir=str(tmp_path / "run"), epochs=3, global_batch_size=64)
    with pytest.raises(ModelError, match="a layer looks at the whole batch"):
        sparkdl.fit(compiled(layer=later), datasets["numbers"], config, launch=local_group(2))
