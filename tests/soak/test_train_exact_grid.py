"""The exact step over a grid of reductions, optimizers and options, on 1, 2, 3, 4 and 8 ranks; minutes."""

import itertools

import numpy as np
import pytest

import sparkdl
from sparkdl import LaunchConfig

ROWS, TOKENS, BATCH, EPOCHS = 37, 6, 10, 3

REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", None)
OPTIMIZERS = {
    "momentum": lambda keras: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda keras: keras.optimizers.Adam(0.01, clipvalue=0.3),
    "adamw": lambda keras: keras.optimizers.AdamW(0.01, global_clipnorm=0.5),
    "averaged": lambda keras: keras.optimizers.RMSprop(0.01, clipnorm=0.2, use_ema=True, ema_overwrite_frequency=4),
    "accumulated": lambda keras: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
}
KINDS = ("plain", "weights", "masked", "masked and ignored", "synced norm", "xla")


def cases() -> list[tuple]:
    """(reduction, optimizer, kind); None cannot be masked in parts of the gradient that Keras adds up."""
    return [
        (reduction, optimizer, kind)
        for (reduction, kind), optimizer in zip(
            itertools.product(REDUCTIONS, KINDS), itertools.cycle(OPTIMIZERS), strict=False
        )
    ]


def shares(step: int, rows: np.ndarray, size: int) -> np.ndarray:
    """The rank of each row of a step: at random, and all of them rank 0's in each fourth step."""
    drawn = np.random.default_rng((7, step)).integers(0, 8, len(rows)) % size
    return drawn if step % 4 else np.zeros(len(rows), int)


def elements(data, weighted: bool):
    import tensorflow as tf

    here = sparkdl.world()
    x, y, weights = data
    steps = -(-ROWS // BATCH)

    def generate():
        for step in range(EPOCHS * steps):
            rows = np.arange(step % steps * BATCH, min(ROWS, (step % steps + 1) * BATCH))
            mine = rows[shares(step, rows, here.size) == here.rank]
            fed = mine if len(mine) else np.zeros(1, int)
            yield 0.0, x[fed], y[fed], weights[fed], np.array([len(mine), len(rows), step], np.int64)

    signature = (
        tf.TensorSpec((), tf.float64),
        *(tf.TensorSpec((None, *values.shape[1:]), values.dtype) for values in data),
        tf.TensorSpec((3,), tf.int64),
    )
    made = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return made.map(lambda waited, x, y, w, counts: (waited, (x, y, w if weighted else (), counts)))


def model_of(reduction, optimizer: str, kind: str):
    import keras

    layers = keras.layers
    masked = kind.startswith("masked")
    if masked:
        x = keras.Input((TOKENS,), dtype="int32")
        hidden = layers.Dense(5, activation="tanh")(layers.Embedding(400, 4, mask_zero=True)(x))
    else:
        x = keras.Input((4,))
        hidden = layers.Dense(6, kernel_regularizer=None if reduction is None else "l2")(x)
        if kind == "synced norm":
            hidden = layers.BatchNormalization(momentum=0.6)(hidden)
        hidden = layers.Activation("tanh")(hidden)
    model = keras.Model(x, layers.Dense(3)(hidden))
    ignored = 1 if kind == "masked and ignored" else None
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction, ignore_class=ignored)
    model.compile(OPTIMIZERS[optimizer](keras), loss, weighted_metrics=["accuracy"], jit_compile=kind == "xla")
    return model


def data_of(kind: str):
    rng = np.random.default_rng(2)
    if not kind.startswith("masked"):
        return rng.normal(size=(ROWS, 4)), rng.integers(0, 3, ROWS).astype(np.int32), rng.uniform(0.1, 2, ROWS)
    words = rng.integers(1, 400, (ROWS, TOKENS)) * (np.arange(TOKENS) < rng.integers(1, TOKENS + 1, ROWS)[:, None])
    return words.astype(np.int32), rng.integers(0, 3, (ROWS, TOKENS)).astype(np.int32), np.ones(ROWS)


def train(case: tuple) -> dict:
    import keras

    from sparkdl.train.checks.check_model import build, check_model
    from sparkdl.train.exact.instrument import StepOptions, exact_steps

    reduction, optimizer, kind = case
    keras.utils.set_random_seed(3)
    data, weighted = data_of(kind), kind in ("weights", "xla")
    example = tuple(keras.KerasTensor((None, *v.shape[1:]), str(v.dtype)) for v in data[: 3 if weighted else 2])
    model = model_of(reduction, optimizer, kind)
    check_model(model)
    build(model, example)
    losses: list[float] = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: losses.append(float(logs["loss"])))
    options = StepOptions(global_batch_size=BATCH, sync_batch_norm=kind == "synced norm")
    with exact_steps(model, sparkdl.world(), example, options):
        history = model.fit(
            elements(data, weighted), epochs=EPOCHS, steps_per_epoch=-(-ROWS // BATCH), verbose=0, callbacks=[watch]
        ).history
    return {"logs": losses, "weights": model.get_weights(), "history": history}


def train_all(cases: list[tuple]) -> list[dict]:
    import keras

    from sparkdl.train.exact.collective import join_world

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    join_world(sparkdl.world())
    return [train(case) for case in cases]


@pytest.fixture(scope="module")
def alone() -> list[dict]:
    return sparkdl.run(train_all, cases(), launch=LaunchConfig(num_workers=1, local=True))[0]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [2, 3, 4, 8])
def test_every_case_equals_its_twin_on_one_rank(alone, workers) -> None:
    # 8 ranks take long to trace on few cores: there a part of the grid.
    chosen = cases()[::5] if workers == 8 else cases()
    twins = alone[::5] if workers == 8 else alone
    launch = LaunchConfig(num_workers=workers, local=True, start_timeout_s=180)
    for rank in sparkdl.run(train_all, chosen, launch=launch):
        for case, one, many in zip(chosen, twins, rank, strict=True):
            assert many["logs"] == pytest.approx(one["logs"], rel=1e-9, abs=1e-12), case
            assert many["history"].keys() == one["history"].keys()
            for name, values in one["history"].items():
                assert many["history"][name] == pytest.approx(values, rel=1e-9, abs=1e-12), (case, name)
            for mine, theirs in zip(one["weights"], many["weights"], strict=True):
                assert np.allclose(mine, theirs, rtol=0, atol=1e-9 * max(np.max(np.abs(mine)), 1e-3)), case
