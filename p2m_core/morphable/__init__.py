"""Morphable face models: what they are, the files they come in, fitting them to landmarks."""
