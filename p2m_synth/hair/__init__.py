"""Hair, brows and beards: where they grow, how they are cut, and their strands."""
