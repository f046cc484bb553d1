"""``python -m tricnn``: the same as the command ``tricnn``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
