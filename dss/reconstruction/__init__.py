"""Multi-view reconstruction: surfaces from photos."""
