"""Fields from samples."""
