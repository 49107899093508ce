"""What is held before a face: things, and the hands that hold them."""
