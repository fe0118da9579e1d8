"""A scaled and warmed-up learning rate trains as the same rates written down do, and stays the user's own elsewhere."""

import numpy as np
import pytest

import sparkdl
from groups import local_group
from sparkdl import CheckpointConfig, TrainConfig
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.spec import TrainSpec

# All runs are in one fixture, which belongs to the first test.
pytestmark = pytest.mark.timeout(300)

EPOCHS = 2
BATCH = 288  # nine times 32
STEPS = 6  # of an epoch: 1,468 rows
RATE = 0.01
IN_WARM_UP = "accumulated/checkpoints/epoch-00000-step-00000004"


def ramp(first: float, full: float, steps: int) -> list[float]:
    """The factors of all steps of a run."""
    return [*np.linspace(first, full, steps + 1)[:-1], *[full] * (EPOCHS * STEPS - steps)]


def written_down(rates):
    """A Keras schedule that gives these rates, one for each step."""
    import keras

    class WrittenDown(keras.optimizers.schedules.LearningRateSchedule):
        def __init__(self, rates):
            self.rates = rates

        def __call__(self, step):
            return keras.ops.take(keras.ops.convert_to_tensor(self.rates, keras.config.floatx()), step)

        def get_config(self):
            return {"rates": self.rates}

    return WrittenDown([*map(float, rates), float(rates[-1])])


def classifier(optimizer, *, jit=False):
    def build_model(ds):
        import keras

        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        layers = keras.layers
        model = keras.Sequential([keras.Input((8, 8, 1)), layers.Rescaling(1 / 16), layers.Flatten(), layers.Dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer(keras), loss, jit_compile=jit)
        return model

    return build_model


def own_step(times):
    """A train_step of its own that applies two optimizers, the first of them combined of two where Keras can."""

    def build_model(ds):
        import keras
        import tensorflow as tf

        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        optimizers = keras.optimizers

        class OwnStep(keras.Model):
            def __init__(self):
                super().__init__()
                self.below, self.tower, self.head = (keras.layers.Dense(10, name=n) for n in ("below", "tower", "head"))
                self.other = optimizers.SGD(RATE * times, momentum=0.9)
                self.mean = keras.metrics.Mean(name="loss")

            def call(self, x):
                return self.head(self.tower(self.below(keras.ops.reshape(x, (-1, 64)) / 16)))

            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    losses = keras.losses.sparse_categorical_crossentropy(y, self(x), from_logits=True)
                    loss = tf.reduce_mean(losses)
                head = self.head.trainable_weights
                others = [weight for weight in self.trainable_weights if all(weight is not one for one in head)]
                of_others, of_head = tape.gradient(loss, [others, head])
                zeros = [tf.zeros(weight.shape, weight.dtype) for weight in head]  # the combined one wants all weights
                self.optimizer.apply([*of_others, *zeros], [*others, *head])
                self.other.apply(of_head, head)
                self.mean.update_state(loss)
                return {"loss": self.mean.result()}

        model = OwnStep()
        tower, rest = optimizers.AdamW(RATE * times, weight_decay=0.1), optimizers.SGD(RATE * times)
        if hasattr(optimizers, "MultiOptimizer"):  # not in Keras 3.12, the last one for Python 3.10
            model.compile(optimizers.MultiOptimizer(optimizers.OptimizerMap(rest, {".*tower/.*": tower})))
        else:
            model.compile(rest)
        return model

    return build_model


def adamw(keras):
    return keras.optimizers.AdamW(0.5, weight_decay=0.1, global_clipnorm=1.0)


def adamw_twin(keras):
    rates = [RATE * 0.5 ** (step // STEPS) * factor for step, factor in enumerate(ramp(1.0, 18.0, 6))]
    return keras.optimizers.AdamW(written_down(rates), weight_decay=0.1, global_clipnorm=1.0)


def recorded(path, others=list):
    """The callbacks `others` makes, and one that writes rank 0's final weights beside the run."""

    def make():
        import keras

        def write(callback):
            if sparkdl.world().rank == 0:
                np.savez(f"{path}.npz", *callback.model.get_weights())

        last = keras.callbacks.LambdaCallback()
        last.on_train_end = lambda logs=None: write(last)
        return [*others(), last]

    return make


def halving():
    import keras

    return [keras.callbacks.LearningRateScheduler(lambda epoch: RATE * 0.5**epoch)]


# name -> (build_model, options of TrainConfig, and the same of the twin whose rates are written down)
RUNS = {
    "accumulated": (
        classifier(adamw, jit=True),
        {
            "lr_scaling": "linear",
            "warmup_epochs": 1,
            "gradient_accumulation_steps": 2,
            "callbacks": halving,
            "checkpoint": CheckpointConfig(every_steps=2, keep=10),
        },
        classifier(adamw_twin),
        {"gradient_accumulation_steps": 2},
    ),
    "own step": (
        own_step(1),
        {"lr_scaling": "linear", "gradient_accumulation_steps": 2},
        own_step(18),
        {"gradient_accumulation_steps": 2},
    ),
}


def train_all(tasks: dict[str, TrainSpec]):
    """All runs, the last one from a checkpoint of another: their histories; and the walk."""
    import keras

    from sparkdl.train.entry import train_rank

    histories = {}
    for name, task in tasks.items():
        keras.utils.clear_session()  # Keras counts models, and a run goes on with the same one only
        histories[name] = train_rank(task).history
    return histories, walk(keras)


def walk(keras):
    """By optimizer of Keras: how far a factor of 3 is from three times the rate; and how one's own rate is refused."""
    from sparkdl.errors import ModelError
    from sparkdl.train.rank.callbacks.learning_rate import LearningRates

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    optimizers = keras.optimizers
    rng = np.random.default_rng(5)
    starts = [rng.normal(size=(4, 3)), rng.normal(size=3)]
    gradients = [[rng.normal(size=start.shape) for start in starts] for _ in range(3)]

    def trained(optimizer, lr_scaling):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model.compile(optimizer, "mse")
        model.set_weights(starts)
        optimizer.build(model.trainable_variables)
        rates = LearningRates(model, lr_scaling=lr_scaling, warmup_epochs=0, global_batch_size=96, steps=1)
        with rates.multiplied():
            for step, values in enumerate(gradients):
                rates.start_step(step)
                values = [keras.ops.convert_to_tensor(value) for value in values]
                optimizer.apply([optimizer.scale_loss(value) for value in values], model.trainable_variables)
        return np.concatenate([weight.ravel() for weight in model.get_weights()])

    def made(kind, rate):
        sgd = optimizers.SGD(rate, momentum=0.5)
        if kind is optimizers.LossScaleOptimizer:
            return kind(sgd)
        if kind.__name__ == "MultiOptimizer":
            return kind(optimizers.OptimizerMap(sgd, {"bias": optimizers.Adam(rate)}))
        return kind(rate, weight_decay=0.1)

    def decaying(rate):
        return optimizers.SGD(written_down([rate, rate / 2, rate / 3]))

    kinds = {name: kind for name, kind in vars(optimizers).items() if isinstance(kind, type)}
    kinds = {name: kind for name, kind in kinds.items() if issubclass(kind, optimizers.Optimizer)}
    del kinds["Optimizer"]
    if "MultiOptimizer" not in kinds:  # Keras 3.12, whose Muon fails on every variable of TensorFlow
        del kinds["Muon"]
    far = {}
    for name, kind in kinds.items():
        one, other = trained(made(kind, 0.02), "linear"), trained(made(kind, 0.06), None)
        far[name] = float(np.max(np.abs(one - other)))
    far["a schedule"] = float(np.max(np.abs(trained(decaying(0.02), "linear") - trained(decaying(0.06), None))))

    class OwnRate(optimizers.SGD):
        @property
        def learning_rate(self):
            return 0.1

    try:
        trained(OwnRate(), "sqrt")
        refused = "not refused"
    except ModelError as error:
        refused = str(error)
    return far, refused


def task_of(folder, name, dataset, build_model, options, checkpoint=None):
    path = str(folder / name)
    options = {**options, "callbacks": recorded(path, options.get("callbacks", list)), "validation": None}
    config = TrainConfig(run_dir=path, epochs=EPOCHS, global_batch_size=BATCH, seed=1, **options)
    return TrainSpec(build_model=build_model, dataset=dataset, config=config, run=RunDir(path), checkpoint=checkpoint)


@pytest.fixture(scope="module")
def trained(digits_dataset, tmp_path_factory):
    """Everything on two ranks, in one launch: the folder of the runs, their histories and weights, and the walk."""
    folder = tmp_path_factory.mktemp("rates")
    tasks = {}
    for run, (build_model, options, twin, options_of_twin) in RUNS.items():
        tasks[run] = task_of(folder, run, digits_dataset, build_model, options)
        tasks[f"{run} twin"] = task_of(folder, f"{run} twin", digits_dataset, twin, options_of_twin)
    build_model, options, *_ = RUNS["accumulated"]
    tasks["resumed"] = task_of(folder, "resumed", digits_dataset, build_model, options, str(folder / IN_WARM_UP))
    (histories, walked), _ = sparkdl.run(train_all, tasks, launch=local_group(2))
    weights = {name: list(np.load(folder / f"{name}.npz").values()) for name in histories}
    return folder, histories, weights, walked


@pytest.mark.parametrize("run", RUNS)
def test_a_run_equals_its_twin_whose_rates_are_written_down(trained, run) -> None:
    _, histories, weights, _ = trained
    for one, other in zip(weights[run], weights[f"{run} twin"], strict=True):
        assert np.allclose(one, other, rtol=1e-10, atol=1e-10)
    for one, other in zip(histories[run], histories[f"{run} twin"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-10)
        assert rates_of(one) == pytest.approx(rates_of(other), rel=1e-6)


def rates_of(record: dict) -> list[float]:
    return [value for name, value in sorted(record.items()) if name.startswith("lr")]


def test_the_history_holds_the_rate_of_each_epochs_last_step(trained) -> None:
    import keras

    _, histories, _, _ = trained
    history = histories["accumulated"]
    # An update of two steps of 288 rows: 18 times the rate, and in the sixth of six steps 1 + 17 * 5 / 6.
    assert [record["lr"] for record in history] == pytest.approx([RATE * (1 + 17 * 5 / 6), RATE * 0.5 * 18])
    assert [record["learning_rate"] for record in history] == pytest.approx([RATE, RATE * 0.5])  # of Keras' callback
    optimizers = 2 if hasattr(keras.optimizers, "MultiOptimizer") else 1
    assert rates_of(histories["own step"][0]) == pytest.approx([18 * RATE] * optimizers)


def test_a_run_goes_on_within_its_warm_up(trained) -> None:
    _, histories, weights, _ = trained
    for one, other in zip(weights["accumulated"], weights["resumed"], strict=True):
        assert np.allclose(one, other, rtol=1e-10, atol=1e-12)
    one, other = ([rates_of(record) for record in histories[run]] for run in ("accumulated", "resumed"))
    assert one == other


def test_what_is_saved_is_the_users_rate(trained) -> None:
    import keras

    folder = trained[0]
    with np.load(folder / IN_WARM_UP / "arrays.npz") as arrays:
        assert arrays["optimizer0/1"] == RATE
    loaded = keras.saving.load_model(folder / "accumulated" / "model" / "model.keras")
    assert type(loaded.optimizer) is keras.optimizers.AdamW
    assert float(loaded.optimizer.learning_rate) == pytest.approx(RATE * 0.5)


def test_every_optimizer_of_keras_takes_a_factor_as_a_larger_rate(trained) -> None:
    *_, (far, refused) = trained
    assert len(far) >= 14 and {"SGD", "AdamW", "Adafactor", "Ftrl", "Lion", "Nadam", "LossScaleOptimizer"} <= far.keys()
    assert {name: how_far for name, how_far in far.items() if how_far > 1e-12} == {}
    assert "(OwnRate) overrides learning_rate, which lr_scaling and warmup_epochs" in refused
