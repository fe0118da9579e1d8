"""The report of a run: a page that is well-formed, closed to the network, and says what was recorded."""

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkdl import CheckpointConfig, LaunchConfig, TrainConfig
from sparkdl.train.report.charts import line_chart, number, stacked_bars, ticks
from sparkdl.train.report.page import render
from sparkdl.train.report.write import config_facts
from sparkdl.train.run.record import Recorded, scalars

NAN, INF = math.nan, math.inf
HOSTILE = '<script>alert("x")</script>&amp;\' onload=\x00\udc80]]>'


class WellFormed(HTMLParser):
    """Counts tags, collects text and attributes, and fails on a tag that is closed out of turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words += data


def drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def recorded(epochs=5, ranks=2, metrics=("accuracy",), *, validation=True, host="host-a", special=()) -> Recorded:
    """Made-up figures; `special` takes the place of the first losses."""
    run = Recorded(environment={"TensorFlow": "2.18.1"})
    for epoch in range(epochs):
        names = ["loss", *metrics]
        names += [f"val_{name}" for name in names] if validation else []
        figures = {name: 1.0 / (epoch + 1 + place) for place, name in enumerate(names)}
        if epoch < len(special):
            figures["loss"] = special[epoch]
        times = {"seconds": 2.0, "rows_per_second": 41_234.0, "data_wait_seconds": 0.25, "allreduce_share": 0.125}
        run.history.append({"epoch": epoch, **figures, "lr": 0.001, **times, "gradient_norm": 3.0})
        of_ranks = {"rows": [1000] * ranks, "seconds": [2.0] * ranks, "data_wait_seconds": [0.25] * ranks}
        of_ranks |= {"allreduce_seconds": [0.25] * ranks, "hosts": [host] * ranks}
        run.ranks.append({"epoch": epoch, "first_step": 0, **of_ranks})
    return run


def page_of(run: Recorded, **options) -> str:
    given = {"run_dir": "/runs/one", "outcome": "Finished.", "written": "now", "facts": {"Launch": {"log": "rank0"}}}
    return render(run, **{**given, **options})


CASES = {
    "usual": {},
    "one epoch without validation": {"epochs": 1, "validation": False},
    "no metrics": {"metrics": ()},
    "64 ranks": {"ranks": 64},
    "300 epochs": {"epochs": 300},
    "not numbers": {"special": (NAN, INF, -INF, 1.0, NAN)},
    "nothing finite": {"epochs": 2, "special": (NAN, INF)},
    "too large": {"special": (1e308, -1e308, 1e299)},
    "too small": {"special": (5e-324, 0.0, 5e-324, -5e-324, 0.0)},
    "constant": {"special": (7.0,) * 5},
    "hardly different": {"special": (1.0, 1.0 + 2e-16, 1.0, 1.0, 1.0)},
    "hostile": {"metrics": (HOSTILE,), "host": HOSTILE},
}


@pytest.mark.parametrize("case", CASES)
def test_a_page_is_well_formed_and_asks_the_network_for_nothing(case) -> None:
    page = page_of(recorded(**CASES[case]), run_dir=HOSTILE, facts={HOSTILE: {HOSTILE: HOSTILE}})
    parsed = WellFormed(page)
    assert drawings(page) and page.encode()
    assert {"script", "link", "img", "iframe", "a"}.isdisjoint(parsed.tags)
    assert not re.search(r"https?:|url\(|@import", page)
    assert not {"src", "href", "style", "onload"} & {name for name, _ in parsed.attributes}
    for svg in drawings(page):
        for line in svg.iter("polyline"):
            assert all(math.isfinite(float(part)) for part in re.split("[ ,]", line.attrib["points"]))


def test_a_page_says_what_was_recorded_and_how_it_ended() -> None:
    words = WellFormed(page_of(recorded(epochs=3), outcome="Ended by a failure.")).words
    for part in (
        "/runs/one",
        "Ended by a failure.",
        "now",
        "accuracy",
        "41,234",
        "host-a",
        "log",
        "rank0",
        "3,000 rows",
    ):
        assert part in words
    assert (
        HOSTILE.replace("\x00", "\ufffd").replace("\udc80", "\ufffd")
        in WellFormed(page_of(recorded(), run_dir=HOSTILE)).words
    )


@pytest.mark.parametrize(("metrics", "validation"), [(0, True), (1, True), (9, False)])
def test_every_metric_has_a_chart_in_which_validation_lies_over_training(metrics, validation) -> None:
    page = page_of(recorded(metrics=[f"m{n}" for n in range(metrics)], validation=validation))
    charts = {svg.attrib["aria-label"]: svg for svg in drawings(page)}
    for name in ("loss", *(f"m{n}" for n in range(metrics))):
        curves = {line.attrib["class"] for line in charts[f"{name} by epoch"].iter("polyline")}
        assert curves == {"line c0", *(["line c1"] if validation else [])}


def test_many_metrics_are_charted_up_to_a_number_and_all_are_in_the_table() -> None:
    parsed = WellFormed(page_of(recorded(metrics=[f"metric{n}" for n in range(40)])))
    assert "and 17 more, in the table" in parsed.words and "metric39" in parsed.words
    assert parsed.tags["svg"] == 24 + 4 + 1


def test_each_rank_has_a_bar_of_what_it_did() -> None:
    run = recorded(ranks=64)
    # An epoch on another number of ranks does not count.
    run.ranks[0] = {name: value[:3] if isinstance(value, list) else value for name, value in run.ranks[0].items()}
    page = page_of(run)
    (bars,) = [svg for svg in drawings(page) if svg.attrib["aria-label"] == "Seconds of each rank"]
    assert len(list(bars.iter("rect"))) == 64 * 3
    assert bars.find("rect/title").text == "0 host-a, computing: 6 s"
    assert "Seconds of 4 epochs on 64 ranks" in page and "4,000 rows" in page


def test_what_is_no_number_leaves_a_gap_and_stays_inside() -> None:
    values = [4.0, 3.0, NAN, 1.0, None, INF, 2.0]
    svg = ElementTree.fromstring(line_chart({"loss": values}, range(1, 8), title="t", zero=False))
    lines = [[tuple(map(float, p.split(","))) for p in line.attrib["points"].split()] for line in svg.iter("polyline")]
    assert [len(line) for line in lines] == [2, 1, 1]
    (x4, y4), (x3, y3), (x1, y1), (x2, y2) = [point for line in lines for point in line]
    assert 0 < x4 < x3 < x1 < x2 < 420 and 0 < y4 < y3 < y2 < y1 < 220
    assert [title.text for title in svg.iter("title")] == [
        f"loss, epoch {e}: {v}" for e, v in ((1, 4), (2, 3), (4, 1), (7, 2))
    ]


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    svg = ElementTree.fromstring(stacked_bars([("a", "", (1.0, 2.0)), ("b", "", (0.0, 0.0))], names="xy", title="t"))
    widths = [float(bar.attrib["width"]) for bar in svg.iter("rect")]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.1) and widths[0] > 0 and widths[2:] == [0, 0]
    ElementTree.fromstring(stacked_bars([("a", "", (0.0,))], names="x", title="t"))


@given(st.floats(-1e300, 1e300), st.floats(1e-8, 1e3), st.booleans())
def test_ticks_are_few_and_lie_within_the_axis(low, relative, whole) -> None:
    # An axis is never shorter than this beside its values: line_chart gives it room.
    high = low + max(abs(low), 1e-200) * relative
    if whole and high < low + 2:
        high = low + 2 if abs(low) < 1e15 else 2 * abs(low)
    found = ticks(low, high, whole=whole)
    assert 2 <= len(found) <= 6 and found == sorted(set(found))
    room = (high - low) * 1e-6
    assert low - room <= found[0] and found[-1] <= high + room
    if whole:
        assert all(tick == round(tick) for tick in found)


@pytest.mark.parametrize(
    ("value", "said"),
    [(41234.4, "41,234"), (0.43121, "0.4312"), (3, "3"), (NAN, "nan"), (-INF, "-inf"), (1e12, "1e+12")],
)
def test_numbers_are_short(value, said) -> None:
    assert number(value) == said


def test_a_metric_of_classes_is_several_numbers() -> None:
    record = {"epoch": 3, "loss": 1, "f1": [0.5, [0.25]]}
    assert scalars(record) == {"loss": 1.0, "f1/0": 0.5, "f1/1/0": 0.25}


def make_callbacks():
    return []


def test_configurations_are_told_without_the_values_of_environment_variables() -> None:
    config = TrainConfig(
        run_dir="r",
        epochs=2,
        global_batch_size=8,
        callbacks=make_callbacks,
        checkpoint=CheckpointConfig(keep=7),
        class_weight=dict.fromkeys(range(500), 1.0),
    )
    facts = config_facts(config)
    assert facts["checkpoint.keep"] == "7" and facts["callbacks"].endswith(".make_callbacks")
    assert facts["initial_model"] == "none" and len(facts["class_weight"]) <= 80
    launch = config_facts(LaunchConfig(num_workers=2, env={"TOKEN": "hush-hush"}))
    assert launch["env"] == "TOKEN (values are not shown)" and "hush" not in str(launch)
    assert config_facts(LaunchConfig(num_workers=2))["env"] == "none"


def test_the_curve_of_a_validation_goes_on_over_epochs_without_one() -> None:
    run = recorded(epochs=7)
    for record in run.history:
        if record["epoch"] not in (2, 5):
            del record["val_loss"], record["val_accuracy"]
    parsed = WellFormed(page := page_of(run))
    (chart,) = [svg for svg in drawings(page) if svg.attrib["aria-label"] == "loss by epoch"]
    curves = {line.attrib["class"]: line.attrib["points"].split() for line in chart.iter("polyline")}
    assert [len(points) for points in curves.values()] == [7, 2]
    assert "validation 0.125" in parsed.words  # 1 / (6 + 2), of epoch 6
