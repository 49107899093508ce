"""What a scene is made of: meshes with materials, and the simple shapes that they are built from."""
