"""What data and models are there, whether they are sound, and which samples are suspicious."""
