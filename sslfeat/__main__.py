"""``python -m sslfeat`` is the command line."""

import sys

if not sys.flags.safe_path:  # -m puts the working folder first, whose files may be a stranger's
    del sys.path[0]

from sslfeat.cli.app import main

if __name__ == "__main__":
    main()
