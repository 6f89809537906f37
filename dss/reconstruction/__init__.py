"""Surfaces from images."""
