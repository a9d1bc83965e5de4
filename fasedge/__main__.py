"""``python -m fasedge`` is the same as the command ``fasedge``."""

import sys

from fasedge.cli import main

if __name__ == "__main__":
    sys.exit(main())
