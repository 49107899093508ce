"""Pixel2Mesh: encoders, graph layers, the network, its losses and its weights."""
