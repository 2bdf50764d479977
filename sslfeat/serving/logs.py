"""JSON lines logs on standard error: requests and their outcome, never their contents."""

from __future__ import annotations

import json
import logging
import time

NAMES = ("sslfeat", "uvicorn")


class JsonLines(logging.Formatter):
    """Formats a record, with its ``fields``, as a line of JSON."""

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
    """Log the service to standard error from ``level``; returns the handler, for removal."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name in NAMES:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level.upper())
        logger.propagate = False
    return handler
