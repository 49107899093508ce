"""From a scene to a photo: skin, light, background, and what a camera makes of it."""
