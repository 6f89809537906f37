"""Meshes: load, clean, normalise; and points on their surface."""

import numpy as np


def surface_samples(vertices: np.ndarray, faces: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`count` points (n, 3) float64 uniform by area on the triangles, and the face (n,) int64 of each."""
    generator = np.random.default_rng(seed)
    triangles = vertices[faces]
    first, second = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    area = np.linalg.norm(np.cross(first, second), axis=1).cumsum()
    face = np.searchsorted(area, generator.random(count) * area[-1], side="right")
    weights = generator.random((count, 2))
    folded = weights.sum(1) > 1
    weights[folded] = 1 - weights[folded]
    return triangles[face, 0] + weights[:, :1] * first[face] + weights[:, 1:] * second[face], face
