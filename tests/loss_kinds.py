"""Losses and metrics of Keras and of the kinds that people write, each with the form that it has."""

import numpy as np

ROWS = 64


def loss_kinds() -> dict:
    """By name: the form ("rows", "mean" or "batch"), the function, labels, predictions, and whether it has scales."""
    import keras
    import tensorflow as tf

    ops, losses = keras.ops, keras.losses
    rng = np.random.default_rng(0)
    numbers, guesses = rng.normal(size=(ROWS, 1)), rng.normal(size=(ROWS, 1))
    yes_no = (rng.uniform(size=(ROWS, 1)) < 0.3) * 1.0
    no = np.zeros((ROWS, 1))
    chances, halves = rng.uniform(0.01, 0.99, (ROWS, 1)), np.full((ROWS, 1), 0.5)
    codes = rng.integers(0, 5, ROWS)
    one_hot = np.eye(5)[codes]
    soft = np.exp(rng.normal(size=(ROWS, 5)))
    soft /= soft.sum(axis=1, keepdims=True)
    masks = (rng.uniform(size=(ROWS, 8, 8, 1)) < 0.3) * 1.0
    mask_chances, same_chances = rng.uniform(0.01, 0.99, masks.shape), np.full(masks.shape, 0.5)
    vectors = rng.normal(size=(ROWS, 8))
    letters = rng.uniform(size=(ROWS, 12, 6))
    letters /= letters.sum(axis=-1, keepdims=True)
    words = rng.integers(1, 5, (ROWS, 4))

    def focal(y, p):
        right = ops.where(ops.equal(y, 1), p, 1 - p)
        return ops.mean(-ops.power(1 - right, 2.0) * ops.log(ops.clip(right, 1e-7, 1)), -1)

    def contrastive(y, p):
        return ops.mean(y * ops.square(p) + (1 - y) * ops.square(ops.maximum(1 - p, 0)), -1)

    def f_beta(y, p):
        hits = ops.sum(y * p)
        return 1 - 1.25 * hits / (1.25 * hits + ops.sum(p * (1 - y)) + 0.25 * ops.sum(y * (1 - p)) + 1e-7)

    def hardest(y, p):
        y = ops.reshape(y, (-1,))
        distances = ops.sum(ops.square(p[:, None] - p[None]), -1)
        alike = ops.cast(ops.equal(y[:, None], y[None]), distances.dtype)
        return ops.maximum(ops.max(distances * alike, 1) - ops.min(distances + 1e9 * alike, 1) + 1.0, 0.0)

    def in_batch_negatives(y, p):
        return losses.sparse_categorical_crossentropy(
            ops.arange(ops.shape(p)[0]), ops.matmul(p, ops.transpose(p)), from_logits=True
        )

    def ranking(y, p):
        y, p = ops.reshape(y, (-1,)), ops.reshape(p, (-1,))
        return ops.mean(ops.softplus(-(p[:, None] - p[None]) * ops.sign(y[:, None] - y[None])))

    def correlation(y, p):
        y, p = y - ops.mean(y), p - ops.mean(p)
        return 1 - ops.sum(y * p) / (ops.sqrt(ops.sum(y * y) * ops.sum(p * p)) + 1e-7)

    def class_balanced(t, p):
        y = ops.reshape(ops.cast(t, "float32"), (-1,))
        each = losses.binary_crossentropy(y[:, None], p)
        positives = ops.sum(y * each) / ops.maximum(ops.sum(y), 1.0)
        return positives + ops.sum((1 - y) * each) / ops.maximum(ops.sum(1 - y), 1.0)

    def valid_mean(y, p):
        valid = ops.cast(y >= 0, p.dtype)
        return ops.sum(valid * ops.square(y - p)) / ops.maximum(ops.sum(valid), 1)

    def in_floats(y, p):
        return tf.reduce_mean(tf.square(tf.cast(y, tf.float32) - tf.cast(p, tf.float32)))

    def quantile(y, p):
        return ops.mean(ops.maximum(0.9 * (y - p), -0.1 * (y - p)), -1)

    def own_cosine(y, p):
        return -ops.sum(ops.normalize(y, axis=-1) * ops.normalize(p, axis=-1), axis=-1)

    scaled, plain = True, False
    kinds = {
        "mean of squares": ("mean", lambda y, p: ops.mean(ops.square(y - p)), numbers, guesses, scaled),
        "mean of products": ("mean", lambda y, p: ops.mean(y * p), np.sign(numbers), guesses, scaled),
        "mean in float32": ("mean", in_floats, numbers, guesses, plain),
        "quantile": ("rows", quantile, numbers, guesses, scaled),
        "focal": ("rows", focal, yes_no, chances, plain),
        "contrastive": ("rows", contrastive, yes_no, np.abs(guesses), plain),
        "cosine": ("rows", own_cosine, vectors, vectors[::-1].copy(), scaled),
        "masked rows": ("rows", lambda y, p: ops.where(y >= 0, ops.square(y - p), 0), numbers, guesses, scaled),
        "weighted rows": (
            "rows",
            lambda y, p: ops.where(y > 0.5, 5.0, 1.0)[:, 0] * losses.binary_crossentropy(y, p),
            yes_no,
            chances,
            plain,
        ),
        "root mean square": (
            "batch",
            lambda y, p: ops.sqrt(ops.mean(ops.square(y - p))),
            numbers,
            guesses,
            scaled,
        ),
        "sum of squares": ("batch", lambda y, p: ops.sum(ops.square(y - p)), numbers, guesses, scaled),
        "largest error": ("batch", lambda y, p: ops.max(ops.abs(y - p)), numbers, guesses, scaled),
        "percentile": ("batch", lambda y, p: ops.quantile(ops.abs(y - p), 0.9), numbers, guesses, scaled),
        "R2": (
            "batch",
            lambda y, p: ops.sum(ops.square(y - p)) / (ops.sum(ops.square(y - ops.mean(y))) + 1e-12),
            numbers,
            guesses,
            scaled,
        ),
        "correlation": ("batch", correlation, numbers, guesses, plain),
        "correlation of equal predictions": ("batch", correlation, numbers, no, plain),
        "variance beside it": (
            "batch",
            lambda y, p: losses.mean_squared_error(y, p) + 1e-3 * ops.var(p),
            numbers,
            guesses,
            scaled,
        ),
        "ranking": ("batch", ranking, numbers, guesses, plain),
        "f-beta": ("batch", f_beta, yes_no, chances, plain),
        "hardest triplets": ("batch", hardest, codes, vectors, plain),
        "mean of hardest triplets": ("batch", lambda y, p: ops.mean(hardest(y, p)), codes, vectors, plain),
        "in-batch negatives": ("batch", in_batch_negatives, codes, vectors, plain),
        "class-balanced": ("batch", class_balanced, yes_no, chances, plain),
        "class-balanced, one class seen": ("batch", class_balanced, no, halves, plain),
        "valid mean": ("batch", valid_mean, numbers, guesses, scaled),
        "boolean mask": (
            "batch",
            lambda y, p: tf.boolean_mask(tf.square(tf.cast(y, p.dtype) - p), tf.cast(y, tf.float32) > 0),
            numbers,
            guesses,
            plain,
        ),
        "Dice": ("batch", losses.Dice().call, masks, mask_chances, plain),
        "Dice, equal predictions": ("batch", losses.Dice().call, masks, same_chances, plain),
        "Dice by row": ("rows", losses.Dice(axis=(1, 2, 3)).call, masks, mask_chances, plain),
        "Tversky": ("batch", losses.Tversky().call, masks, mask_chances, plain),
        "Tversky by row": ("rows", losses.Tversky(axis=(1, 2, 3)).call, masks, mask_chances, plain),
        "Circle": ("batch", losses.Circle().call, codes, vectors, plain),
        "CategoricalGeneralizedCrossEntropy": (
            "rows",
            losses.CategoricalGeneralizedCrossEntropy().call,
            codes,
            soft,
            plain,
        ),
    }
    pairs = {
        "BinaryCrossentropy": (yes_no, chances),
        "BinaryFocalCrossentropy": (yes_no, chances),
        "CategoricalCrossentropy": (one_hot, soft),
        "CategoricalFocalCrossentropy": (one_hot, soft),
        "CategoricalHinge": (one_hot, soft),
        "CosineSimilarity": (vectors, vectors[::-1].copy()),
        "CTC": (words, letters),
        "Hinge": (np.sign(numbers), guesses),
        "Huber": (numbers, guesses),
        "KLDivergence": (soft[::-1].copy(), soft),
        "LogCosh": (numbers, guesses),
        "MeanAbsoluteError": (numbers, guesses),
        "MeanAbsolutePercentageError": (numbers, guesses),
        "MeanSquaredError": (numbers, guesses),
        "MeanSquaredLogarithmicError": (np.abs(numbers), np.abs(guesses)),
        "Poisson": (np.abs(np.round(numbers * 3)), np.abs(guesses)),
        "SparseCategoricalCrossentropy": (codes, soft),
        "SquaredHinge": (np.sign(numbers), guesses),
    }
    for name, (y, p) in pairs.items():
        kinds[name] = ("rows", getattr(losses, name)().call, y, p, plain)
    return kinds


def wrong_forms(*, orders: int, scales: tuple[float, ...], dtypes: tuple[str, ...], slow: bool = True) -> list[str]:
    """The losses whose form is not found for some order of rows, scale of numbers or dtype of predictions.

    Runs in a rank; each rank tries other orders. CTC is left out unless `slow`.
    """
    import tensorflow as tf

    import sparkdl
    from sparkdl.train.exactness.find import _form
    from sparkdl.train.exactness.functions import Pair, TriedFunction

    wrong = []
    for name, (form, function, y, p, has_scales) in loss_kinds().items():
        for scale in scales if has_scales else (1.0,):
            for dtype in dtypes:
                if scale != 1.0 and dtype == "float16":
                    continue  # the numbers themselves do not fit
                for order in range(1 if name == "CTC" else orders):
                    rows = np.random.default_rng((order, sparkdl.world().rank)).permutation(ROWS)
                    if name == "CTC" and not slow:
                        continue
                    labels = y[rows] if y.dtype.kind == "i" else (y[rows] * scale).astype(dtype)
                    given = tf.constant((p[rows] * scale).astype(dtype))
                    found = _form(TriedFunction(name, function), Pair(tf.constant(labels), given, False))
                    if found.kind != form:
                        wrong.append(f"{name} ({dtype}, scale {scale:g}, order {order}): {found}")
    return wrong
