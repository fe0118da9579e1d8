"""The log of a job: lines for people, or one JSON object for each.

Runs on the driver.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NoReturn

__all__ = ["FORMATS", "JobLog", "JsonLines"]

log = logging.getLogger(__name__)

FORMATS = ("text", "json")


class JsonLines(logging.Formatter):
    """A record as one JSON object: time (UTC, ISO 8601), level, logger, message, what `extra={"facts": …}` holds."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


class JobLog:
    """What a job says, in one of the FORMATS: its log (on stderr, sparkdl from INFO up), its result, its error.

    Making one sets up this process's log.
    """

    def __init__(self, form: str) -> None:
        self._json = form == "json"
        text = logging.Formatter("%(levelname)s %(name)s: %(message)s")
        handler = logging.StreamHandler()
        handler.setFormatter(JsonLines() if self._json else text)
        logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
        logging.getLogger("sparkdl").setLevel(logging.INFO)

    def tell(self, text: str, facts: Mapping[str, Any]) -> None:
        """Say what came of the job."""
        if self._json:
            log.info("%s", text, extra={"facts": facts})
        else:
            sys.stdout.write(f"{text}\n")

    def fail(self, message: str, code: int) -> NoReturn:
        """Say why the job failed, and exit."""
        if self._json:
            log.error("%s", message, extra={"facts": {"exit_code": code}})
        else:
            sys.stderr.write(f"error: {message}\n")
        sys.exit(code)
