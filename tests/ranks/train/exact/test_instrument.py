"""What the exact step uses and refuses: XLA, gathered slices, skipped steps, seeded draws; without a dataset."""

import numpy as np
import pytest

import sparkdl
from groups import local_group

ROWS = 24


def elements(x, y, *, batch: int, epochs: int = 1):
    """The steps of these rows as `step_dataset` gives them: uneven shares, and none for rank 1 in each third step."""
    import tensorflow as tf

    here = sparkdl.world()

    def generate():
        count = -(-len(x) // batch)
        for step in range(epochs * count):
            rows = np.arange(step % count * batch, min(len(x), (step % count + 1) * batch))
            owner = np.zeros(len(rows), int) if step % 3 == 2 else np.minimum(rows % 5, here.size - 1)
            mine = rows[owner == here.rank]
            fed = mine if len(mine) else rows[:1] * 0
            yield 0.0, (x[fed], y[fed], np.array([len(mine), len(rows), step], np.int64))

    signature = (
        tf.TensorSpec((), tf.float64),
        (
            tf.TensorSpec((None, *x.shape[1:]), x.dtype),
            tf.TensorSpec((None, *y.shape[1:]), y.dtype),
            tf.TensorSpec((3,), tf.int64),
        ),
    )
    steps = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return steps.map(lambda waited, one: (waited, (one[0], one[1], (), one[2])))


def fit(model, x, y, *, batch=5, epochs=2, watch=None, callbacks=(), **options):
    """Train a compiled model within exact steps; `watch` gets the model before they end."""
    import keras

    from sparkdl.train.checks.check_model import build, check_model
    from sparkdl.train.exact.collective import join_world
    from sparkdl.train.exact.instrument import StepOptions, exact_steps

    here = sparkdl.world()
    join_world(here)
    example = tuple(keras.KerasTensor((None, *values.shape[1:]), str(values.dtype)) for values in (x, y))
    check_model(model)
    build(model, example)
    with exact_steps(model, here, example, StepOptions(global_batch_size=batch, **options)):
        data, steps = elements(x, y, batch=batch, epochs=epochs), -(-len(x) // batch)
        history = model.fit(data, epochs=epochs, steps_per_epoch=steps, callbacks=list(callbacks), verbose=0)
        return watch(model) if watch is not None else history.history


def numbers():
    rng = np.random.default_rng(3)
    return rng.normal(size=(ROWS, 4)).astype(np.float32), rng.normal(size=ROWS).astype(np.float32)


def embedding_model(vocabulary: int):
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((6,), dtype="int32"), layers.Embedding(vocabulary, 3), layers.Flatten(), layers.Dense(1)]
    )
    model.compile("adam", "mse")
    return model


def gathers_of(vocabulary: int) -> int:
    """How often a step's trace asked for slices of other ranks."""
    from sparkdl.train.exact import gradients

    asked, original = [], gradients.gather_slices

    def counted(slices, *, name):
        asked.append(name)
        return original(slices, name=name)

    gradients.gather_slices = counted
    try:
        words = np.random.default_rng(1).integers(0, vocabulary, (ROWS, 6)).astype(np.int32)
        fit(embedding_model(vocabulary), words, numbers()[1])
    finally:
        gradients.gather_slices = original
    return len(asked)


def compiled_by_xla() -> dict:
    import keras

    layers = keras.layers
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dropout(0.5), layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae", keras.metrics.R2Score()], jit_compile=True)

    def watch(model):
        function = model.train_step.__self__._forward_backward
        return {
            "traces": function.experimental_get_tracing_count(),
            "must_compile": function._jit_compile is True,
            "whole_step": model.jit_compile,
        }

    x, y = numbers()
    watched = fit(model, x, y, watch=watch)
    return {**watched, "restored": model.jit_compile}


def not_for_xla() -> dict:
    """A layer that XLA cannot compile: what is logged, and whether it trains."""
    import logging

    import keras
    import tensorflow as tf

    class ThroughPython(keras.layers.Layer):
        def call(self, x):
            seen = tf.py_function(lambda values: values, [x], x.dtype)
            return tf.ensure_shape(seen, x.shape)

    model = keras.Sequential([keras.Input((4,)), ThroughPython(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=True)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("sparkdl.train").addHandler(handler)
    x, y = numbers()
    history = fit(model, x, y)
    logging.getLogger("sparkdl.train").removeHandler(handler)
    return {"lines": lines, "losses": history["loss"]}


def overflowing() -> dict:
    """Mixed precision with one row, on one rank, whose gradient is infinite."""
    import keras

    def error(y_true, y_pred):
        square = keras.ops.mean(keras.ops.square(y_pred - y_true), axis=-1)
        return square * keras.ops.where(y_true[:, 0] > 1000, np.inf, 1.0)

    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, dtype="float32")])
        model.compile(keras.optimizers.SGD(0.01), error)
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = numbers()
    y[7] = 5000
    sums = fit(model, x, y[:, None], watch=sums_of)
    scaled = model.optimizer
    return {
        "norms": (sums.norm, sums.norms),
        "kind": type(scaled).__name__,
        "updates": int(scaled.iterations),
        "scale": float(scaled.dynamic_scale),
        "weights": [w.tolist() for w in model.get_weights()],
    }


def drawing() -> dict:
    """Draws of steps in one order and in another, by name and without."""
    import keras
    import tensorflow as tf

    from sparkdl.train.exact.rng import SeededDraws

    named = keras.random.SeedGenerator(5)
    draws = SeededDraws([named], seed=9, rank=sparkdl.world().rank)

    @tf.function
    def step(number):
        draws.set(number)
        first = keras.random.uniform((3,), seed=named)
        second = tf.cond(number >= 0, lambda: keras.random.uniform((3,)), lambda: tf.zeros(3))
        return first, second, keras.random.uniform((3,))

    def of(number):
        return np.concatenate(step(tf.constant(number, tf.int64))).tolist()

    with draws.prepared():
        return {"there": [of(5), of(6), of(7)], "back": [of(7), of(6), of(5)][::-1]}


def normalized() -> list:
    """Moving statistics after every step, on this rank; some steps leave it without rows."""
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = numbers()
    x[:, 0] += np.arange(ROWS)
    return fit(model, x, y, watch=lambda model: [w.tolist() for w in model.get_weights()])


def sums_of(model):
    """The sums of all steps so far."""
    return model.train_step.__self__._numbers.sums()


def norm_and_expected(model, x, y) -> tuple[float, float]:
    """The mean gradient norm of a model that learns nothing, and that of plain gradients of the whole batches."""
    import tensorflow as tf

    sums = fit(model, x, y, watch=sums_of, epochs=1)
    norms = []
    for start in range(0, ROWS, 5):
        rows = slice(start, start + 5)
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x[rows], y[rows], model(x[rows], training=True))
        gradients = tape.gradient(loss, model.trainable_weights)
        norms.append(float(tf.linalg.global_norm([tf.convert_to_tensor(g) for g in gradients])))
    return sums.norm / sums.norms, float(np.mean(norms))


def gradient_norms() -> dict:
    import keras

    x, y = numbers()
    still = keras.optimizers.SGD
    found = {}
    for vocabulary in (8, 5000):
        model = embedding_model(vocabulary)
        model.compile(still(0.0, global_clipnorm=1e-3), "mse")
        words = np.random.default_rng(1).integers(0, min(vocabulary, 9), (ROWS, 6)).astype(np.int32)
        found[f"embedding {vocabulary}"] = norm_and_expected(model, words, y)
    for name, policy, jit in (("xla", "float32", True), ("mixed", "mixed_float16", False), ("half", "float16", False)):
        keras.config.set_dtype_policy(policy)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
        model.compile(still(0.0, loss_scale_factor=64.0 if name == "half" else None), "mse", jit_compile=jit)
        keras.config.set_dtype_policy("float32")
        found[name] = norm_and_expected(model, x, y)
    model = own_model("none", still(0.0))
    found["own step"] = norm_and_expected(model, x, y)
    return found


def behind_a_slow_rank() -> dict:
    """The sums of an epoch in which rank 1 sleeps before each step."""
    import time

    import keras

    class Sleep(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            time.sleep(0.1 * sparkdl.world().rank)

        def on_epoch_begin(self, epoch, logs=None):
            # The first epoch begins with tracing, for which ranks wait too.
            self.model.train_step.__self__._numbers.start_epoch()

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    sums = fit(model, *numbers(), watch=sums_of, callbacks=[Sleep()])
    return {"reduce_s": sums.reduce_s, "rows": sums.rows, "global_rows": sums.global_rows}


def calls_of_a_layer(*, run_eagerly: bool) -> dict:
    """How often Python called a layer while a model that was fitted before trained, and the losses."""
    import keras

    calls = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            calls.append(1)
            return x

    x, y = numbers()
    model = keras.Sequential([keras.Input((4,)), Counted(), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=run_eagerly)
    model.fit(x, y, verbose=0)
    model.optimizer.learning_rate = 0.01
    begin = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: calls.clear())
    history = fit(model, x, y, callbacks=[begin])
    return {"calls": len(calls), "losses": history["loss"]}


def own_model(problem: str, optimizer):
    """A model with a train_step that has this problem."""
    import keras
    import tensorflow as tf

    elsewhere = keras.optimizers.SGD(0.1)

    class Own(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self(x)[:, 0] - y))
            gradients = tape.gradient(loss, self.trainable_weights)
            optimizer = elsewhere if problem == "optimizer" else self.optimizer
            optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            if problem == "weights":
                self.trainable_weights[1].assign(tf.reduce_mean(x, axis=0)[:1])
            # Every compiled model has a metric "loss", which this step does not keep.
            return {"log": {"unknown": loss}, "loss": {"loss": loss}}.get(problem, {})

    inputs = keras.Input((4,))
    model = Own(inputs, keras.layers.Dense(1)(inputs))
    model.compile(optimizer, "mse")
    return model


def own_step(problem: str) -> str:
    """What is said of a train_step with this problem."""
    try:
        fit(own_model(problem, "sgd"), *numbers())
    except sparkdl.ModelError as error:
        return str(error)
    return "accepted"


def in_a_callback(act, *, frozen: bool = True) -> str:
    """What is said of a callback that does this to the model when the second epoch begins."""
    import keras

    from sparkdl.train.rank.callbacks.chain import SameModel, SameWeights

    class Acting(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                act(keras, self.model)

    layers = [keras.layers.Dense(2, trainable=not frozen), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("sgd", "mse")
    # The run's own but those that want a whole run.
    callbacks = [Acting(), SameModel(), SameWeights()]
    try:
        fit(model, *numbers(), callbacks=callbacks)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def compiled_again(keras, model) -> None:
    model.layers[0].trainable = True
    model.compile("sgd", "mse")


def set_trainable(keras, model) -> None:
    model.layers[0].trainable = not model.layers[0].trainable


def set_optimizer(keras, model) -> None:
    model.optimizer = keras.optimizers.Adam()


def computed(keras, model) -> None:
    x, y = numbers()
    by_call = keras.ops.mean(keras.losses.mean_squared_error(y[:, None], model(x, training=False)))
    by_predict = np.mean((y[:, None] - model.predict(x, verbose=0)) ** 2)
    assert abs(float(by_call) - by_predict) < 1e-5
    model.optimizer.learning_rate = 0.001
    assert len(model.layers[0].get_weights()) == 2


def acted() -> dict[str, str]:
    return {
        "compile": in_a_callback(compiled_again),
        "thaw": in_a_callback(set_trainable),
        "freeze": in_a_callback(set_trainable, frozen=False),
        "optimizer": in_a_callback(set_optimizer),
        "evaluate": in_a_callback(lambda keras, model: model.evaluate(*numbers(), verbose=0)),
        "fit": in_a_callback(lambda keras, model: model.fit(*numbers(), verbose=0)),
        "train_on_batch": in_a_callback(lambda keras, model: model.train_on_batch(*numbers())),
        "test_on_batch": in_a_callback(lambda keras, model: model.test_on_batch(*numbers())),
        "computed": in_a_callback(computed),
    }


def effects() -> dict:
    import keras

    keras.utils.set_random_seed(1)
    return {
        "gathers": {vocabulary: gathers_of(vocabulary) for vocabulary in (8, 5000)},
        "xla": compiled_by_xla(),
        "not for xla": not_for_xla(),
        "overflow": overflowing(),
        "draws": drawing(),
        "norm": normalized(),
        "gradient norms": gradient_norms(),
        "slow": behind_a_slow_rank(),
        "traced": calls_of_a_layer(run_eagerly=False),
        "eager": calls_of_a_layer(run_eagerly=True),
        "acted": acted(),
        "own": {problem: own_step(problem) for problem in ("log", "loss", "optimizer", "weights", "none")},
    }


@pytest.fixture(scope="module")
def seen() -> list[dict]:
    return sparkdl.run(effects, launch=local_group(2))


def test_slices_are_gathered_where_that_moves_fewer_bytes(seen) -> None:
    for effect in seen:
        assert effect["gathers"] == {8: 0, 5000: 1}


def test_a_step_is_traced_once_whatever_its_rows_and_not_at_all_where_it_is_to_run_eagerly(seen) -> None:
    for effect in seen:
        traced, eager = effect["traced"], effect["eager"]
        assert traced["calls"] == 1 and eager["calls"] == 2 * -(-ROWS // 5)
        np.testing.assert_allclose(traced["losses"], eager["losses"], rtol=1e-5)
        assert traced["losses"][1] < traced["losses"][0]


def test_forward_and_backward_are_compiled_and_the_whole_step_is_not(seen) -> None:
    for effect in seen:
        assert effect["xla"]["traces"] >= 1 and effect["xla"]["must_compile"]
        assert effect["xla"]["whole_step"] is False and effect["xla"]["restored"] is True


def test_what_xla_cannot_compile_is_trained_without_it_and_said(seen) -> None:
    for effect in seen:
        lines = [line for line in effect["not for xla"]["lines"] if "training of model" in line]
        assert len(lines) == 1 and lines[0].startswith("jit_compile is switched off")
        assert np.isfinite(effect["not for xla"]["losses"]).all()


def test_an_infinite_gradient_on_one_rank_skips_the_step_on_all(seen) -> None:
    one, other = (effect["overflow"] for effect in seen)
    assert one == other and one["kind"] == "LossScaleOptimizer"
    assert one["updates"] == 2 * 5 - 2 and one["scale"] == 2.0**15 / 4
    assert np.isfinite(one["weights"][0]).all()
    norm, norms = one["norms"]
    assert norms == 2 * 5 - 2 and 0 < norm < np.inf


def test_the_gradient_norm_is_that_of_all_rows_unscaled_and_unclipped(seen) -> None:
    one, other = (effect["gradient norms"] for effect in seen)
    assert one == other and len(one) == 6
    for name, (norm, expected) in one.items():
        assert norm == pytest.approx(expected, rel=1e-2 if name in ("mixed", "half") else 1e-5), name


def test_seconds_of_reduction_show_who_waits_for_whom(seen) -> None:
    one, slow = (effect["slow"] for effect in seen)
    assert one["reduce_s"] - slow["reduce_s"] > 0.25 and slow["reduce_s"] > 0
    assert one["rows"] + slow["rows"] == one["global_rows"] == slow["global_rows"] == ROWS


def test_draws_depend_on_step_and_rank_alone(seen) -> None:
    one, other = (effect["draws"] for effect in seen)
    assert one["there"] == one["back"] and other["there"] == other["back"]
    drawn = np.array(one["there"] + other["there"]).round(6)
    assert len(np.unique(drawn)) == drawn.size


def test_moving_statistics_are_the_same_on_all_ranks(seen) -> None:
    one, other = (effect["norm"] for effect in seen)
    assert one == other
    assert np.isfinite(np.concatenate([np.ravel(values) for values in one])).all()


def test_what_goes_past_the_models_optimizers_and_metrics_is_refused_by_name(seen) -> None:
    for effect in seen:
        for problem, name in (("log", "unknown"), ("loss", "loss")):
            assert f"gives {name!r}, which is not the result of a metric of that name" in effect["own"][problem]
        assert "applied no optimizer of the model's" in effect["own"]["optimizer"]
        assert "the ranks' weights of model" in effect["own"]["weights"]
        assert effect["own"]["none"] == "accepted"


def test_a_callback_that_the_steps_would_not_follow_is_refused_with_the_way_out(seen) -> None:
    for effect in seen:
        said = effect["acted"]
        assert "was compiled within a run, whose steps hold its loss" in said["compile"]
        assert "initial_model=first.model_dir" in said["compile"]
        for way in ("thaw", "freeze"):
            assert "a callback has changed whether weight 'sequential" in said[way]
            assert "/kernel' and 1 more is trainable, which the steps of a run do not follow" in said[way]
        assert "a callback has given the model another optimizer" in said["optimizer"]
        for method in ("evaluate", "fit", "train_on_batch", "test_on_batch"):
            assert "ModelError: within a run, the model's fit, evaluate" in said[method], said[method]
            assert "self.model(x, training=False) or self.model.predict(x)" in said[method]
        assert said["computed"] == "accepted"
        refused = [text for name, text in said.items() if name != "computed"]
        assert all(text.startswith("ModelError: ") and "\n" not in text for text in refused)
