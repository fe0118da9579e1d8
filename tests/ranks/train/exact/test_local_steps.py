"""Local SGD gives what plain Keras gives on each rank's rows, averaged by rows, and goes on after interruptions."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from groups import local_group
from paths import FIXTURES
from sparkdl import CheckpointConfig, TrainConfig
from sparkdl.model.signature import Signature
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.spec import TrainSpec

pytestmark = pytest.mark.timeout(400)
EPOCHS = 2


def digits_model(ds):
    """A rate that falls by the step, moments and momenta to average, a scalar weight."""
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    layers = keras.layers
    stack = [layers.Rescaling(1 / 16), layers.Flatten(), layers.Dense(16), layers.BatchNormalization(momentum=0.8)]
    stack += [layers.PReLU(shared_axes=[1]), layers.Dense(len(ds.classes), "softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *stack])
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, 5, 0.9)
    loss, metrics = "sparse_categorical_crossentropy", ["accuracy"]
    model.compile(keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.9), loss, metrics=metrics)
    return model


def few_rows_model(ds):
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    grid = keras.Input(ds.features["grid"].shape, name="grid")
    model = keras.Model([grid], keras.layers.Dense(1, "sigmoid")(keras.layers.Flatten()(grid)))
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.9)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "binary_crossentropy", metrics=["accuracy"])
    return model


# name -> build_model, rows of a step, steps between two averages
RUNS = {
    "digits": (digits_model, 100, 4),
    # On 3 ranks one has no rows in each step, and more have none in the last one.
    "few rows": (few_rows_model, 2, 3),
    "at the end": (few_rows_model, 7, 1000),
}


@pytest.fixture(scope="module")
def datasets(digits_dataset):
    return {"digits": digits_dataset, None: sparkdl.open_dataset(str(FIXTURES / "dataset-v1"))}


def task(name, folder, datasets, **options) -> TrainSpec:
    build_model, batch, every = RUNS[name]
    given = {"epochs": EPOCHS, "global_batch_size": batch, "seed": 5, "sync_every": every, **options}
    given["callbacks"] = keeping(folder, given.get("callbacks", list))
    config = TrainConfig(run_dir=str(folder), **given)
    Path(config.run_dir).mkdir(parents=True, exist_ok=True)
    dataset = datasets.get(name, datasets[None])
    return TrainSpec(build_model=build_model, dataset=dataset, config=config, run=RunDir(config.run_dir))


def keeping(folder, make):
    """Callbacks that write this rank's last weights, too."""

    def made():
        import keras

        class Keep(keras.callbacks.Callback):
            def on_train_end(self, logs=None):
                np.savez(f"{folder}/rank-{sparkdl.world().rank}.npz", *self.model.get_weights())

        return [*make(), Keep()]

    return made


def train(task):
    """The history, this rank's weights, and the rows of each epoch."""
    import keras

    from sparkdl.train.entry import train_rank

    keras.backend.clear_session()
    recorded = train_rank(task)
    names = ("loss", "accuracy", "val_loss", "val_accuracy", "per_worker", "gradient_norm", "allreduce_share")
    history = [{name: record[name] for name in names if name in record} for record in recorded.history]
    weights = [*np.load(f"{task.run.path}/rank-{sparkdl.world().rank}.npz").values()]
    return history, weights, [sum(epoch["rows"]) for epoch in recorded.ranks]


def train_all(tasks):
    return {name: train(one) for name, one in tasks.items()}


def simulated(task, world_size):
    """Losses and weights of models that plain Keras trains on the rows of each rank, averaged by rows."""
    import keras

    from sparkdl.data.feed.feed import Feed
    from sparkdl.data.feed.tensors import batch_of

    keras.backend.clear_session()
    config, dataset = task.config, task.dataset
    models, steps = [], []
    for rank in range(world_size):
        keras.utils.set_random_seed(config.seed)
        models.append(task.build_model(dataset))
        models[-1].optimizer.build(models[-1].trainable_variables)
        place = {"rank": rank, "world_size": world_size, "global_batch_size": config.global_batch_size}
        feed = Feed(dataset, dataset.split("train"), **place, seed=config.seed)
        taken = []
        for block in feed.blocks(range(config.epochs)):
            for start, stop, rows in zip(block.starts, block.stops, block.rows, strict=True):
                taken.append((int(rows), batch_of([a[start:stop].copy() for a in block.arrays], dataset.layout)))
        steps.append(taken)
    count, losses = len(steps[0]) // config.epochs, []
    since = np.zeros(world_size)
    for number, of_ranks in enumerate(zip(*steps, strict=True)):
        if number % count == 0:
            losses.append([])
        for rank, (model, (rows, batch)) in enumerate(zip(models, of_ranks, strict=True)):
            if rows:
                model.reset_metrics()
                losses[-1].append((rows, float(model.train_on_batch(*batch, return_dict=True)["loss"])))
            else:
                model.optimizer._iterations.assign_add(1)
            since[rank] += rows
        step = number % count
        if (step + 1) % config.sync_every == 0 or step + 1 == count:
            average(models, since / since.sum())
            since[:] = 0
    for model in models:
        model.optimizer.finalize_variable_values(model.trainable_weights)
    means = [sum(rows * loss for rows, loss in epoch) / sum(rows for rows, _ in epoch) for epoch in losses]
    return means, models[0].get_weights()


def average(models, shares):
    for one in zip(*([*model.weights, *model.optimizer.variables] for model in models), strict=True):
        values = [np.asarray(variable) for variable in one]
        if values[0].dtype.kind == "f":
            mean = sum(share * value for share, value in zip(shares, values, strict=True))
            for variable in one:
                variable.assign(mean)
        else:
            assert len({int(value) for value in values}) == 1


def simulate_all(tasks, exact, sizes):
    """What ranks in these numbers must give, and what one rank gives with and without averages."""
    found = {(name, size): simulated(one, size) for name, one in tasks.items() for size in sizes}
    return found, train_all(tasks), train_all(exact)


@pytest.fixture(scope="module")
def expected(request, datasets, tmp_path_factory):
    of_module = [item for item in request.session.items if item.module is request.module]
    sizes = {item.callspec.params.get("workers") for item in of_module if hasattr(item, "callspec")}
    folder = tmp_path_factory.mktemp("one")
    tasks = {name: task(name, folder / name, datasets) for name in RUNS}
    exact = {name: task(name, folder / f"{name} exact", datasets, sync_every=1) for name in RUNS}
    return sparkdl.run(simulate_all, tasks, exact, sizes & {2, 3}, launch=local_group(1))[0]


def assert_same(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_one_worker_trains_as_plain_keras_with_any_number_of_steps_between(expected) -> None:
    _, averaged, exact = expected
    for name in RUNS:
        assert averaged[name][0] == exact[name][0] and "per_worker" not in averaged[name][0][0]
        assert_same(averaged[name][1], exact[name][1])


@pytest.mark.parametrize("workers", [pytest.param(2, marks=pytest.mark.soak), 3])
def test_ranks_give_what_plain_keras_gives_on_their_rows_averaged(expected, datasets, tmp_path, workers) -> None:
    tasks = {name: task(name, tmp_path / name, datasets) for name in RUNS}
    of_ranks = sparkdl.run(train_all, tasks, launch=local_group(workers))
    for name, one in tasks.items():
        losses, weights = expected[0][name, workers]
        for rank in of_ranks:
            history, own, rows = rank[name]
            assert_same(own, weights)
            assert [record["loss"] for record in history] == pytest.approx(losses, rel=1e-9)
            assert rows == [one.dataset.split("train").rows] * EPOCHS
            every = RUNS[name][2]
            assert [record["per_worker"] for record in history] == [[f"weights (sync_every={every})"]] * EPOCHS
            assert "gradient_norm" not in history[0] and 0 < history[0]["allreduce_share"] < 1
        assert Signature.read(one.run.model).inexact == (f"weights (sync_every={every})",)
    # Not of "digits", whose optimizer leaves averaged weights after the last validation.
    evaluated = sparkdl.evaluate(one.run.model, one.dataset, "val", launch=local_group(1))
    assert evaluated["loss"] == pytest.approx(of_ranks[0][name][0][-1]["val_loss"], rel=1e-9)


def breaking(folder):
    def make():
        import keras

        class BreakOff(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch

            def on_train_batch_begin(self, batch, logs=None):
                if self.epoch == 1 and batch == 10 and not (Path(folder) / f"broken-{sparkdl.world().rank}").exists():
                    (Path(folder) / f"broken-{sparkdl.world().rank}").touch()
                    raise InterruptedError

        return [BreakOff()]

    return make


def broken_off(task):
    with pytest.raises(InterruptedError):
        train(task)


def test_a_run_goes_on_with_the_numbers_of_an_uninterrupted_one_and_says_what_it_is(datasets, tmp_path) -> None:
    checkpoint = CheckpointConfig(every_steps=8)
    run = task("digits", tmp_path / "run", datasets, checkpoint=checkpoint, callbacks=breaking(tmp_path / "run"))
    sparkdl.run(broken_off, run, launch=local_group(2))
    resumed = dataclasses.replace(run, checkpoint=run.run.latest_checkpoint())
    assert resumed.checkpoint.endswith("epoch-00001-step-00000008")
    history, weights, rows = sparkdl.run(train, resumed, launch=local_group(2))[0]
    assert rows == [1468, 1468 - 800]
    config = task("digits", tmp_path / "whole", datasets, checkpoint=checkpoint).config
    whole = sparkdl.fit(digits_model, datasets["digits"], config, launch=local_group(2, log="errors"))
    (said,) = (tmp_path / "whole" / "logs").glob("*/rank-0000.log")
    assert said.read_text().count("weights (sync_every=4) are averaged over workers that train alone between") == 1
    assert [r["loss"] for r in history] == pytest.approx([r["loss"] for r in whole.history], rel=1e-12)
    assert_same(weights, sparkdl.load_model(whole.model_dir).keras_model.get_weights())
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "averaged by rows: weights (sync_every=4)" in page
    again = sparkdl.fit(digits_model, datasets["digits"], config, launch=local_group(2))
    assert again.history == whole.history
    other = dataclasses.replace(config, sync_every=8)
    with pytest.raises(sparkdl.CheckpointError, match="holds another run: config.sync_every was 4, is 8"):
        sparkdl.fit(digits_model, datasets["digits"], other, launch=local_group(2))


def stopping(folder):
    def make():
        import keras

        class Stop(keras.callbacks.Callback):
            taken = 0

            def on_train_batch_end(self, batch, logs=None):
                self.taken += 1
                if batch == 4 and sparkdl.world().rank == 1:
                    self.model.stop_training = True

            def on_train_end(self, logs=None):
                (Path(folder) / f"{sparkdl.world().rank}.json").write_text(json.dumps(self.taken))

        return [Stop()]

    return make


def test_a_rank_that_stops_stops_all_where_they_meet(datasets, tmp_path) -> None:
    run = task("digits", tmp_path, datasets, callbacks=stopping(tmp_path))
    results = sparkdl.run(train, run, launch=local_group(2))
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [8, 8]
    assert [rows for _, _, rows in results] == [[800], [800]] and "val_loss" in results[0][0][-1]


def refusals():
    import keras

    from sparkdl.train.exact.local_step import check_local

    class Own(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    def message(model, optimizer="sgd"):
        model.compile(optimizer, "mse")
        model.optimizer.build(model.trainable_weights)
        try:
            check_local(model, sync_every=4)
        except sparkdl.ModelError as error:
            return str(error)

    def dense(kind=keras.Sequential, *layers):
        return kind([keras.Input((3,)), *layers, keras.layers.Dense(1)])

    optimizers = keras.optimizers
    return [
        message(dense()),
        message(dense(Own)),
        message(dense(keras.Sequential, keras.layers.BatchNormalization(synchronized=True))),
        message(dense(), optimizers.LossScaleOptimizer(optimizers.SGD())),
        message(dense(), optimizers.SGD(gradient_accumulation_steps=2)),
    ]


def test_models_that_ranks_cannot_train_alone_are_refused() -> None:
    ((good, own, synchronized, scaled, accumulated),) = sparkdl.run(refusals, launch=local_group(1))
    assert good is None
    assert own.startswith("sync_every=4 must be 1 with model ") and "its own train_step" in own
    assert "whose synchronized=True asks for all ranks' rows in each step" in synchronized
    assert "whose loss scale each rank would find alone; use bfloat16" in scaled
    assert "with gradient_accumulation_steps=2 of optimizer" in accumulated
