"""What cameras see of fields and meshes, and meshes from fields."""
