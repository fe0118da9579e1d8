"""Steps of optimizers that are wrapped by Horovod's Keras interface: 1, 2 and 3 ranks give what one process gives.

One process takes the gradients of every rank's batch, averages them by hand, and applies them with plain Keras.
"""

from importlib.metadata import version

import numpy as np
import pytest
from packaging.version import Version

import sparkdl
from groups import local_group

ROWS, BATCH, WORDS = 24, 6, 5
EXACT = 1e-9


def rows_of(rank: int):
    """The rows of one rank: a word, four numbers and a target."""
    rng = np.random.default_rng(100 + rank)
    words = rng.integers(0, WORDS, (ROWS, 2))  # a batch has a word several times, and ranks share words
    return [words.astype("int32"), rng.normal(size=(ROWS, 4))], rng.normal(size=(ROWS, 1)) * 3


def make_model():
    """A model with an embedding, whose gradients are sparse. Its weights are the same in all processes."""
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(5)
    words, numbers = keras.Input((2,), dtype="int32"), keras.Input((4,))
    embedded = keras.layers.Flatten()(keras.layers.Embedding(WORDS, 3, name="embedding")(words))
    hidden = keras.layers.Dense(4, "tanh", name="hidden")(keras.layers.Concatenate()([embedded, numbers]))
    return keras.Model([words, numbers], keras.layers.Dense(1, name="out")(hidden))


def adam(**options):
    import keras

    return keras.optimizers.Adam(0.05, **options)


def momentum():
    import keras

    return keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.3)


def adadelta():
    import keras

    return keras.optimizers.Adadelta(0.5, global_clipnorm=0.2)


def scheduled():
    import keras

    return keras.optimizers.RMSprop(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5, staircase=True))


def weight_decay_and_average():
    import keras

    return keras.optimizers.AdamW(0.05, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=2)


def several():
    import keras

    chosen = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1), {"embedding/.*": keras.optimizers.Adam(0.05)})
    return keras.optimizers.MultiOptimizer(chosen)


# Each case: the optimizer, the arguments of DistributedOptimizer (the model's variables are filled in), those of
# compile, and what one process does with the ranks' gradients.
CASES = {
    "adam": (adam, {}, {}, {}),
    "momentum, clipped by norm": (momentum, {}, {}, {}),
    "adadelta, clipped by global norm": (adadelta, {"name": "mine"}, {}, {}),
    "a schedule": (scheduled, {}, {}, {}),
    "weight decay, moving average": (weight_decay_and_average, {}, {}, {}),
    "several optimizers": (several, {}, {}, {}),
    "a sum": (adam, {"op": "Sum"}, {}, {"sum": True}),
    "sparse as dense": (adam, {"sparse_as_dense": True}, {}, {}),
    "predivided": (adam, {"gradient_predivide_factor": 2.0, "device_dense": "/cpu:0"}, {}, {}),
    "two groups": (adam, {"groups": 2}, {}, {}),
    "more groups than gradients": (adam, {"num_groups": 9}, {}, {}),
    "named groups": (adam, {"groups": ["hidden", "embedding"]}, {}, {}),
    "eager": (adam, {}, {"run_eagerly": True}, {}),
    "eager groups": (adam, {"groups": 1}, {"run_eagerly": True}, {}),
    "asked to use XLA": (adam, {}, {"jit_compile": True}, {}),
    "several steps in one call": (adam, {}, {"steps_per_execution": 2}, {}),
    "Keras adds up": (lambda: adam(gradient_accumulation_steps=2), {}, {}, {}),
    "the sum of two passes": (adam, {"backward_passes_per_step": 2, "sparse_as_dense": True}, {}, {"passes": 2}),
    "the mean of two passes": (
        scheduled,
        {"backward_passes_per_step": 2, "sparse_as_dense": True, "average_aggregated_gradients": True},
        {},
        {"passes": 2, "mean": True},
    ),
    "passes in eager mode": (
        adam,
        {"backward_passes_per_step": 2, "sparse_as_dense": True},
        {"run_eagerly": True},
        {"passes": 2},
    ),
    "own layers": (adam, {"local_layers": ["embedding", "out"]}, {}, {"local": ("embedding", "out")}),
    "own layers, not scaled": (
        adam,
        {"local_layers": ["hidden"], "scale_local_gradients": False},
        {},
        {"local": ("hidden",), "unscaled": True},
    ),
    "own loop": (adam, {}, "loop", {}),
    "own eager loop": (adam, {}, "eager loop", {}),
}
if Version(version("keras")) < Version("3.13"):
    del CASES["several optimizers"]  # Keras 3.12 has no MultiOptimizer
# What `make soak` alone trains: other forms of the same ways.
LONG = (
    *("a schedule", "several optimizers", "sparse as dense", "two groups", "more groups than gradients"),
    *("eager groups", "asked to use XLA", "the sum of two passes", "passes in eager mode", "own layers, not scaled"),
    *("own loop", "weight decay, moving average"),
)
# All of them with two ranks; these with one and three, too.
FEW = ("adam", "momentum, clipped by norm", "adadelta, clipped by global norm", "predivided", "own layers")


def arguments(options, model, hvd):
    """Replace the names in a case's arguments by what they name."""
    options = dict(options)
    if "op" in options:
        options["op"] = getattr(hvd, options["op"])
    if isinstance(options.get("groups"), list):
        options["groups"] = [model.get_layer(name).trainable_weights for name in options["groups"]]
    if "local_layers" in options:
        options["local_layers"] = [model.get_layer(name) for name in options["local_layers"]]
    return options


def loop(model, optimizer, x, y, *, compiled: bool):
    """A training loop of the user's."""
    import keras
    import tensorflow as tf

    def step(words, numbers, targets):
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((model([words, numbers], training=True) - targets) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    step = tf.function(step) if compiled else step
    for start in range(0, ROWS, BATCH):
        rows = slice(start, start + BATCH)
        step(tf.constant(x[0][rows]), tf.constant(x[1][rows]), tf.constant(y[rows]))


def trained(names):
    """Train each case on this rank's rows; return the weights, and the steps that the optimizer has counted."""
    import horovod.tensorflow.keras as hvd

    hvd.init()
    found = {}
    for name in names:
        optimizer, options, compiled, _ = CASES[name]
        model, (x, y) = make_model(), rows_of(hvd.rank())
        wrap = hvd.PartialDistributedOptimizer if "local_layers" in options else hvd.DistributedOptimizer
        wrapped = wrap(optimizer(), **arguments(options, model, hvd))
        if isinstance(compiled, str):
            loop(model, wrapped, x, y, compiled=compiled == "loop")
        else:
            model.compile(wrapped, "mse", **compiled)
            model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        found[name] = [np.array(weight) for weight in model.get_weights()], int(wrapped.iterations)
    return found


def expected(name, size: int):
    """Train a case in this process, which takes the gradients of all ranks; return the weights of each rank."""
    import keras
    import tensorflow as tf

    make_optimizer, _, compiled, how = CASES[name]
    models = [make_model() for _ in range(size)]  # ranks differ only in layers of their own
    optimizers = [make_optimizer() for _ in range(size)]
    waiting = []
    for start in range(0, ROWS, BATCH):
        rows = slice(start, start + BATCH)
        of_ranks = []
        for rank, model in enumerate(models):
            x, y = rows_of(rank)
            with tf.GradientTape() as tape:
                loss = keras.ops.mean((model([x[0][rows], x[1][rows]], training=True) - y[rows]) ** 2)
            gradients = tape.gradient(loss, model.trainable_variables)
            of_ranks.append([np.array(tf.convert_to_tensor(gradient)) for gradient in gradients])
        waiting.append(of_ranks)
        if len(waiting) < how.get("passes", 1):
            for optimizer in optimizers:
                optimizer.iterations.assign_add(1)
            continue
        added = [[sum(step[rank][i] for step in waiting) for i in range(len(of_ranks[0]))] for rank in range(size)]
        divisor = len(waiting) if how.get("mean") else 1
        waiting = []
        for rank, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            gradients = []
            for index, variable in enumerate(model.trainable_variables):
                if variable.path.split("/")[0] in how.get("local", ()):
                    gradient = added[rank][index] / (1 if how.get("unscaled") else size)
                else:
                    gradient = sum(one[index] for one in added) / (1 if how.get("sum") else size)
                gradients.append(tf.constant(gradient / divisor))
            optimizer.apply(gradients, model.trainable_variables)
    for model, optimizer in zip(models, optimizers, strict=True):
        if not isinstance(compiled, str):
            optimizer.finalize_variable_values(model.trainable_variables)
    return [[np.array(weight) for weight in model.get_weights()] for model in models], int(optimizers[0].iterations)


@pytest.fixture(scope="module")
def of_ranks(request):
    """What each number of ranks gave, by case: the cases that are tested."""
    of_module = [item for item in request.session.items if item.module is request.module]
    chosen = {item.callspec.params.get("name") for item in of_module if hasattr(item, "callspec")}
    tested = [name for name in CASES if name not in LONG or name in chosen]
    return {
        size: sparkdl.run(trained, tested if size == 2 else list(FEW), launch=local_group(size)) for size in (1, 2, 3)
    }


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(name, size, marks=pytest.mark.soak) if name in LONG else (name, size)
        for size in (1, 2, 3)
        for name in CASES
        if size == 2 or name in FEW
    ],
)
def test_ranks_give_the_weights_of_the_mean_of_their_gradients(of_ranks, name, size) -> None:
    weights, steps = expected(name, size)
    for rank in range(size):
        found, counted = of_ranks[size][rank][name]
        assert counted == steps
        for got, wanted in zip(found, weights[rank], strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=EXACT)
    untrained = make_model().get_weights()
    assert all(abs(got - start).max() > 1e-5 for got, start in zip(found, untrained, strict=True))


@pytest.mark.parametrize("size", (2, 3))
def test_all_ranks_have_the_same_bits(of_ranks, size) -> None:
    for name in of_ranks[size][0]:
        if not name.startswith("own layers"):
            ranks = [of_ranks[size][rank][name][0] for rank in range(size)]
            assert all((a == b).all() for other in ranks[1:] for a, b in zip(ranks[0], other, strict=True)), name


def numbers_of(rank: int):
    """Four numbers of twelve rows, and their sum."""
    x = np.random.default_rng(rank).normal(size=(12, 4)).astype("float32") / 10
    return x, x.sum(axis=1, keepdims=True)


def overflowing():
    """Train in float16, where the second batch of rank 1 overflows; return weights, loss scale and steps."""
    import horovod.tensorflow.keras as hvd
    import keras

    hvd.init()
    x, y = numbers_of(hvd.rank())
    if hvd.rank() == 1:
        x[4:8] = 60000.0
    found = {}
    for name in ("keras wraps", "horovod wraps"):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, dtype="mixed_float16")])
        model.dtype_policy = keras.DTypePolicy("mixed_float16")
        optimizer = keras.optimizers.SGD(0.1)
        if name == "horovod wraps":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(hvd.DistributedOptimizer(optimizer), "mse")
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        scale, steps = float(model.optimizer.dynamic_scale.numpy()), int(model.optimizer.iterations)
        found[name] = [weight.tolist() for weight in model.get_weights()], scale, steps
    return found


def test_an_overflow_of_one_rank_is_skipped_by_all() -> None:
    first, second = sparkdl.run(overflowing, launch=local_group(2))
    assert first == second
    for weights, scale, steps in first.values():
        assert np.isfinite(weights[0]).all() and (scale, steps) == (2.0**14, 2)
    assert first["keras wraps"] == first["horovod wraps"]


def compressed():
    """Take one step with gradients that are sent as float16; return the update."""
    import horovod.tensorflow.keras as hvd
    import keras

    hvd.init()
    keras.utils.set_random_seed(3)
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    dense.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), compression=hvd.Compression.fp16), "mse")
    dense.fit(*numbers_of(hvd.rank()), batch_size=12, verbose=0)
    return dense.get_weights()[0]


def test_compressed_gradients_are_averaged_as_float16() -> None:
    ranks = [numbers_of(rank) for rank in range(2)]
    exact = np.mean([2 * x.T @ y / len(x) for x, y in ranks], axis=0)
    first, second = sparkdl.run(compressed, launch=local_group(2))
    assert (first == second).all()
    np.testing.assert_allclose(first, exact, rtol=2e-3)
    assert not np.allclose(first, exact, rtol=1e-5, atol=0)


def in_a_process_set():
    """Train with an optimizer that averages over ranks 0 and 1 alone."""
    import horovod.tensorflow.keras as hvd

    pair = hvd.ProcessSet([0, 1])
    hvd.init(process_sets=[pair])
    model, (x, y) = make_model(), rows_of(hvd.rank())
    model.compile(hvd.DistributedOptimizer(adam(), process_set=pair), "mse")
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    hvd.allreduce(0.0)  # Horovod's process sets end when the first rank does
    return [np.array(weight) for weight in model.get_weights()]


def test_a_rank_outside_of_the_process_set_goes_alone() -> None:
    ranks = sparkdl.run(in_a_process_set, launch=local_group(3))
    pair, _ = expected("adam", 2)
    for found, wanted in zip(ranks[:2], pair, strict=True):
        for got, weight in zip(found, wanted, strict=True):
            np.testing.assert_allclose(got, weight, rtol=0, atol=EXACT)
    assert abs(ranks[2][0] - ranks[0][0]).max() > 1e-3
