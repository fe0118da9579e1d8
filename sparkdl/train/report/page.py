"""Render the report of a run as one HTML page that needs no network. Pure.

Runs on the driver, when a run has ended. User values are escaped; the page's policy forbids scripts and requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from sparkdl.progress import FIGURES
from sparkdl.train.report.charts import line_chart, number, stacked_bars, text
from sparkdl.train.run.record import Recorded, scalars

__all__ = ["render"]

# The most charts of metrics; the table has all metrics.
MAX_CHARTS = 24
PARTS = ("computing", "waiting for data", "reducing gradients")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --page: #f6f7f8; --card: #ffffff; --text: #1f2328; --soft: #5d6670; --rule: #d8dee4;
  --c0: #1f6feb; --c1: #c4510c; --c2: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --page: #0e1116; --card: #171c23; --text: #e6edf3; --soft: #9aa4af;
  --rule: #343b44; --c0: #58a6ff; --c1: #f0883e; --c2: #56d364; } }
body { margin: 0; background: var(--page); color: var(--text); font: 14px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 20px; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 16px; margin: 32px 0 10px; }
h3 { font-size: 13px; margin: 0 0 2px; overflow-wrap: anywhere; }
.note, .keys { color: var(--soft); font-size: 12px; margin: 0 0 4px; }
.grid-of-cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin-top: 16px; }
.card, .tile { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 12px 14px; }
.tile b { display: block; font-size: 19px; } .tile { color: var(--soft); font-size: 12px; }
.tile b, td { color: var(--text); font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--rule); } .tick { fill: var(--soft); font-size: 11px; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .line.c1 { stroke-dasharray: 5 3; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); }
.dot.c0, .bar.c0 { fill: var(--c0); } .dot.c1, .bar.c1 { fill: var(--c1); } .bar.c2 { fill: var(--c2); }
.key { display: inline-block; width: 12px; height: 4px; border-radius: 2px; margin: 0 5px 2px 0; }
.key.c0 { background: var(--c0); } .key.c1 { background: var(--c1); } .key.c2 { background: var(--c2); }
.keys span + span + span { margin-left: 14px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 12px; }
th, td { text-align: right; padding: 3px 10px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } summary { cursor: pointer; color: var(--soft); margin: 10px 0; }
.facts th, .facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
"""


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
    sections = [
        f"<header><h1>{text(run_dir)}</h1><p class='note'>{text(outcome)} {text(written)}</p></header>",
        _per_worker(recorded.history),
        _tiles(history, recorded.ranks),
        "<h2>Loss and metrics</h2>",
        _metrics(history),
        "<h2>Training</h2>",
        _speed(history),
        "<h2>Ranks</h2>",
        _ranks(recorded.ranks),
        "<h2>Epochs</h2>",
        _table(history),
        *(f"<h2>{text(heading)}</h2>{_facts(table)}" for heading, table in facts.items()),
    ]
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{text(run_dir)}</title><style>{STYLE}</style></head>\n<body><main>"
        + "\n".join(sections)
        + "</main></body></html>\n"
    )


def _per_worker(history: Sequence[Mapping[str, Any]]) -> str:
    """Render the note that names the losses, metrics and layers that were computed per worker."""
    names = list(dict.fromkeys(name for record in history for name in record.get("per_worker", ())))
    said = f"Computed per worker and averaged by rows (exactness='per_worker'): {', '.join(names)}"
    return f"<p class='note'>{text(said)}</p>" if names else ""


def _tiles(history: Sequence[Mapping[str, float]], ranks: Sequence[Mapping[str, Any]]) -> str:
    last = history[-1]
    tiles = {"epochs": f"{last['epoch']:.0f}", "ranks": str(len(ranks[-1]["rows"]))}
    tiles |= {name: number(last[name]) for name in ("loss", "val_loss") if name in last}
    tiles["rows per second, median"] = number(median(_column(history, "rows_per_second")))
    tiles["seconds of training"] = number(sum(_column(history, "seconds")))
    drawn = "".join(f"<div class='tile'><b>{value}</b>{name}</div>" for name, value in tiles.items())
    return f"<div class='tiles'>{drawn}</div>"


def _column(history: Iterable[Mapping[str, float]], name: str) -> list[float]:
    return [record[name] for record in history if name in record]


def _metrics(history: Sequence[Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(n.removeprefix("val_") for record in history for n in record if n not in FIGURES))
    cards = [
        _card(name, {"training": name, "validation": f"val_{name}"}, history, zero=False) for name in names[:MAX_CHARTS]
    ]
    left_out = f"<p class='note'>and {len(names) - MAX_CHARTS} more, in the table</p>" if names[MAX_CHARTS:] else ""
    return f"<div class='grid-of-cards'>{''.join(cards)}</div>{left_out}"


def _speed(history: Sequence[Mapping[str, float]]) -> str:
    shares = [
        {
            "epoch": record["epoch"],
            "wait": 100 * record["data_wait_seconds"] / max(record["seconds"], 1e-9),
            "reduction": 100 * record["allreduce_share"],
        }
        for record in history
    ]
    cards = [
        _card("Rows per second", {"rows per second": "rows_per_second"}, history, zero=True),
        _card(
            "Share of an epoch, %", {"reducing gradients": "reduction", "waiting for data": "wait"}, shares, zero=True
        ),
        _card("Gradient norm", {"mean over steps": "gradient_norm"}, history, zero=False),
        _card("Learning rate", {"at the end of the epoch": "lr"}, history, zero=False),
    ]
    return f"<div class='grid-of-cards'>{''.join(cards)}</div>"


def _card(title: str, curves: Mapping[str, str], history: Sequence[Mapping[str, float]], *, zero: bool) -> str:
    """Render a chart of columns of the history, with their last values; `curves`: the columns by their labels."""
    values = {name: [record.get(column) for record in history] for name, column in curves.items()}
    keys = "".join(
        f"<span class='key c{index}'></span><span>{text(name)} {number(of_curve[-1])}</span>"
        for index, (name, of_curve) in enumerate(values.items())
        if of_curve[-1] is not None
    )
    epochs = [int(record["epoch"]) for record in history]
    chart = line_chart(values, epochs, title=f"{title} by epoch", zero=zero)
    return f"<div class='card'><h3>{text(title)}</h3><p class='keys'>{keys}</p>{chart}</div>"


def _ranks(ranks: Sequence[Mapping[str, Any]]) -> str:
    """Render how evenly the ranks worked, over all epochs that had as many ranks as the last epoch."""
    size = len(ranks[-1]["rows"])
    alike = [epoch for epoch in ranks if len(epoch["rows"]) == size]
    columns = {
        name: [sum(epoch[name][rank] for epoch in alike) for rank in range(size)]
        for name in ("rows", "seconds", "data_wait_seconds", "allreduce_seconds")
    }
    bars, lines = [], []
    for rank, (rows, seconds, wait, reduce) in enumerate(zip(*columns.values(), strict=True)):
        host = ranks[-1]["hosts"][rank]
        computing = max(0.0, seconds - wait - reduce)
        bars.append((f"{rank} {host}", f"{rows:,} rows", (computing, wait, reduce)))
        cells = (rank, text(host), f"{rows:,}", *(f"{value:,.3f}" for value in (computing, wait, reduce)))
        lines.append("".join(f"<td>{cell}</td>" for cell in cells))
    keys = "".join(f"<span class='key c{index}'></span><span>{name}</span>" for index, name in enumerate(PARTS))
    note = (
        f"Seconds of {len(alike)} epochs on {size} ranks. Ranks that are ahead wait for the slowest one in the "
        "reduction of gradients: it has the least of that."
    )
    heads = "".join(f"<th>{name}</th>" for name in ("rank", "host", "rows", *PARTS))
    return (
        f"<div class='card'><p class='note'>{note}</p><p class='keys'>{keys}</p>"
        f"{stacked_bars(bars, names=PARTS, title='Seconds of each rank')}</div>"
        f"<details><summary>as a table, in seconds</summary><div class='scroll'><table><tr>{heads}</tr>"
        f"{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div></details>"
    )


def _table(history: Sequence[Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for record in history for name in record))
    heads = "".join(f"<th>{text(name)}</th>" for name in names)
    lines = (
        "".join(f"<td>{number(record[name]) if name in record else ''}</td>" for name in names) for record in history
    )
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    table = f"<table><tr>{heads}</tr>{rows}</table>"
    return f"<details><summary>all figures</summary><div class='scroll'>{table}</div></details>"


def _facts(table: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in table.items())
    return f"<div class='card'><table class='facts'>{rows}</table></div>"
