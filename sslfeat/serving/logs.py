"""Logs as lines of JSON on standard error: what was asked and how it went, never what was in it."""

from __future__ import annotations

import json
import logging
import time

NAMES = ("sslfeat", "uvicorn")


class JsonLines(logging.Formatter):
    """A record as one line; what is in its ``fields`` besides."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_json(level: str) -> logging.Handler:
    """Send the service's logs of ``level`` and above to standard error; returns the handler, to be taken off again."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name in NAMES:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level.upper())
        logger.propagate = False
    return handler
