"""Render the report of a run as one HTML page that needs no network, from the template `page.html.j2`.

Runs on the driver, when a run has ended. User values are escaped; the page's policy forbids scripts and requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from statistics import median
from typing import Any

from sparkdl.progress import FIGURES
from sparkdl.train.report.charts import as_xml, line_chart, number, stacked_bars
from sparkdl.train.run.record import Recorded, scalars

__all__ = ["render"]

# The most charts of metrics; the table has all metrics.
MAX_CHARTS = 24
PARTS = ("computing", "waiting for data", "reducing gradients")


def render(
    recorded: Recorded, *, run_dir: str, outcome: str, written: str, facts: Mapping[str, Mapping[str, str]]
) -> str:
    """Render the page.

    Args:
        recorded: the record of the run, with at least one epoch.
        run_dir: the run's folder, which is the title.
        outcome: a sentence that says how the run ended.
        written: the time of writing, as text.
        facts: tables of two columns by their headings: configuration, dataset, environment.
    """
    history = [{"epoch": record["epoch"] + 1, **scalars(record)} for record in recorded.history]
    names = list(dict.fromkeys(name for record in history for name in record))
    metrics = list(dict.fromkeys(name.removeprefix("val_") for name in names if name not in FIGURES))
    return _rendered(
        run_dir=run_dir,
        outcome=outcome,
        written=written,
        per_worker=", ".join(dict.fromkeys(n for record in recorded.history for n in record.get("per_worker", ()))),
        tiles=_tiles(history, recorded.ranks),
        metrics=[_card(n, {"training": n, "validation": f"val_{n}"}, history) for n in metrics[:MAX_CHARTS]],
        left_out=len(metrics) - MAX_CHARTS,
        speed=_speed(history),
        ranks=_ranks(recorded.ranks),
        parts=PARTS,
        names=names,
        history=history,
        facts=facts,
    )


def _rendered(**values: Any) -> str:
    """Fill the template; strings are escaped, except those that are marked as safe."""
    from jinja2 import Environment, StrictUndefined  # not at the top: importing sparkdl does not load it

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: as_xml(value) if type(value) is str else value,
    )
    environment.filters["number"] = number
    # A package in an archive (--py-files) has resources, not files.
    template = resources.files("sparkdl.train.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(values)


def _safe(markup: str) -> str:
    """Mark a drawing as escaped already."""
    from markupsafe import Markup

    return Markup(markup)


def _tiles(history: Sequence[Mapping[str, float]], ranks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    tiles = {"epochs": f"{history[-1]['epoch']:.0f}", "ranks": str(len(ranks[-1]["rows"]))}
    tiles |= {name: number(column[-1]) for name in ("loss", "val_loss") if (column := _column(history, name))}
    tiles["rows per second, median"] = number(median(_column(history, "rows_per_second")))
    tiles["seconds of training"] = number(sum(_column(history, "seconds")))
    return tiles


def _column(history: Iterable[Mapping[str, float]], name: str) -> list[float]:
    return [record[name] for record in history if name in record]


def _speed(history: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    shares = [
        {
            "epoch": record["epoch"],
            "wait": 100 * record["data_wait_seconds"] / max(record["seconds"], 1e-9),
            "reduction": 100 * record["allreduce_share"],
        }
        for record in history
    ]
    share = {"reducing gradients": "reduction", "waiting for data": "wait"}
    return [
        _card("Rows per second", {"rows per second": "rows_per_second"}, history, zero=True),
        _card("Share of an epoch, %", share, shares, zero=True),
        _card("Gradient norm", {"mean over steps": "gradient_norm"}, history),
        _card("Learning rate", {"at the end of the epoch": "lr"}, history),
    ]


def _card(
    title: str, curves: Mapping[str, str], history: Sequence[Mapping[str, float]], *, zero: bool = False
) -> dict[str, Any]:
    """Draw a chart of columns of the history, with their last values; `curves`: the columns by their labels."""
    values = {name: [record.get(column) for record in history] for name, column in curves.items()}
    legend = [
        {"curve": curve, "name": name, "value": column[-1]}
        for curve, name in enumerate(curves)
        if (column := _column(history, curves[name]))
    ]
    epochs = [int(record["epoch"]) for record in history]
    svg = line_chart(values, epochs, title=f"{title} by epoch", zero=zero)
    return {"title": title, "legend": legend, "svg": _safe(svg)}


def _ranks(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Draw how evenly the ranks worked, over all epochs that had as many ranks as the last epoch."""
    size = len(ranks[-1]["rows"])
    alike = [epoch for epoch in ranks if len(epoch["rows"]) == size]
    columns = {
        name: [sum(epoch[name][rank] for epoch in alike) for rank in range(size)]
        for name in ("rows", "seconds", "data_wait_seconds", "allreduce_seconds")
    }
    bars, lines = [], []
    for rank, (rows, seconds, wait, reduce) in enumerate(zip(*columns.values(), strict=True)):
        host = ranks[-1]["hosts"][rank]
        parts = (max(0.0, seconds - wait - reduce), wait, reduce)
        bars.append((f"{rank} {host}", f"{rows:,} rows", parts))
        lines.append((rank, host, f"{rows:,}", *(f"{value:,.3f}" for value in parts)))
    svg = stacked_bars(bars, names=PARTS, title="Seconds of each rank")
    return {"epochs": len(alike), "lines": lines, "svg": _safe(svg)}
