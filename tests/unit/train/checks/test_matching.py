"""Which layers of a new model take the weights of a trained one's."""

import pytest

from sparkdl.train.checks.matching import LayerEntry, match_layers

AGE, JOB = ("feature", "age"), ("feature", "job")
PAY = 'label \'pay\' (classes ["low", "high"])'


def layer(key, *, shape=(2, 3), sources=(), outputs=(), state=None):
    variables = () if state else (("kernel", shape, "float32"),)
    return LayerEntry(key=key, path=key, variables=variables, sources=sources, outputs=outputs, state=state)


def matched(old, new, *, features=None, learned=({"pay": PAY}, {"pay": PAY})):
    return match_layers(old, new, features=features or {}, learned=learned)


OLD = [layer("first", sources=(AGE, JOB)), layer("middle"), layer("head", outputs=("pay",))]


def test_the_same_layers_match_all() -> None:
    found = matched(OLD, OLD)
    assert found.loaded == ["first", "middle", "head"] and not found.not_loaded and not found.unused


@pytest.mark.parametrize(
    ("new", "options", "reasons"),
    [
        ([layer("first", sources=(AGE, JOB)), layer("other")], {}, {"other": "no layer there has its name"}),
        ([layer("middle", shape=(2, 4)), layer("first", sources=(AGE, JOB))], {},
         {"middle": "its kernel has shape (2, 3) there and (2, 4) here"}),
        # Features by their order, names and encoders, for the layer that takes them alone.
        ([layer("first", sources=(JOB, AGE)), layer("middle")], {},
         {"first": "it takes the features age, job there and job, age here"}),
        ([layer("first", sources=(AGE,)), layer("middle")], {},
         {"first": "it takes the features age, job there and age here"}),
        ([layer("first", sources=(AGE, JOB)), layer("middle")], {"features": {"job": "job.vocabulary[0] was 'a'"}},
         {"first": "feature 'job' is encoded otherwise: job.vocabulary[0] was 'a'"}),
        ([layer("first", sources=(AGE, JOB)), layer("middle")], {"features": {"note": "it is not here"}}, {}),
        # Labels for the layer that gives their output alone.
        ([layer("middle"), layer("head", outputs=("pay",))], {"learned": ({"pay": PAY}, {"pay": "label 'tax'"})},
         {"head": f"it gives label 'tax' here and {PAY} there"}),
        ([layer("middle", outputs=("pay",))], {},
         {"middle": f"it gives {PAY} here and no output there"}),
        ([layer("middle"), layer("head")], {"learned": ({"pay": PAY}, {})}, {}),
    ],
)  # fmt: skip
def test_a_layer_takes_weights_where_what_it_depends_on_is_the_same(new, options, reasons) -> None:
    found = matched(OLD, [*new, layer("middle")] if "middle" not in [n.key for n in new] else new, **options)
    assert found.not_loaded == reasons
    assert {*found.loaded} == {n.key for n in new} - {*reasons} | ({"middle"} - {*reasons})


def test_a_layer_behind_a_vocabulary_takes_weights_with_that_vocabulary_alone() -> None:
    known, other = layer("known", state=("IntegerLookup", "")), layer("known", state=("IntegerLookup", "7"))
    embedded = layer("embedded", sources=(AGE, ("state", "known")))
    assert matched([known, embedded], [embedded, known]).loaded == ["embedded", "known"]
    found = matched([known, embedded], [embedded, other, layer("middle")])
    assert found.not_loaded["known"] == "it is IntegerLookup of size any there and IntegerLookup of size 7 here"
    assert found.not_loaded["embedded"] == "layer 'known' before it does not take its state"
    without = layer("embedded", sources=(AGE,))
    assert matched([without], [known, embedded]).not_loaded["embedded"].startswith("layer 'known'")
    assert matched([known, embedded], [without]).not_loaded["embedded"] == "other layers with a state lie before it"


def test_a_name_alone_matches_where_the_user_gave_it_and_it_is_there_once() -> None:
    assert matched([layer("base/wide")], [layer("wide")]).pairs == {"wide": "base/wide"}
    assert matched([layer("wide")], [layer("outer/base/wide")]).pairs == {"outer/base/wide": "wide"}
    assert not matched([layer("base/dense#0")], [layer("dense#0")]).pairs
    assert not matched([layer("a/wide"), layer("b/wide")], [layer("wide")]).pairs
    assert matched([layer("a/wide"), layer("b/wide")], [layer("b/wide")]).unused == ["a/wide"]
