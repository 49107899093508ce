"""From photo files to meshes in files."""
