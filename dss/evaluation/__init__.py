"""One run against its truth."""
