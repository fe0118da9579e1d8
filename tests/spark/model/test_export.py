"""A SavedModel takes raw values and gives what scoring gives, where neither sparkdl nor Keras is."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

import sparkdl
from sparkdl import ConfigError, ModelError, SchemaError
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.image import ImageEncoder
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.data.features.text import TextEncoder, words
from sparkdl.features import Image

# Case that depends on language, place or version of Unicode; marks, digits, several scripts, emoji, line ends.
TEXTS = [
    "Don't STOP, 2 €!",
    "",
    "   ",
    "ΟΔΟΣ Σ ΣΑΣ ὈΔΥΣΣΕΎΣ",
    "İSTANBUL I ı i",
    "STRAẞE Straße STRASSE",
    "naïve nai\u0308ve Ａ１",
    "日本語、テキスト。 हिन्दी भाषा",
    "a_b __ _ 4²³ ½ Ⅷ",
    "👩‍👩‍👧 x👍y \ufeffbom",
    "line\nbreak\r\ntab\tnul\0end\u2028",
    "Ⱟ Ꟁ 𐕰 Ǆ ǅ",
    "one two three four five six seven eight nine ten",
]


def text_encoder(name: str, length: int, texts: list[str]) -> TextEncoder:
    """The encoder that knows every other word of these texts."""
    flat, _ = words(pa.array(texts), name=name, fill=None)
    return TextEncoder(name, tuple(sorted(set(flat.to_pylist()))[::2]), length, "x")


MULTI = (0.5, 250.0, -3.0)
ENCODERS = (
    NumericEncoder("age", (), "standardize", 40.3, 12.7, 1.0, 90.0, 39.5),
    NumericEncoder("size", (2,), "minmax", 1.0, 0.7, -1.0, 3.0, 1.25, True),
    NumericEncoder("steps", (2, 3), "standardize", MULTI, (80.0, 33.0, 0.0), MULTI, MULTI, (0.25, 300.0, -2.0)),
    NumericEncoder("plain", (), "none", 0.0, 1.0, 0.0, 1.0, None),
    CategoricalEncoder("job", ("cook", "Müller", "", " cook"), False),
    CategoricalEncoder("code", (7, -1, 1 << 40), False),
    text_encoder("note", 6, TEXTS),
    TensorEncoder("grid", (4,), (2, 2), np.dtype("float32")),
    TensorEncoder("ids", (), (), np.dtype("int64")),
    ImageEncoder("face", (2, 3, 1), "encoded", None),
)


def face(row: int) -> bytes:
    from PIL import Image as Pillow

    content = io.BytesIO()
    Pillow.frombytes("L", (3, 2), bytes(range(row, row + 6))).save(content, "PNG")
    return content.getvalue()


def raw_rows() -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """The same rows twice: as columns for scoring, and as arrays for the SavedModel, where NaN is null."""
    count = len(TEXTS)
    random = np.random.default_rng(5)
    numbers = random.normal(40, 30, (count, 9))
    numbers[1::4] = np.nan
    steps = random.normal(MULTI, (80, 33, 1), (count, 2, 3))
    steps[2, 1, 1] = steps[5, 0] = np.nan
    null = [[[None if np.isnan(x) else x for x in line] for line in row] for row in steps.tolist()]
    jobs = ["cook", "Müller", "", "COOK", " cook", "Mu\u0308ller"]
    arrays: dict[str, np.ndarray] = {
        "age": numbers[:, 0],
        "size": numbers[:, 1] / 30,
        "steps": steps,
        "plain": np.linspace(-1e6, 1e6, count),
        "job": np.array([jobs[row % len(jobs)] for row in range(count)]),
        "code": np.array([[7, -1, 0, 1 << 40][row % 4] for row in range(count)]),
        "note": np.array([text.encode() for text in TEXTS], object),
        "grid": random.normal(size=(count, 4)).astype(np.float32),
        "ids": np.arange(count) * 3,
        "face": np.array([range(row, row + 6) for row in range(count)], np.uint8).reshape(count, 2, 3, 1),
    }
    columns: dict[str, object] = {
        **{name: [None if np.isnan(x) else x for x in arrays[name].tolist()] for name in ("age", "size")},
        **{name: arrays[name].tolist() for name in ("plain", "job", "code", "grid", "ids")},
        "steps": null,
        "note": TEXTS,
        "face": [face(row) for row in range(count)],
    }
    return columns, arrays


def network():
    import keras

    layers = keras.layers
    inputs = {e.name: keras.Input(e.shape, name=e.name, dtype=e.dtype.name) for e in ENCODERS}
    parts = []
    for e in ENCODERS:
        if isinstance(e, (CategoricalEncoder, TextEncoder)):
            parts.append(layers.Flatten()(layers.Embedding(e.size, 3, name=f"embed_{e.name}")(inputs[e.name])))
        else:
            scaled = layers.Rescaling(1e-2 if e.name in ("face", "ids") else 1e-6 if e.name == "plain" else 1.0)
            parts.append(layers.Flatten()(layers.Reshape((-1,))(scaled(inputs[e.name]))))
    hidden = layers.Dropout(0.5)(layers.Dense(8, activation="tanh")(layers.Concatenate()(parts)))
    outputs = {"pay": layers.Dense(1, name="pay")(hidden), "grade": layers.Dense(3, name="grade")(hidden)}
    return keras.Model(inputs, outputs)


WITHOUT_SPARKDL = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
for hidden in ("sparkdl", "keras", "pyarrow"):
    sys.modules[hidden] = None
import numpy as np, tensorflow as tf

folder = sys.argv[1]
serve = tf.saved_model.load(folder + "/exported").signatures["serving_default"]
raw = dict(np.load(folder + "/raw.npz", allow_pickle=True))
found = serve(**{name: tf.constant(value) for name, value in raw.items()})
np.savez(folder + "/found.npz", **{name: value.numpy() for name, value in found.items()})
one = serve(**{name: tf.constant(value[3:4]) for name, value in raw.items()})
none = serve(**{name: tf.constant(value[:0]) for name, value in raw.items()})

def refused(**wrong):
    try:
        serve(**{**{name: tf.constant(value) for name, value in raw.items()}, **wrong})
    except tf.errors.InvalidArgumentError as error:
        return str(error)

rows = len(raw["age"])
print(json.dumps({
    "inputs": {k: [s.dtype.name, s.shape.as_list()] for k, s in serve.structured_input_signature[1].items()},
    "one": {name: value.numpy().tolist() for name, value in one.items()},
    "none": {name: value.shape.as_list() for name, value in none.items()},
    "refused": [
        refused(plain=tf.constant([np.nan] * rows, tf.float64)),
        refused(age=tf.constant([np.inf] * rows, tf.float64)),
        refused(plain=tf.constant([1e300] * rows, tf.float64)),
        refused(note=tf.constant([b"\\xff"] * rows)),
    ],
}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a model and its SavedModel, and what each gives for the same rows."""
    folder = tmp_path_factory.mktemp("export")
    sparkdl.save_model(network(), str(folder / "model"), inputs=ENCODERS)
    sparkdl.export_saved_model(str(folder / "model"), str(folder / "exported"))
    columns, arrays = raw_rows()
    np.savez(folder / "raw.npz", **arrays)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SPARKDL, str(folder)], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = sparkdl.load_model(str(folder / "model")).predict(columns)
    return folder, expected, json.loads(done.stdout)


def close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return ours.shape == theirs.shape and bool((np.abs(ours - theirs) <= 1e-6 + 1e-5 * np.abs(theirs)).all())


def test_serving_raw_values_equals_predict(exported) -> None:
    folder, expected, told = exported
    found = np.load(folder / "found.npz")
    assert sorted(found) == sorted(expected) == ["grade", "pay"]
    for name, values in expected.items():
        assert close(found[name], values) and len(np.unique(values.round(4), axis=0)) == len(TEXTS)
        assert close(np.array(told["one"][name], np.float32), values[3:4])
        assert told["none"][name] == [0, *values.shape[1:]]


def test_the_signature_has_a_tensor_for_each_column(exported) -> None:
    _, _, told = exported
    expected = {
        "age": ["float64", [None]],
        "size": ["float64", [None]],
        "steps": ["float64", [None, 2, 3]],
        "plain": ["float64", [None]],
        "job": ["string", [None]],
        "code": ["int64", [None]],
        "note": ["string", [None]],
        "grid": ["float32", [None, 4]],
        "ids": ["int64", [None]],
        "face": ["uint8", [None, 2, 3, 1]],
    }
    assert told["inputs"] == expected


def test_what_scoring_refuses_is_refused_there_by_name(exported) -> None:
    _, _, told = exported
    missing, infinite, large, damaged = told["refused"]
    assert "column plain: NaN without a policy" in missing
    assert "column age: infinite value" in infinite
    assert "column plain: value beyond the range of float32" in large
    assert "UTF-8" in damaged or "Invalid" in damaged


def test_every_character_counts_in_the_graph_as_it_does_in_arrow() -> None:
    import tensorflow as tf

    from sparkdl.model.graph_encoders import GraphEncoders

    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    # 64 of them a row: each for itself, then each between letters, where it parts words or does not.
    texts = [between.join(points[begin : begin + 64]) for between in " a" for begin in range(0, len(points), 64)]
    encoder = text_encoder("text", 80, texts)
    ours = encoder.encode(pa.array(texts))
    graph = tf.function(GraphEncoders((encoder,)).encode, autograph=False)
    found = graph({"text": tf.constant([text.encode() for text in texts])})["text"].numpy()
    assert (found == ours).all() and (ours > 1).sum() > 10_000 and (ours == 1).sum() > 10_000


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_text_in_the_graph_is_normalized_as_in_arrow_or_refused(form) -> None:
    """No text gets other ids than in scoring: it gets the same, or it fails."""
    import tensorflow as tf

    from sparkdl.model.graph_encoders import GraphEncoders

    def encoder_of(texts: list[str], length: int) -> TextEncoder:
        flat, _ = words(pa.array(texts), name="text", fill=None, normalize=form)
        return TextEncoder("text", tuple(sorted(set(flat.to_pylist()))[::2]), length, None, form)

    def same(texts: list[str], length: int) -> bool:
        """Tell whether the graph takes the texts; if it does, the ids must be those of the encoder."""
        encoder = encoder_of(texts, length)
        graph = tf.function(GraphEncoders((encoder,)).encode, autograph=False)
        try:
            found = graph({"text": tf.constant([text.encode() for text in texts])})["text"].numpy()
        except tf.errors.InvalidArgumentError as error:
            assert f"column text: text is not in the form {form}; normalize it before" in str(error)
            return False
        assert (found == encoder.encode(pa.array(texts))).all()
        return True

    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    # Spaces keep each character from its neighbours.
    assert same([" ".join(points[begin : begin + 64]) for begin in range(0, len(points), 64)], 80)
    assert same(["½ …\u00a0Ａ１ ﬁ 日本語 naïve 한국어", "", "x²"], 9)
    for joined in ("nai\u0308ve", "\u1112\u1161", "\ud558\u11ab", "a\u0301\u0323", "a\u0323\u0301"):
        assert not same(["plain", joined], 3)
    marks = [chr(c) for c in (0x300, 0x301, 0x323, 0x327, 0x338, 0x345, 0x5B0, 0x93C, 0x94D, 0x3099, 0x11A8, 0x1161)]
    letters = [*"aeo<=", *map(chr, (0x1100, 0xAC00, 0x928, 0x915, 0x3B1, 0x304B, 0xFF76, 0x1E9E, 0x212B))]
    random = np.random.default_rng(3)
    taken = 0
    for _ in range(15):
        texts = ["".join(random.choice([*letters, *marks], 4)) for _ in range(3)]
        taken += same(texts, 5)
    assert 0 < taken < 15


def test_what_a_tensor_cannot_hold_is_refused_by_name(tmp_path) -> None:
    from sparkdl.data.features.categories import CategoriesEncoder
    from sparkdl.model.graph_encoders import raw_spec

    for encoder, problem in (
        (CategoricalEncoder("c", ("a",), False, None, "category"), "its missing values are a category"),
        (CategoriesEncoder("c", ("a",), False, "multi_hot", None, "error"), "CategoriesEncoder cannot be put"),
        (TextEncoder("c", ("a",), 2, None, None, "jieba:lcut"), "its tokenizer jieba:lcut cannot be put"),
    ):
        with pytest.raises(ModelError, match=f"column 'c': .*{problem}"):
            raw_spec(encoder, name="c")


def test_a_label_as_an_input_refuses_what_it_does_not_know() -> None:
    import tensorflow as tf

    from sparkdl.model.graph_encoders import GraphEncoders

    graph = GraphEncoders((CategoricalEncoder("pay", ("high", "low"), True),))
    assert graph.encode({"pay": tf.constant(["low", "high"])})["pay"].numpy().tolist() == [1, 0]
    with pytest.raises(tf.errors.InvalidArgumentError, match="column pay: label is not among the classes kept"):
        graph.encode({"pay": tf.constant(["low", "middle"])})


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    """A model of two columns, one of which has a name that a SavedModel cannot have."""
    import keras

    inputs = {"größe": keras.Input((), name="größe"), "self": keras.Input((), name="self")}
    joined = keras.layers.Concatenate()([keras.layers.Reshape((1,))(value) for value in inputs.values()])
    folder = str(tmp_path_factory.mktemp("small") / "model")
    sparkdl.save_model(keras.Model(inputs, {"sum": keras.layers.Rescaling(1)(joined)}), folder, inputs=list(inputs))
    return folder


def test_names_that_a_saved_model_cannot_have_are_refused_or_replaced(small, tmp_path) -> None:
    import tensorflow as tf

    out = str(tmp_path / "out")
    with pytest.raises(ModelError, match="'größe' cannot be a name in a SavedModel .* names={'größe': …}"):
        sparkdl.export_saved_model(small, out)
    with pytest.raises(ModelError, match="'self' cannot be a name"):
        sparkdl.export_saved_model(small, out, names={"größe": "size"})
    with pytest.raises(ModelError, match="two columns or outputs would be named 'size'"):
        sparkdl.export_saved_model(small, out, names={"größe": "size", "self": "size"})
    problem = "names: 'grösse' is not a column or output of the model; did you mean 'größe'"
    with pytest.raises(ConfigError, match=problem):
        sparkdl.export_saved_model(small, out, names={"größe": "size", "self": "own", "grösse": "x"})
    assert os.listdir(tmp_path) == []
    sparkdl.export_saved_model(small, out, names={"größe": "size", "self": "own", "sum": "both"})
    serve = tf.saved_model.load(out).signatures["serving_default"]
    found = serve(size=tf.constant([1.0]), own=tf.constant([2.0]))
    assert found["both"].numpy().tolist() == [[1.0, 2.0]]


def test_a_folder_that_holds_something_and_a_missing_model_are_refused(small, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="out is not empty: it holds 'notes.txt'"):
        sparkdl.export_saved_model(small, str(tmp_path / "out"))
    with pytest.raises(ModelError, match="no model at .*nowhere"):
        sparkdl.export_saved_model(str(tmp_path / "nowhere"), str(tmp_path / "new"))
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_rows_that_scoring_refuses_are_those_that_serving_refuses(exported) -> None:
    folder, _, _ = exported
    columns, _ = raw_rows()
    loaded = sparkdl.load_model(str(folder / "model"))
    for name, wrong in (("plain", np.nan), ("age", np.inf), ("plain", 1e300)):
        with pytest.raises(SchemaError, match=f"column '{name}'"):
            loaded.predict({**columns, name: [wrong] * len(TEXTS)})


def test_layers_with_tables_and_random_states_are_exported(tmp_path) -> None:
    import keras
    import tensorflow as tf

    layers = keras.layers
    inputs = {"code": keras.Input((1,), dtype="int64", name="code"), "face": keras.Input((4, 4, 3), name="face")}
    looked_up = layers.Flatten()(layers.Embedding(5, 2)(layers.IntegerLookup(vocabulary=[3, 5, 9])(inputs["code"])))
    seen = layers.GlobalAveragePooling2D()(layers.RandomFlip()(layers.Rescaling(1 / 255)(inputs["face"])))
    model = keras.Model(inputs, {"both": layers.Concatenate(name="both")([looked_up, layers.Dropout(0.5)(seen)])})
    sparkdl.save_model(model, str(tmp_path / "m"), inputs=["code", Image("face", height=4, width=4)])
    sparkdl.export_saved_model(str(tmp_path / "m"), str(tmp_path / "out"))
    serve = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    codes = np.array([5, 4, 9])
    expected = model({"code": codes, "face": pixels}, training=False)["both"].numpy()
    assert close(serve(code=tf.constant(codes), face=tf.constant(pixels))["both"].numpy(), expected)
