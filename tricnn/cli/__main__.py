"""``python -m tricnn.cli``."""

import sys

from . import main

sys.exit(main())
