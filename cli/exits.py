"""Exit codes, and how errors become them: 0 good, 1 error, 2 usage, 3 finished with bad inputs listed, 128 + signal."""

ERROR, USAGE, BAD_INPUTS = 1, 2, 3
