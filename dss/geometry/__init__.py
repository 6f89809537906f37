"""What is given: meshes, point clouds, distances to them."""
