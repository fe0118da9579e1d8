"""Write the log of a job as lines for people, or as one JSON object for each record.

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
    """Format a record as one JSON object: time (UTC, ISO 8601), level, logger, message, and `extra={"facts": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


class JobLog:
    """Write what a job reports, in one of the FORMATS: log (on stderr, sparkdl from INFO up), result, error.

    The constructor sets up logging in this process.
    """

    def __init__(self, form: str) -> None:
        self._json = form == "json"
        text = logging.Formatter("%(levelname)s %(name)s: %(message)s")
        handler = logging.StreamHandler()
        handler.setFormatter(JsonLines() if self._json else text)
        logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
        logging.getLogger("sparkdl").setLevel(logging.INFO)

    def tell(self, text: str, facts: Mapping[str, Any]) -> None:
        """Write the result of the job."""
        if self._json:
            log.info("%s", text, extra={"facts": facts})
        else:
            sys.stdout.write(f"{text}\n")

    def fail(self, message: str, code: int) -> NoReturn:
        """Write why the job failed, and exit with `code`."""
        if self._json:
            log.error("%s", message, extra={"facts": {"exit_code": code}})
        else:
            sys.stderr.write(f"error: {message}\n")
        sys.exit(code)
