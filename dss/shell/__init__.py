"""Spheres from geometry: placing them, certifying that they enclose the surface, their files."""
