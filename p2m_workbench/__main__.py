"""`python -m p2m_workbench` is the command `p2m`."""

from __future__ import annotations

import sys

from p2m_workbench.cli import main

if __name__ == "__main__":  # spawned workers import this module again
    sys.exit(main())
