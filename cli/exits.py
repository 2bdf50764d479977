"""Exit codes: 0 success, 1 error, 2 usage error, 3 finished with unusable inputs listed, 128 + signal number."""

ERROR, USAGE, BAD_INPUTS = 1, 2, 3
