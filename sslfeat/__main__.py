"""``python -m sslfeat`` is the command line."""

from sslfeat.cli.app import main

if __name__ == "__main__":
    main()
