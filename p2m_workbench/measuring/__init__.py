"""Evaluation: what is measured, its tables and figures, and other systems beside it."""
