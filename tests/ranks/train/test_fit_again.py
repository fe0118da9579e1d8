"""`fit` with a run_dir that holds a run: what counts as the same, what is given back, refused, continued, replaced."""

import contextlib
import csv
import dataclasses
import json
import shutil
import textwrap
import time
from pathlib import Path

import pytest

import sparkdl
from groups import local_group
from paths import FIXTURES
from sparkdl import CheckpointConfig, CheckpointError, ConfigError, LaunchConfig, TrainConfig
from sparkdl.train.run.run_dir import RunDir

pytestmark = pytest.mark.timeout(300)
ONE = local_group(1, log="errors")

SOURCE = """
    class Scaled(keras.layers.Layer):
        def call(self, x):
            return 2.0 * x

    def build_model(ds):
        inputs = {e.name: keras.Input(e.shape, name=e.name) for e in ds.features.values() if e.name == "age"}
        x = keras.layers.Reshape((1,))(inputs["age"])
        x = Scaled()(keras.layers.Dense(4, "relu")(x))
        model = keras.Model(list(inputs.values()), keras.layers.Dense(1, "sigmoid", name="pay")(x))
        top = keras.metrics.AUC(name="pr", curve="PR")
        model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", metrics=[top, "mae"])
        return model
"""


def scaled():
    """The layer of the notebook's cell."""
    return cell().__globals__["Scaled"]


def cell(*edits):
    """build_model as a notebook's cell defines it, after edits."""
    source = textwrap.dedent(SOURCE)
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    namespace = {"__name__": "__main__"}
    exec(compile("import keras\nimport numpy as np\n" + source, f"<cell {len(source)}>", "exec"), namespace)
    return namespace["build_model"]


@pytest.fixture(scope="module")
def dataset():
    return sparkdl.open_dataset(str(FIXTURES / "dataset-v1"))


def config(run_dir, **options):
    return TrainConfig(**{"run_dir": str(run_dir), "epochs": 2, "global_batch_size": 7, **options})


def callbacks(*made):
    """A function that gives such callbacks: (name of Keras', options)."""

    def make():
        import keras

        return [getattr(keras.callbacks, name)(**options) for name, options in made]

    return make


STOP = ("EarlyStopping", {"monitor": "loss", "patience": 50})


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A finished run, with its largest AUC kept."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    best = CheckpointConfig(monitor="val_pr")
    return sparkdl.fit(cell(), dataset, config(folder, callbacks=callbacks(STOP), checkpoint=best), launch=ONE)


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy of it; a run is where it lies."""
    return Path(shutil.copytree(Path(trained.model_dir).parent, tmp_path / "run"))


def test_the_same_is_given_back_at_once_and_what_gives_the_same_after_a_comparison(
    dataset, run_dir, trained, caplog
) -> None:
    options = config(run_dir, callbacks=callbacks(STOP))
    began = time.monotonic()
    again = sparkdl.fit(cell(("2.0 * x", "2.0 * x  # twice")), dataset, options, launch=ONE)
    assert time.monotonic() - began < 2
    assert again.history == trained.history and again.best_model_dir is None
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "holds this run, finished: its result is given back" in record.message
    caplog.clear()
    refactored = cell(("keras.layers.Dense(4", "keras.layers.Dense(WIDE"), ("def build", "WIDE = 4\ndef build"))
    assert sparkdl.fit(refactored, dataset, options, launch=ONE).history == trained.history
    assert "build_model may have changed since" in caplog.text
    assert "build_model gives the same model and callbacks as" in caplog.text
    caplog.clear()
    sparkdl.fit(refactored, dataset, options, launch=ONE)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("Dense(4", "Dense(8", r"model\.config.*\.units was 4, is 8"),
        ("SGD(0.1)", "SGD(0.2)", r"model\.config.*learning_rate was 0.1\d*, is 0.2"),
        ("2.0 * x", "3.0 * x", "the code of Scaled is another"),
    ],
)
def test_another_model_is_refused_by_its_difference(dataset, run_dir, old, new, difference) -> None:
    message = rf"holds the run of another model: {difference}.*; choose another run_dir, or resume='replace'"
    options = config(run_dir, callbacks=callbacks(STOP))
    with pytest.raises(CheckpointError, match=message):
        sparkdl.fit(cell((old, new)), dataset, options, launch=ONE)
    if "Scaled" in difference:  # and so is a run that would go on
        with pytest.raises(CheckpointError, match=message):
            sparkdl.fit(cell((old, new)), dataset, dataclasses.replace(options, epochs=3), launch=ONE)


def test_a_run_of_before_is_compared_once(dataset, run_dir, trained, caplog) -> None:
    (run_dir / "code.json").unlink()
    (run_dir / "best.json").unlink()
    for path in (run_dir / "checkpoints").glob("*/checkpoint.json"):
        content = json.loads(path.read_text())
        del content["facts"]["direction"], content["facts"]["model"]["code"]
        path.write_text(json.dumps(content))
    # Its best value tells which direction it was.
    options = config(run_dir, callbacks=callbacks(STOP), checkpoint=CheckpointConfig(monitor="val_pr"))
    again = sparkdl.fit(cell(), dataset, options, launch=ONE)
    assert again.history == trained.history and again.best_model_dir == str(run_dir / "best-model")
    lowest = dataclasses.replace(options, checkpoint=CheckpointConfig(monitor="val_pr", mode="min"))
    values = [record["val_pr"] for record in trained.history]
    assert len(set(values)) > 1
    assert sparkdl.fit(cell(), dataset, lowest, launch=ONE).best_model_dir is None
    assert caplog.text.count("one rank builds and compares") == 1


def test_callbacks_that_cannot_have_acted_are_refused_and_act_in_further_epochs(dataset, run_dir, trained) -> None:
    log = run_dir.parent / "log.csv"
    added = callbacks(STOP, ("CSVLogger", {"filename": str(log)}))
    message = "with other callbacks: there were EarlyStopping, there are EarlyStopping, CSVLogger; ask for more epochs"
    with pytest.raises(CheckpointError, match=message):
        sparkdl.fit(cell(), dataset, config(run_dir, callbacks=added), launch=ONE)
    with pytest.raises(CheckpointError, match="EarlyStopping.patience was 50, is 9; ask for more epochs"):
        other = callbacks(("EarlyStopping", {"monitor": "loss", "patience": 9}))
        sparkdl.fit(cell(), dataset, config(run_dir, callbacks=other), launch=ONE)
    with pytest.raises(CheckpointError, match="there were EarlyStopping, there are no callbacks"):
        sparkdl.fit(cell(), dataset, config(run_dir), launch=ONE)
    said = []
    longer = sparkdl.fit(cell(), dataset, config(run_dir, callbacks=added, epochs=3), launch=logged(run_dir, said))
    assert longer.history[:2] == trained.history and len(longer.history) == 3
    assert "the run goes on with other callbacks from epoch 3, step 0: there were EarlyStopping, there are" in said[0]()
    assert [row["epoch"] for row in rows_of(log)] == ["2"]
    sparkdl.fit(cell(), dataset, config(run_dir, callbacks=added, epochs=5), launch=ONE)
    assert [row["epoch"] for row in rows_of(log)] == ["2", "3", "4"]


def rows_of(log):
    with log.open(newline="") as file:
        return list(csv.DictReader(file))


def logged(run_dir, said):
    """A launch whose ranks' output is read afterwards."""
    folder = run_dir.parent / "said"
    said.append(lambda: "".join(path.read_text() for path in folder.rglob("*") if path.is_file()))
    return LaunchConfig(num_workers=1, local=True, log="errors", log_dir=str(folder))


def test_the_best_model_is_never_that_of_another_criterion(dataset, run_dir, trained, caplog) -> None:
    def best(launch=ONE, **options):
        checkpoint = CheckpointConfig(monitor=options.pop("monitor"), mode=options.pop("mode", "auto"))
        given = config(run_dir, callbacks=callbacks(STOP), checkpoint=checkpoint, **options)
        return sparkdl.fit(cell(), dataset, given, launch=launch)

    values = [record["val_pr"] for record in trained.history]
    own = {"custom_objects": {"Scaled": scaled()}, "launch": ONE}
    kept = sparkdl.evaluate(trained.best_model_dir, dataset, "val", **own)
    assert kept["pr"] == pytest.approx(max(values), rel=1e-6) and min(values) < max(values)
    assert best(monitor="val_pr").best_model_dir == best(monitor="val_pr", mode="max").best_model_dir is not None
    caplog.clear()
    assert best(monitor="val_mae").best_model_dir is None
    assert "did not look for the min of val_mae: it keeps the max of val_pr, epoch" in caplog.text
    assert best(monitor="val_pr", mode="min").best_model_dir is None
    # Where the run goes on, the new criterion's best is looked for among the epochs from there on.
    result = best(monitor="val_mae", epochs=4)
    found = sparkdl.evaluate(result.best_model_dir, dataset, "val", **own)
    assert found["mae"] == pytest.approx(min(r["val_mae"] for r in result.history[2:]), rel=1e-6)
    assert best(monitor="val_pr", epochs=4).best_model_dir is None


def test_a_csv_log_has_each_epoch_once_after_a_restart(dataset, tmp_path) -> None:
    log, mark = tmp_path / "log.csv", tmp_path / "failed"

    def make():
        import keras

        def fail(epoch, logs):
            if epoch == 2 and not mark.exists():  # after CSVLogger, before the checkpoint
                mark.touch()
                raise InterruptedError

        return [keras.callbacks.CSVLogger(str(log)), keras.callbacks.LambdaCallback(on_epoch_end=fail)]

    often = CheckpointConfig(every_steps=2)
    options = config(tmp_path / "run", epochs=4, callbacks=make, checkpoint=often)
    with pytest.raises(sparkdl.WorkerError, match="InterruptedError"):
        sparkdl.fit(cell(), dataset, options, launch=ONE)
    assert [row["epoch"] for row in rows_of(log)] == ["0", "1", "2"]
    result = sparkdl.fit(cell(), dataset, options, launch=ONE)
    rows = rows_of(log)
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row["loss"]) for row in rows] == pytest.approx([r["loss"] for r in result.history], rel=1e-6)


def test_a_run_is_replaced_and_kept_until_the_new_one_has_finished(dataset, run_dir, trained, caplog) -> None:
    aside, mark = run_dir.parent / "run.replaced", run_dir.parent / "fail"
    mark.touch()

    def make():
        import keras

        def fail(epoch, logs):
            if epoch == 1 and mark.exists():
                raise InterruptedError

        return [keras.callbacks.LambdaCallback(on_epoch_end=fail)]

    wider = cell(("Dense(4", "Dense(8"))
    options = config(run_dir, callbacks=make, resume="replace")
    with pytest.raises(sparkdl.WorkerError, match="InterruptedError"):
        sparkdl.fit(wider, dataset, options, launch=ONE)
    assert f"the run that was in run_dir={run_dir} lies in {aside} until the new one has finished" in caplog.text
    assert f"lies in {aside}; it can be moved back" in caplog.text
    old = sparkdl.fit(cell(), dataset, config(aside, callbacks=callbacks(STOP)), launch=ONE)
    assert old.history == trained.history
    # The same again goes on; what has changed since starts anew, and nothing is deleted yet.
    narrow = cell(("Dense(4", "Dense(2"))
    with pytest.raises(sparkdl.WorkerError, match="InterruptedError"):
        sparkdl.fit(narrow, dataset, options, launch=ONE)
    assert (run_dir.parent / "run.replaced-2" / "run.json").exists() and (aside / "finished.json").exists()
    checkpoint = RunDir(str(run_dir)).latest_checkpoint()
    mark.unlink()
    result = sparkdl.fit(narrow, dataset, options, launch=ONE)
    assert Path(checkpoint).exists() and len(result.history) == 2
    assert sorted(path.name for path in run_dir.parent.iterdir() if path.is_dir()) == ["run"]
    # Finished, it is trained anew: "auto" would give it back.
    began = time.time()
    again = sparkdl.fit(narrow, dataset, options, launch=ONE)
    assert Path(again.model_dir, "signature.json").stat().st_mtime > began
    assert [r["loss"] for r in again.history] == pytest.approx([r["loss"] for r in result.history], rel=1e-6)
    assert sorted(path.name for path in run_dir.parent.iterdir() if path.is_dir()) == ["run"]


def test_only_a_run_is_replaced(dataset, tmp_path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(CheckpointError, match="already holds 'thesis.txt', and no run; choose another run_dir"):
        sparkdl.fit(cell(), dataset, config(tmp_path, resume="replace"), launch=ONE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_is_no_function_of_the_dataset_is_refused_on_the_driver(dataset, tmp_path) -> None:
    import keras

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)], name="mine")
    for given, message in (
        (model, "build_model=Sequential 'mine' is a model; give the function that makes and compiles it"),
        (lambda: model, r"build_model\(\) must take the dataset as its one argument \(too many positional"),
        (lambda ds, width: model, r"build_model\(ds, width\) must take the dataset as its one argument \(missing"),
    ):
        with pytest.raises(ConfigError, match=message):
            sparkdl.fit(given, dataset, config(tmp_path / "run"), launch=ONE)
    assert not (tmp_path / "run").exists()


def described(ds, builders):
    """Of each model the directions of its metrics, its own code and values, and its weights; in one rank."""
    import keras

    from sparkdl.train.checks.check_model import build
    from sparkdl.train.rank.built_model import example_of
    from sparkdl.train.rank.facts import callback_facts, metric_directions, model_facts, weight_facts

    found = {}
    for name, build_model in builders.items():
        keras.utils.set_random_seed(0)
        model = build_model(ds)
        build(model, example_of(ds))
        facts = model_facts(model)
        found[name] = (metric_directions(model), facts["code"], facts["values"], weight_facts(model))
    own = [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epoch + 1)]
    return found, callback_facts(own)


METRICS = """[top, keras.metrics.SensitivityAtSpecificity(0.5, name="sens"), keras.metrics.Recall(name="macro"),
        keras.metrics.CosineSimilarity(name="cos"), "accuracy", keras.losses.mean_absolute_error, own,
        keras.metrics.FalsePositives(name="fp")]"""


def test_directions_and_code_are_those_of_the_model(dataset) -> None:
    source = "def own(y, p):\n    return keras.ops.abs(keras.ops.cast(y, p.dtype) - p[:, 0])\n\n"
    own = ("def build_model", f"{source}def build_model")
    metrics = ('[top, "mae"]', METRICS.replace("\n", ""))
    loss = ('"binary_crossentropy"', "own")
    lambdas = ("Scaled()(", "keras.layers.Lambda(lambda v: 2 * v)(")
    held = "next(one for one in model.layers if isinstance(one, Scaled))"
    builders = {
        "metrics": cell(own, metrics),
        "own loss": cell(own, loss),
        "edited loss": cell((own[0], own[1].replace("abs(", "square(")), loss),
        "lambda": cell(lambdas),
        "edited lambda": cell((lambdas[0], lambdas[1].replace("2 *", "3 *"))),
        "moved lambda": cell((lambdas[0], "\\\n        " + lambdas[1])),
        "plain": cell(),
        "held": cell(("return model", f"{held}.factor = 2.0\n    return model")),
        "held array": cell(("return model", f"{held}.table = np.ones(2)\n    return model")),
        "first weights": cell(("return model", "model.layers[-1].bias.assign([9.5])\n    return model")),
        "another order": cell(("return model", "w = model.layers[-1].kernel\n    w.assign(w[::-1])\n    return model")),
    }
    ((found, (facts,)),) = sparkdl.run(described, dataset, builders, launch=ONE)
    up, down, unknown = "max", "min", None
    assert found["metrics"][0] == {
        "pr": up, "sens": up, "macro": up, "cos": up, "accuracy": up, "mean_absolute_error": down, "own": unknown,
        "fp": unknown, "loss": unknown,
    }  # fmt: skip
    code = {name: entry[1] for name, entry in found.items()}
    assert code["metrics"].keys() == {"Scaled", "own"} == code["own loss"].keys()
    assert code["own loss"] == code["metrics"] and code["own loss"]["own"] != code["edited loss"]["own"]
    assert code["lambda"].keys() == {"build_model.<lambda>"[12:]} and code["lambda"] != code["edited lambda"]
    assert code["lambda"] == code["moved lambda"]
    values = {name: entry[2] for name, entry in found.items()}
    assert values["plain"] == {} and values["held"] == {"Scaled": [{"factor": 2.0}]}
    assert values["held array"]["Scaled"][0]["table"].startswith("array ")
    weights = {name: entry[3] for name, entry in found.items()}
    assert weights["plain"] == weights["metrics"] and len(weights["plain"]) == 4
    changed = {name: [n for n in range(4) if weights[name][n] != weights["plain"][n]] for name in weights}
    assert changed["first weights"] == [3] and changed["another order"] == [2]
    assert facts["class"] == "LambdaCallback" and "<lambda> " in facts["config"]["on_epoch_end"]


PLAIN = ('Scaled()(keras.layers.Dense(4, "relu")(x))', 'keras.layers.Dense(4, "relu")(x)')


def test_trained_weights_of_another_vocabulary_or_order_are_refused(dataset, tmp_path) -> None:
    plain = sparkdl.fit(cell(PLAIN), dataset, config(tmp_path / "plain", epochs=1), launch=ONE)

    def start(run, build_model, dataset=dataset):
        options = config(tmp_path / run, epochs=1, initial_model=plain.model_dir)
        return sparkdl.fit(build_model, dataset, options, launch=ONE)

    job = next(encoder for encoder in dataset.encoders if encoder.name == "job")
    other = dataclasses.replace(job, vocabulary=job.vocabulary[::-1])
    encoders = tuple(other if encoder is job else encoder for encoder in dataset.encoders)
    with pytest.raises(sparkdl.ModelError, match=r"encoded otherwise: job.vocabulary\[0\] was 'clerk', is 'smith'"):
        start("words", cell(), dataclasses.replace(dataset, encoders=encoders))
    with pytest.raises(sparkdl.ModelError, match="variable 2 is 'pay/kernel' there and 'out/kernel' here; give its la"):
        start("names", cell(PLAIN, ('name="pay"', 'name="out"')))
    # Other numbers of Keras' own names are the same layers, and another optimizer is no other model.
    earlier = ("    x = keras.layers.Dense", "    keras.layers.Dense(1)\n    x = keras.layers.Dense")
    numbered = cell(PLAIN, earlier, ("SGD(0.1)", "SGD(0.0)"))
    assert start("numbers", numbered).history[0]["val_loss"] == pytest.approx(plain.history[-1]["val_loss"], rel=1e-6)


def test_nothing_hides_an_interrupted_best_model(dataset, run_dir, trained) -> None:
    with contextlib.suppress(FileNotFoundError):
        (run_dir / "best.json").unlink()  # as if the process had died while it wrote the model
    best = CheckpointConfig(monitor="val_pr")
    options = config(run_dir, callbacks=callbacks(STOP), checkpoint=best)
    assert sparkdl.fit(cell(), dataset, options, launch=ONE).best_model_dir is None
