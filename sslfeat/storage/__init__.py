"""Files that survive a crash: atomic writes, staged exchange of folders, typed records, Arrow columns."""
