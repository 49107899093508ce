"""Synthetic photos of faces with their meshes, made of CC0 assets alone, in the format of AFLW2000-3D."""
