"""Procedural objects in the format of Pixel2Mesh's packed ShapeNet."""
