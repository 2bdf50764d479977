"""Self-contained HTML pages: everything a page shows is inside its one file, so that it can be mailed."""
