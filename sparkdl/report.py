"""What a user sees while a run goes on: one progress bar, and one line per epoch.

Runs on the driver; fed by the events that ranks emit.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

__all__ = ["FIGURES", "TrainingProgress", "epoch_line"]

log = logging.getLogger(__name__)

# What the record of an epoch holds beside the loss and the metrics.
FIGURES = ("epoch", "lr", "seconds", "rows_per_second", "data_wait_seconds", "allreduce_share", "gradient_norm")


def epoch_line(event: Mapping[str, Any]) -> str:
    """One epoch's figures: `epoch 3/10  loss 0.412  val_loss 0.431  18.2 s  41,200 rows/s  data wait 0.3 s`."""
    metrics = {
        name: value
        for name, value in event.items()
        if isinstance(value, float) and name not in FIGURES and name not in ("kind", "epochs")
    }
    figures = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    return (
        f"epoch {event['epoch'] + 1}/{event['epochs']}  {figures}  {event['seconds']:.1f} s  "
        f"{event['rows_per_second']:,.0f} rows/s  data wait {event['data_wait_seconds']:.1f} s"
    )


class TrainingProgress:
    """A bar of the current epoch in a terminal or notebook, and a line for each finished epoch. A context manager.

    Where the output is no terminal the bar is left out and the lines go to the log, at INFO.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def on_event(self, rank: int, event: Mapping[str, Any]) -> None:
        """Take an event of a rank; events of other kinds are left alone."""
        if event.get("kind") == "step":
            self._step(event)
        elif event.get("kind") == "epoch":
            self._close()
            self._line(epoch_line(event))

    def _step(self, event: Mapping[str, Any]) -> None:
        if not _shows_bars():
            return
        if self._bar is None:
            from tqdm.auto import tqdm

            title = f"epoch {event['epoch'] + 1}/{event['epochs']}"
            # Some terminals (`script`, CI) say that they are 0 x 0, and tqdm would draw nothing there.
            size = shutil.get_terminal_size(fallback=(100, 24))
            shape = {"ncols": size.columns, "nrows": size.lines}
            self._bar = tqdm(total=event["steps"], desc=title, unit="step", leave=False, **shape)
        self._bar.update(event["step"] - self._bar.n)
        self._bar.set_postfix_str(f"loss {event['loss']:.4g}, {event['rows_per_second']:,.0f} rows/s")

    def _line(self, text: str) -> None:
        if not _shows_bars():
            log.info(text)
            return
        from tqdm.auto import tqdm

        tqdm.write(text, file=sys.stderr)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _shows_bars() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules
