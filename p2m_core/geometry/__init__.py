"""Cameras, crops, similarities, meshes, templates, landmarks, and the software rasteriser."""
