"""Other programs: weights of older ports, and ONNX."""
