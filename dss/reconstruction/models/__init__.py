"""Base models, one file each."""
