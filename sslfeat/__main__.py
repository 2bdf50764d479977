"""Entry point of ``python -m sslfeat``."""

import sys

if not sys.flags.safe_path:  # -m puts the working folder first, which may contain untrusted modules
    del sys.path[0]

from sslfeat.cli.app import main

if __name__ == "__main__":
    main()
