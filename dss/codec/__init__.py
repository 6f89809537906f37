"""Fields as few bytes: quantised parameters, integer probability tables, one file."""
