"""Every kind of loss, step and option gives the same numbers on 1 and 3 ranks, and those of plain Keras."""

from pathlib import Path

import numpy as np
import pytest

import sparkdl
from groups import local_group
from sparkdl import PrepareConfig, Split, TrainConfig
from sparkdl.features import Categorical, Tensor
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.spec import TrainSpec

# All runs of all ranks are in one fixture, which belongs to the first test.
pytestmark = pytest.mark.timeout(400)

EPOCHS = 2
WORKERS = (1, 3)
TIMES = {"seconds", "rows_per_second", "data_wait_seconds", "allreduce_share"}


def float64() -> None:
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


# -- datasets: few rows, so that with 3 ranks some steps leave a rank without any


@pytest.fixture(scope="module")
def weighted(spark, tmp_path_factory):
    """Vectors with two labels and weights: 43 rows."""
    rng = np.random.default_rng(4)
    rows = [
        (rng.normal(size=4).tolist(), int(rng.integers(0, 3)), float(rng.normal()), float(rng.uniform(0.1, 3)))
        for _ in range(61)
    ]
    return prepare(spark, tmp_path_factory, rows, "x array<double>, kind int, size double, w double", "w")


@pytest.fixture(scope="module")
def tokens(spark, tmp_path_factory):
    """Token sequences, 0 for padding, with a label for each token and one for the row."""
    rng = np.random.default_rng(5)
    rows = []
    for _ in range(61):
        length = int(rng.integers(1, 6))
        words = [*rng.integers(1, 90, length).tolist(), *[0] * (6 - length)]
        rows.append((words, rng.integers(0, 3, 6).tolist(), float(rng.normal())))
    df = spark.createDataFrame(rows, "words array<int>, tags array<int>, size double")
    return sparkdl.prepare(
        df,
        PrepareConfig(
            path=str(tmp_path_factory.mktemp("tokens") / "d"),
            features=[Tensor("words", dtype="int32")],
            label=[Tensor("tags", dtype="int32"), Tensor("size")],
            splits=Split.fraction({"train": 0.7, "val": 0.3}, seed=1),
        ),
    )


@pytest.fixture(scope="module")
def classes(spark, tmp_path_factory):
    """Vectors with one categorical label: 13 rows to train."""
    rng = np.random.default_rng(6)
    rows = [(rng.normal(size=4).tolist(), "abc"[int(rng.integers(0, 3))]) for _ in range(20)]
    df = spark.createDataFrame(rows, "x array<double>, kind string")
    return sparkdl.prepare(
        df,
        PrepareConfig(
            path=str(tmp_path_factory.mktemp("classes") / "d"),
            features=["x"],
            label=Categorical("kind"),
            splits=Split.fraction({"train": 0.7, "val": 0.3}, seed=1),
        ),
    )


@pytest.fixture(scope="module")
def unlabelled(spark, tmp_path_factory):
    """Vectors, categories and pixels, and nothing to predict but them: 13 rows to train."""
    rng = np.random.default_rng(7)
    rows = [
        (rng.normal(size=4).tolist(), "abc"[int(rng.integers(0, 3))], rng.integers(0, 256, 3).tolist())
        for _ in range(20)
    ]
    df = spark.createDataFrame(rows, "x array<double>, kind string, pixels array<int>")
    return sparkdl.prepare(
        df,
        PrepareConfig(
            path=str(tmp_path_factory.mktemp("unlabelled") / "d"),
            features=["x", Categorical("kind"), Tensor("pixels", dtype="uint8")],
            splits=Split.fraction({"train": 0.7, "val": 0.3}, seed=1),
        ),
    )


def prepare(spark, tmp_path_factory, rows, schema, weight):
    return sparkdl.prepare(
        spark.createDataFrame(rows, schema),
        PrepareConfig(
            path=str(tmp_path_factory.mktemp("weighted") / "d"),
            features=["x"],
            label=[Categorical("kind"), Tensor("size")],
            weight=weight,
            splits=Split.fraction({"train": 0.7, "val": 0.3}, seed=1),
        ),
    )


# -- models


def two_heads(reduction_of_kind, reduction_of_size, optimizer):
    """Two outputs whose losses are divided by different things, with loss weights and a regularizer."""

    def build_model(ds):
        import keras

        float64()
        layers = keras.layers
        x = keras.Input((4,))
        hidden = layers.Dense(6, activation="tanh", kernel_regularizer="l2", activity_regularizer=None)(x)
        outputs = {
            "kind": layers.Dense(3, activation="softmax", name="kind")(hidden),
            "size": layers.Dense(1, name="size")(hidden),
        }
        model = keras.Model(x, outputs)
        model.compile(
            optimizer(keras),
            {
                "kind": keras.losses.SparseCategoricalCrossentropy(reduction=reduction_of_kind),
                "size": keras.losses.MeanSquaredError(reduction=reduction_of_size),
            },
            loss_weights={"kind": 1.0, "size": 0.3},
            weighted_metrics={"kind": ["accuracy"], "size": ["mae"]},
        )
        return model

    return build_model


def two_heads_listed(ds):
    """Two outputs in a list, in another order than their names', with the losses in a list."""
    import keras

    float64()
    x = keras.Input((4,))
    hidden = keras.layers.Dense(6, activation="tanh")(x)
    outputs = [keras.layers.Dense(1, name="size")(hidden), keras.layers.Dense(3, "softmax", name="kind")(hidden)]
    model = keras.Model(x, outputs)
    losses = ["mse", keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")]
    model.compile(sgd(keras), losses, weighted_metrics=[["mae"], ["accuracy"]])
    return model


def masked_model(optimizer, reduction="sum_over_batch_size"):
    """Tags of tokens, padding masked, one class ignored; an embedding far larger than a step's tokens."""

    def build_model(ds):
        import keras

        float64()
        layers = keras.layers
        words = keras.Input((6,), dtype="int32")
        embedded = layers.Embedding(2000, 3, mask_zero=True)(words)
        hidden = layers.Dense(5, activation="tanh")(embedded)
        outputs = {
            "tags": layers.Dense(3, name="tags")(hidden),
            "size": layers.Dense(1, name="size")(layers.GlobalAveragePooling1D()(hidden)),
        }
        model = keras.Model(words, outputs)
        losses = keras.losses
        model.compile(
            optimizer(keras),
            {
                "tags": losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2, reduction=reduction),
                "size": losses.MeanAbsoluteError(),
            },
            metrics={"tags": ["accuracy"], "size": ["mse"]},
        )
        return model

    return build_model


def classifier(optimizer, *, norm=False, jit=False, policy="float64", reduction="sum_over_batch_size", **compiled):
    """One output, one categorical label."""

    def build_model(ds):
        import keras

        float64()
        if policy != "float64":
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy(policy)
        layers = keras.layers
        model = keras.Sequential([keras.Input((4,)), layers.Dense(6)])
        if norm:
            model.add(layers.BatchNormalization(momentum=0.7, synchronized=norm == "synchronized"))
        model.add(layers.Activation("tanh"))
        model.add(layers.Dense(3, dtype="float32" if policy != "float64" else None))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
        metrics = ["accuracy", *extremes(keras)]
        model.compile(optimizer(keras), loss, metrics=metrics, jit_compile=jit, **compiled)
        return model

    return build_model


def extremes(keras):
    """Metrics of the user's own that say how their states become one."""

    class Smallest(keras.metrics.Metric):
        sparkdl_reduction = "min"

        def __init__(self, **options):
            super().__init__(**options)
            self.value = self.add_weight(shape=(), initializer=keras.initializers.Constant(1e9), name="value")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.value.assign(keras.ops.minimum(self.value, keras.ops.cast(keras.ops.min(y_pred), self.dtype)))

        def result(self):
            return self.value

    class Largest(Smallest):
        sparkdl_reduction = "max"

        def __init__(self, **options):
            super().__init__(**options)
            self.value.assign(-1e9)

        def reset_state(self):
            self.value.assign(-1e9)

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.value.assign(keras.ops.maximum(self.value, keras.ops.cast(keras.ops.max(y_pred), self.dtype)))

    return [Smallest(name="smallest"), Largest(name="largest")]


def own_loss(ds):
    """A compute_loss of its own; Keras' steps."""
    import keras

    float64()

    class OwnLoss(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(keras.ops.logsumexp(y_pred, axis=-1) - y_pred[:, 0]) + keras.ops.mean(y_pred**2)

    model = OwnLoss()
    model.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"])
    return model


def adversarial(ds):
    """Two optimizers, one for each of two models within the model; batch normalization in one of them."""
    import keras
    import tensorflow as tf

    float64()
    layers = keras.layers

    class Adversarial(keras.Model):
        def __init__(self):
            super().__init__()
            self.maker = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
            self.judge = keras.Sequential([keras.Input((4,)), layers.Dense(5), layers.Dense(1)])
            self.maker_loss = keras.metrics.Mean(name="maker_loss")
            self.judge_loss = keras.metrics.Mean(name="judge_loss")

        def call(self, x):
            return self.judge(self.maker(x))

        def compile(self, maker_optimizer, judge_optimizer):
            super().compile()
            self.maker_optimizer = maker_optimizer
            self.judge_optimizer = judge_optimizer

        @property
        def metrics(self):
            return [self.maker_loss, self.judge_loss]

        def losses_of(self, x):
            made = self.judge(self.maker(x))
            judged = tf.reduce_mean(tf.nn.softplus(-self.judge(x))) + tf.reduce_mean(tf.nn.softplus(made))
            return judged, tf.reduce_mean(tf.nn.softplus(-made))

        def train_step(self, data):
            x, _ = data
            for own, optimizer, which in (
                (self.judge, self.judge_optimizer, 0),
                (self.maker, self.maker_optimizer, 1),
            ):
                with tf.GradientTape() as tape:
                    loss = self.losses_of(x)[which]
                weights = own.trainable_weights
                optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
                (self.judge_loss, self.maker_loss)[which].update_state(loss)
            return {"judge_loss": self.judge_loss.result(), "maker_loss": self.maker_loss.result()}

        def test_step(self, data):
            x, _ = data
            judged, made = self.losses_of(x)
            self.judge_loss.update_state(judged)
            self.maker_loss.update_state(made)
            return {"judge_loss": self.judge_loss.result(), "maker_loss": self.maker_loss.result()}

    model = Adversarial()
    model.compile(keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.1, momentum=0.5))
    return model


def halved():
    """A loss class of the user's own, which is not registered with Keras."""
    import keras

    class Halved(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(keras.ops.square(keras.ops.cast(y_true, y_pred.dtype) - y_pred), axis=-1) / 2

    return Halved


def autoencoder(ds):
    """The one input of a dataset with labels."""
    import keras

    float64()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="tanh"), keras.layers.Dense(4)])
    model.compile(keras.optimizers.Adam(0.01), "mse", weighted_metrics=["mae"])
    return model


def autoencoder_of_several(ds):
    """Inputs of three dtypes, each of them an output; whole numbers are targets as they are."""
    import keras

    float64()
    layers, size = keras.layers, ds.features["kind"].size
    x, kind = keras.Input((4,), name="x"), keras.Input((), name="kind", dtype="int32")
    pixels = keras.Input((3,), name="pixels", dtype="uint8")
    shrunk = layers.Rescaling(1 / 255)(pixels)
    hidden = layers.Dense(3, activation="tanh")(layers.Concatenate()([x, layers.Embedding(size, 2)(kind), shrunk]))
    outputs = {
        "x": layers.Dense(4)(hidden),
        "kind": layers.Dense(size, activation="softmax")(hidden),
        "pixels": layers.Dense(3)(hidden),
    }
    model = keras.Model({"x": x, "kind": kind, "pixels": pixels}, outputs)
    losses = {"x": "mse", "kind": "sparse_categorical_crossentropy", "pixels": halved()()}
    model.compile(sgd(keras), losses, loss_weights={"x": 1.0, "kind": 1.0, "pixels": 1e-4})
    return model


def sgd(keras):
    return keras.optimizers.SGD(0.1, momentum=0.9)


def adam_clipped(keras):
    return keras.optimizers.Adam(0.01, global_clipnorm=0.5)


def adamw_averaged(keras):
    return keras.optimizers.AdamW(0.01, use_ema=True, ema_overwrite_frequency=3, clipnorm=0.1)


WEIGHTED, TOKENS, CLASSES, UNLABELLED = "weighted", "tokens", "classes", "unlabelled"
OF_KIND = {"kind": {0: 3.0, 2: 0.25}}
# name -> (build_model, dataset, rows of a step, options of TrainConfig)
RUNS = {
    "weighted means": (two_heads("mean_with_sample_weight", "sum_over_batch_size", adam_clipped), WEIGHTED, 7, {}),
    "sums": (two_heads("sum", "mean_with_sample_weight", adamw_averaged), WEIGHTED, 7, {}),
    "masked": (masked_model(sgd), TOKENS, 2, {}),
    "masked adam, scaled": (
        masked_model(adam_clipped, "mean_with_sample_weight"),
        TOKENS,
        16,
        {"lr_scaling": "sqrt", "warmup_epochs": 1.5},
    ),
    "no reduction": (classifier(sgd, reduction=None), CLASSES, 2, {"gradient_accumulation_steps": 2}),
    "class weights": (classifier(adam_clipped), CLASSES, 6, {"class_weight": {"a": 3.0, 1: 0.5}}),
    "class weights by output": (
        two_heads("mean_with_sample_weight", "sum_over_batch_size", adam_clipped),
        WEIGHTED,
        7,
        {"class_weight": OF_KIND},
    ),
    "class weights by listed output": (two_heads_listed, WEIGHTED, 7, {"class_weight": OF_KIND}),
    "synced norm": (classifier(sgd, norm=True), CLASSES, 2, {"sync_batch_norm": True}),
    "synchronized norm": (classifier(sgd, norm="synchronized", steps_per_execution=4), CLASSES, 6, {}),
    "xla": (classifier(adamw_averaged, jit=True), CLASSES, 6, {}),
    "own loss": (own_loss, CLASSES, 2, {}),
    "adversarial, scaled": (adversarial, CLASSES, 2, {"lr_scaling": "sqrt", "warmup_epochs": 1}),
    "adversarial, accumulated": (adversarial, CLASSES, 2, {"gradient_accumulation_steps": 2}),
    "autoencoder": (autoencoder, WEIGHTED, 7, {"target": "inputs"}),
    "autoencoder of several": (autoencoder_of_several, UNLABELLED, 2, {"target": "inputs"}),
}
# What `make soak` alone trains: other parts of the same ways.
LONG = (
    "sums",
    "masked",
    "class weights",
    "synced norm",
    "synchronized norm",
    "own loss",
    "adversarial, accumulated",
    "adversarial, fp16",
    "masked adam, scaled",
    "class weights by listed output",
)
LOOSE = {
    "fp16": (classifier(sgd), CLASSES, 6, {"compression": "fp16"}),
    "adversarial, fp16": (adversarial, CLASSES, 6, {"compression": "fp16"}),
    "mixed": (classifier(sgd, policy="mixed_float16"), CLASSES, 6, {}),
}


def recorder(folder: str):
    """Callbacks that write this rank's logs of every step and its final weights."""

    def make():
        import keras

        class Recorder(keras.callbacks.Callback):
            def on_train_begin(self, logs=None):
                self.logs = []

            def on_train_batch_end(self, batch, logs=None):
                self.logs.append([float(logs[name]) for name in sorted(logs)])

            def on_train_end(self, logs=None):
                weights = {f"weights_{i}": w for i, w in enumerate(self.model.get_weights())}
                np.savez(f"{folder}/rank-{sparkdl.world().rank}.npz", logs=np.array(self.logs), **weights)

        return [Recorder()]

    return make


def tasks_in(folder: Path, runs: dict, datasets: dict) -> dict[str, TrainSpec]:
    tasks = {}
    for name, (build_model, dataset, batch, options) in runs.items():
        (folder / name).mkdir(parents=True)
        config = TrainConfig(
            run_dir=str(folder / name),
            epochs=EPOCHS,
            global_batch_size=batch,
            seed=1,
            callbacks=recorder(str(folder / name)),
            **options,
        )
        run = RunDir(str(folder / name))
        tasks[name] = TrainSpec(build_model=build_model, dataset=datasets[dataset], config=config, run=run)
    return tasks


def train_all(tasks: dict[str, TrainSpec]):
    """Several runs in the same rank processes: starting TensorFlow costs more than any of them."""
    from sparkdl.train.entry import train_rank

    return {name: train_rank(task).history for name, task in tasks.items()}


def train_beside_keras(tasks: dict[str, TrainSpec], plain: tuple[str, ...]):
    """The same, and some of the runs by Keras alone."""
    histories = train_all(tasks)
    return histories, {name: keras_alone(tasks[name]) for name in plain}


def keras_alone(task: TrainSpec) -> dict:
    """The run without anything of `train`: Keras' train_on_batch over the epoch's batches."""
    import keras

    from sparkdl.data.feed.feed import Feed
    from sparkdl.data.feed.tensors import step_dataset

    config, ds = task.config, task.dataset
    keras.utils.set_random_seed(config.seed)
    model = task.build_model(ds)
    if config.gradient_accumulation_steps > 1:
        model.optimizer.gradient_accumulation_steps = config.gradient_accumulation_steps
    weights = {"a": 3.0, "b": 0.5}
    by_output = config.class_weight == OF_KIND
    weighed = config.class_weight and not by_output
    class_weight = {ds.classes.index(n): w for n, w in weights.items()} if weighed else None
    feed = Feed(
        ds, ds.split("train"), rank=0, world_size=1, global_batch_size=config.global_batch_size, seed=config.seed
    )
    first_losses, steps = [], feed.plan(0).steps
    for place, (_, (x, y, w, _)) in enumerate(
        step_dataset(feed, ds.layout, range(config.epochs), target=config.target)
    ):
        sample_weight = None if isinstance(w, tuple) else w
        if by_output:
            w = np.asarray(w, np.float64)
            of_kind = w * np.array([3.0, 1.0, 0.25])[y["kind"]]
            sample_weight = {"kind": of_kind, "size": w} if listed(model, y) is y else [w, of_kind]
            y = listed(model, y)
        model.reset_metrics()  # Keras before 3.13 gives the mean of all batches since
        logs = model.train_on_batch(x, y, sample_weight=sample_weight, class_weight=class_weight, return_dict=True)
        if place % steps == 0:
            first_losses.append(float(logs["loss"]))
    val = Feed(ds, ds.split("val"), rank=0, world_size=1, global_batch_size=1000, seed=None)
    ((_, (x, y, w, _)),) = list(step_dataset(val, ds.layout, [0], target=config.target))
    evaluated = model.evaluate(
        x,
        listed(model, y),
        sample_weight=None if isinstance(w, tuple) else w,
        batch_size=1000,
        verbose=0,
        return_dict=True,
    )
    return {
        "losses": np.array(first_losses),
        "weights": model.get_weights(),
        "evaluated": {name: float(value) for name, value in evaluated.items()},
        "steps": steps,
    }


def listed(model, y):
    """Labels as Keras takes them: those of outputs in a list as a list."""
    is_listed = isinstance(getattr(model, "_outputs_struct", None), list)
    return [y[name] for name in model.output_names] if is_listed else y


# Keras' own Adam squares the slices of an embedding's gradient one by one: another update than that of the loss.
PLAIN = (
    *("weighted means", "masked", "no reduction", "class weights", "own loss", "xla", "autoencoder of several"),
    *("class weights by output", "class weights by listed output"),
)


def parameters(runs):
    """The runs as parameters of a test."""
    return [pytest.param(run, marks=pytest.mark.soak) if run in LONG else run for run in runs]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The folder of all runs, by world size."""
    return {workers: tmp_path_factory.mktemp(f"on-{workers}") for workers in WORKERS}


@pytest.fixture(scope="module")
def trained(request, weighted, tokens, classes, unlabelled, folder_of):
    """Histories and records of the runs that are tested, by world size; and what Keras alone gives."""
    tested = {item.callspec.params.get("run") for item in request.session.items if hasattr(item, "callspec")}
    runs = {name: run for name, run in (RUNS | LOOSE).items() if name not in LONG or name in tested}
    datasets = {WEIGHTED: weighted, TOKENS: tokens, CLASSES: classes, UNLABELLED: unlabelled}
    beside = tuple(name for name in PLAIN if name in runs)
    histories, records, plain = {}, {}, {}
    for workers in WORKERS:
        folder = folder_of[workers]
        tasks = tasks_in(folder, runs, datasets)
        launch = local_group(workers)
        if workers == 1:
            ((histories[workers], plain),) = sparkdl.run(train_beside_keras, tasks, beside, launch=launch)
        else:
            histories[workers] = sparkdl.run(train_all, tasks, launch=launch)[0]
        records[workers] = {
            name: [dict(np.load(folder / name / f"rank-{rank}.npz")) for rank in range(workers)] for name in tasks
        }
    return histories, records, plain


def worst(one: dict, other: dict) -> float:
    """The largest difference of two records, relative to the largest value of each array."""
    assert one.keys() == other.keys()
    return max(float(np.max(np.abs(one[k] - other[k])) / max(np.max(np.abs(one[k])), 1e-3)) for k in one)


def without_times(record: dict) -> dict:
    return {name: value for name, value in record.items() if name not in TIMES}


@pytest.mark.parametrize("run", parameters(RUNS))
def test_logs_weights_and_history_do_not_depend_on_the_ranks(trained, run) -> None:
    histories, records, _ = trained
    (alone,) = records[1][run]
    for workers in WORKERS[1:]:
        for record in records[workers][run]:
            assert worst(alone, record) < 1e-9
        for one, many in zip(histories[1][run], histories[workers][run], strict=True):
            assert without_times(one) == pytest.approx(without_times(many), rel=1e-9, abs=1e-12)
            # Gradients of several optimizers have no common norm.
            assert ("gradient_norm" in one) is not run.startswith("adversarial")


@pytest.mark.parametrize("run", parameters(PLAIN))
def test_one_rank_equals_plain_keras(trained, run) -> None:
    histories, records, plain = trained
    (alone,) = records[1][run]
    expected = plain[run]
    losses = alone["logs"][:, 0][:: expected["steps"]]
    if (
        run != "weighted means" and "by" not in run.split()
    ):  # its log of a step is already the mean over all weights of the epoch, as in the next
        assert losses == pytest.approx(expected["losses"], rel=1e-9)
    for place, weights in enumerate(expected["weights"]):
        assert np.allclose(alone[f"weights_{place}"], weights, rtol=1e-9, atol=1e-12)
    val = {name.removeprefix("val_"): v for name, v in histories[1][run][-1].items() if name.startswith("val_")}
    assert val == pytest.approx(expected["evaluated"], rel=1e-6)


@pytest.mark.parametrize(
    ("run", "tolerance"),
    [("fp16", 2e-3), pytest.param("adversarial, fp16", 2e-3, marks=pytest.mark.soak), ("mixed", 2e-2)],
)
def test_short_floats_stay_close_and_all_ranks_agree(trained, run, tolerance) -> None:
    _, records, _ = trained
    (alone,) = records[1][run]
    first, *others = records[3][run]
    for record in others:
        assert all(np.array_equal(first[name], record[name]) for name in first)
    assert worst(alone, first) < tolerance


def test_an_autoencoder_is_evaluated_on_its_inputs_with_objects_of_the_users_own(
    trained, folder_of, unlabelled, weighted
) -> None:
    histories, _, _ = trained
    model_dir, launch = str(folder_of[3] / "autoencoder of several" / "model"), local_group(1)
    own = {"Halved": halved()}
    found = sparkdl.evaluate(model_dir, unlabelled, "val", launch=launch, custom_objects=own)
    last = histories[3]["autoencoder of several"][-1]
    assert found == pytest.approx({name: last[f"val_{name}"] for name in found}, rel=1e-9) and "pixels_loss" in found
    signature = sparkdl.load_model(model_dir, custom_objects=own).signature
    assert signature.target == "inputs" and {output.classes for output in signature.outputs} == {None}
    of_a_dataset_with_labels = sparkdl.load_model(str(folder_of[3] / "autoencoder" / "model")).signature
    assert of_a_dataset_with_labels.labels == () and of_a_dataset_with_labels.target == "inputs"
    with pytest.raises(sparkdl.ConfigError, match="not encoded as the model"):
        sparkdl.evaluate(model_dir, weighted, "val", launch=launch)
    with pytest.raises(sparkdl.ConfigError, match="custom_objects=.* must be classes and functions by name"):
        sparkdl.evaluate(model_dir, unlabelled, "val", launch=launch, custom_objects=[own])
