"""Every metric of Keras is known: its state is a sum over rows, or it is refused with a reason."""

import sparkdl
from groups import local_group


def differences(seed: int) -> tuple[dict[str, float], dict[str, str]]:
    """By metric: how far the summed states of three uneven parts are from that of all rows; and what is refused.

    Runs in a rank: it needs Keras.
    """
    import keras
    import numpy as np

    from sparkdl.train.exact.state.metrics import inexact_metrics

    keras.config.set_floatx("float64")
    rng = np.random.default_rng(seed)
    rows, classes = 40, 3
    chances = rng.uniform(0.01, 1, (rows, classes)).astype(np.float32)  # InTopK takes no other
    one_hot = np.eye(classes)[rng.integers(0, classes, rows)]
    codes = one_hot.argmax(1)
    kinds = {
        "classes": (codes, chances / chances.sum(1, keepdims=True)),
        "labels": (one_hot, chances / chances.sum(1, keepdims=True)),
        "numbers": (rng.uniform(0.1, 2, (rows, classes)), chances),
        "yes or no": (rng.integers(0, 2, (rows, 1)), chances[:, :1]),
        "codes": (codes, rng.integers(0, classes, rows)),
        "values": (chances[:, 0],),
    }
    metrics = keras.metrics
    arguments = {
        "IoU": {"num_classes": classes, "target_class_ids": [0, 2]},
        "MeanIoU": {"num_classes": classes},
        "OneHotIoU": {"num_classes": classes, "target_class_ids": [0]},
        "OneHotMeanIoU": {"num_classes": classes},
        "BinaryIoU": {"target_class_ids": [0, 1]},
        "SensitivityAtSpecificity": {"specificity": 0.4},
        "SpecificityAtSensitivity": {"sensitivity": 0.4},
        "PrecisionAtRecall": {"recall": 0.4},
        "RecallAtPrecision": {"precision": 0.4},
        "MeanMetricWrapper": {"fn": keras.losses.mean_squared_error},
        "TopKCategoricalAccuracy": {"k": 2},
        "SparseTopKCategoricalAccuracy": {"k": 2},
        "F1Score": {"average": "macro"},
        "FBetaScore": {"beta": 2.0},
    }
    feeds = {
        **dict.fromkeys(("Mean", "Sum"), "values"),
        **dict.fromkeys(("IoU", "MeanIoU", "Accuracy"), "codes"),
        **dict.fromkeys(("OneHotIoU", "OneHotMeanIoU", "F1Score", "FBetaScore"), "labels"),
        **dict.fromkeys(("CategoricalAccuracy", "CategoricalCrossentropy", "TopKCategoricalAccuracy"), "labels"),
        **dict.fromkeys(
            ("SparseCategoricalAccuracy", "SparseCategoricalCrossentropy", "SparseTopKCategoricalAccuracy"), "classes"
        ),
        **{
            name: "numbers"
            for name in dir(metrics)
            if name.startswith(("Mean", "R2", "Root", "Log", "Cosine", "KL", "Poisson", "Pearson", "Concordance"))
            and name not in ("Mean", "MeanIoU")
        },
    }
    found: dict[str, float] = {}
    refused: dict[str, str] = {}
    for name in sorted(dir(metrics)):
        kind = getattr(metrics, name)
        if not isinstance(kind, type) or kind is metrics.Metric:
            continue
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        model.probed = kind(**arguments.get(name, {}))
        inexact, _ = inexact_metrics(model)
        if inexact:
            refused[name] = str(inexact[0])
            continue
        feed = kinds[feeds.get(name, "yes or no")]
        weights = rng.uniform(0.5, 2, rows)

        def state(start, stop, feed=feed, kind=kind, name=name, weights=weights):
            metric = kind(**arguments.get(name, {}))
            metric.update_state(*(values[start:stop] for values in feed), sample_weight=weights[start:stop])
            return [np.asarray(keras.ops.convert_to_numpy(v), np.float64) for v in metric.variables]

        parts = [state(0, 3), state(3, 4), state(4, rows)]
        found[name] = max(
            float(np.max(np.abs(whole - sum(part[place] for part in parts)), initial=0.0))
            for place, whole in enumerate(state(0, rows))
        )
    return found, refused


def test_the_states_of_parts_add_up_to_that_of_all_rows_or_the_metric_is_refused() -> None:
    ((found, refused),) = sparkdl.run(differences, 3, launch=local_group(1))
    assert len(found) > 40 and {"AUC", "F1Score", "R2Score", "MeanIoU", "Precision", "Mean"} <= found.keys()
    assert {name: value for name, value in found.items() if value > 1e-5} == {}
    assert refused.keys() == {"PearsonCorrelation", "ConcordanceCorrelation"}
    assert all("mean of the correlations of batches" in reason for reason in refused.values())
