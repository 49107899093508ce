"""Whole runs without a browser: notebooks in order, sweeps, and what two runs differ in."""
