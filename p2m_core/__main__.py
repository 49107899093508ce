"""`python -m p2m_core` is the command `p2m`."""

import sys

from p2m_core.cli import main

if __name__ == "__main__":  # spawned workers import this module again
    sys.exit(main())
