"""Key spheres that need the thinnest shell: a cover of the surface by medial balls (anchors.md, section 4).

The thickness of a sphere is max |p - c| - r over the surface points p that it has to hold, where r is the distance of c
from the surface. Three searches lower it: farthest-point insertion of medial balls, Lloyd's iteration with relocation of
the spheres of least worth, and a descent sphere by sphere that exploits the overlap of the outer balls.
"""

import numpy as np
from scipy.spatial import cKDTree

from dss.distance import MeshDistance
from dss.errors import InputError
from dss.mesh import surface_samples

MEDIAL_STEPS = 12  # of the shrinking-ball iteration; most balls converge in five
ROUNDS = 12  # of relocation
RELOCATED = 0.08  # share of the spheres that the first round may move
TRIALS = 8  # random moves that a sphere chooses from, and that many times per iteration with smaller ones
DESCENTS = 20  # passes of the last search


def cover(distance: MeshDistance, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (S, 3), inner radii (S,) and outer radii (S,), float64, of a thin shell, largest share of the surface first.

    The outer balls hold dense surface samples; `build_shell` certifies them. Centres are float32 numbers.
    Raises InputError where fewer than `count` balls fit under the surface.
    """
    generator = np.random.default_rng(seed)
    samples, face = surface_samples(distance.vertices, distance.faces, int(np.clip(120 * count, 20_000, 100_000)), seed)
    medial = _medial_balls(distance, samples, face)
    if (medial[1] > 0).sum() < count:
        raise InputError(f"spheres.count={count}: the mesh is too thin, {(medial[1] > 0).sum()} balls fit; choose a smaller spheres.count")
    cells = _Cells(distance, samples, medial, generator)
    spheres = cells.relocated(cells.settled(cells.inserted(count), 5))
    samples, _ = surface_samples(distance.vertices, distance.faces, int(np.clip(600 * count, 100_000, 400_000)), seed + 1)
    return _Balls(distance, samples, *spheres).descended(generator)


def _medial_balls(distance: MeshDistance, samples: np.ndarray, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest ball inside the solid that touches the surface at each sample (Ma et al. 2012, shrinking balls), its
    radius corrected to the distance of its centre; not positive where that lies outside."""
    inward = -distance.normals.cpu().numpy()[face].astype(np.float64)
    radii, active, tree = np.full(len(samples), np.linalg.norm(samples, axis=1).max()), np.arange(len(samples)), cKDTree(samples)
    for _ in range(MEDIAL_STEPS):
        centers = samples[active] + inward[active] * radii[active, None]
        reach, other = tree.query(centers, workers=-1)
        chord = samples[other] - samples[active]
        depth = np.einsum("ij,ij->i", chord, inward[active])
        shrinks = (reach < radii[active] * 0.999) & (depth > 0)
        active, chord, depth = active[shrinks], chord[shrinks], depth[shrinks]
        radii[active] = np.einsum("ij,ij->i", chord, chord) / (2 * depth)
    centers = (samples + inward * radii[:, None]).astype(np.float32)
    return centers.astype(np.float64), -distance.sdf(centers).astype(np.float64)


class _Cells:
    """Lloyd's iteration: every sample belongs to the sphere with the least |p - c| - r, as in the paper."""

    def __init__(self, distance, samples, medial, generator):
        self.distance, self.samples, self.medial, self.generator = distance, samples, medial, generator
        self.tree, self.reach = cKDTree(samples), 0.05

    def inserted(self, count):
        """`count` medial balls, each at the sample farthest from those before it, the largest ball first."""
        centers, radii = self.medial
        gap = np.where(radii > 0, 1e9 + radii, -np.inf)
        chosen = []
        for _ in range(count):
            chosen.append(gap.argmax())
            center, radius = centers[chosen[-1]], radii[chosen[-1]]
            near = np.asarray(self.tree.query_ball_point(center, radius + min(gap.max(), 4.0), return_sorted=False))
            gap[near] = np.minimum(gap[near], np.linalg.norm(self.samples[near] - center, axis=1) - radius)
            gap[chosen] = -np.inf
        return centers[chosen], radii[chosen]

    def assign(self, centers, radii):
        """The two best spheres of every sample: gaps (2, n) and spheres (2, n)."""
        while True:
            gap, index = np.full((2, len(self.samples)), np.inf), np.full((2, len(self.samples)), -1)
            for sphere, near in enumerate(self.tree.query_ball_point(centers, radii + self.reach, return_sorted=False)):
                near = np.asarray(near, int)
                value = np.linalg.norm(self.samples[near] - centers[sphere], axis=1) - radii[sphere]
                first = value < gap[0, near]
                second = ~first & (value < gap[1, near])
                moved = near[first]
                gap[1, moved], index[1, moved] = gap[0, moved], index[0, moved]
                gap[0, moved], index[0, moved] = value[first], sphere
                gap[1, near[second]], index[1, near[second]] = value[second], sphere
            worst = gap[0].max()
            if worst < np.inf:
                self.reach = 1.3 * worst
                break
            self.reach *= 2
        self.gap, self.index = gap, index
        count = len(centers)
        self.members = np.argsort(index[0], kind="stable")
        self.size = np.bincount(index[0], minlength=count)
        self.start = np.concatenate([[0], self.size.cumsum()])
        self.thickness = np.zeros(count)
        np.maximum.at(self.thickness, index[0], gap[0])
        self.area = self.size / len(self.samples)
        return self.area @ self.thickness

    def settled(self, spheres, iterations):
        centers, radii = (part.copy() for part in spheres)
        every, owner_of = np.arange(len(centers)), None

        def improve(trials, reach):
            """Move each sphere to its trial (S, T, 3) of distance (S, T) that needs least thickness for the sphere's cell."""
            needed = np.stack([np.linalg.norm(points - trials[owner, k], axis=1) for k in range(trials.shape[1])], 1)
            needed = np.maximum.reduceat(needed, self.start[:-1][filled]) - reach[filled]
            needed[reach[filled] <= 0] = np.inf
            best = needed.argmin(1)
            value = needed[np.arange(len(best)), best]
            better = value < thickness[filled]
            moved, best = every[filled][better], best[better]
            centers[moved], radii[moved], thickness[moved] = trials[moved, best], reach[moved, best], value[better]
            step[np.setdiff1d(every, moved)] *= 0.6

        for _ in range(iterations):
            self.assign(centers, radii)
            thickness, filled = self.thickness.copy(), self.size > 0
            points, owner = self.samples[self.members], self.index[0, self.members]
            step = thickness.copy()
            pick = self.members[(self.start[:-1, None] + (self.generator.random((len(centers), 2 * TRIALS)) * self.size[:, None]).astype(int)).clip(max=len(self.samples)-1)]
            improve(self.medial[0][pick], self.medial[1][pick])
            step = thickness.copy()
            for _ in range(4):
                trials = centers[:, None] + self.generator.normal(size=(len(centers), TRIALS, 3)) * step[:, None, None]
                trials = trials.astype(np.float32).astype(np.float64)
                improve(trials, -self.distance.sdf(trials.reshape(-1, 3)).astype(np.float64).reshape(trials.shape[:2]))
        return centers, radii

    def relocated(self, spheres):
        share = RELOCATED
        energy = self.assign(*spheres)
        for _ in range(ROUNDS):
            moved = self.moved(*spheres, max(1, int(share * len(spheres[1]))))
            if moved is None: break
            moved = self.settled(moved, 3)
            new = self.assign(*moved)
            if new < energy:
                spheres, energy = moved, new
            else:
                share /= 2
                self.assign(*spheres)
        return spheres

    def moved(self, centers, radii, count):
        S = len(centers)
        two = self.index[1] >= 0
        pairs, inverse = np.unique(self.index[0, two] * S + self.index[1, two], return_inverse=True)
        i, j = pairs // S, pairs % S
        bad = np.bincount(self.index[0], ~np.isfinite(self.gap[1]), minlength=S) > 0
        need = np.zeros(len(pairs)); np.maximum.at(need, inverse, self.gap[1, two])
        extra = (self.area[j] + np.bincount(inverse) / len(self.samples)) * np.maximum(self.thickness[j], need) - self.area[j] * self.thickness[j]
        worth = self.area * self.thickness
        cost = np.bincount(i, extra, minlength=S) - worth
        cost[bad] = np.inf
        nb = np.split(j, np.searchsorted(i, np.arange(1, S)))
        busy = np.zeros(S, bool)
        order = iter(np.argsort(-worth))
        centers, radii = centers.copy(), radii.copy()
        n = 0
        for a in np.argsort(cost):
            if n >= count: break
            if busy[a] or busy[nb[a]].any(): continue
            busy[a] = True; busy[nb[a]] = True
            w = next((w for w in order if not busy[w]), None)
            if w is None or cost[a] > 0.5 * worth[w]: break
            busy[w] = True
            n += 1
            members = self.members[self.start[w]:self.start[w + 1]]
            for k, half in zip((w, a), _halves(self.samples[members])):
                pick = members[self.generator.integers(len(members), size=64)]
                pick = pick[self.medial[1][pick] > 0]
                b = pick[_needed(half, self.medial[0][pick], self.medial[1][pick]).argmin()]
                centers[k], radii[k] = self.medial[0][b], self.medial[1][b]
        return (centers, radii) if n else None

def _halves(points):
    offset = points - points.mean(0)
    side = offset @ np.linalg.svd(offset, full_matrices=False)[2][0] > 0
    return points[side], points[~side]

def _needed(points, centers, radii):
    return np.sqrt(((points[:, None] - centers) ** 2).sum(2).max(0)) - radii


class _Balls:
    def __init__(self, distance, samples, centers, radii):
        from dss.enclosure import nearest_sphere
        self.distance, self.samples, self.tree = distance, samples, cKDTree(samples)
        self.centers, self.inner = centers.copy(), radii.copy()
        gap, index = nearest_sphere(samples[:, None], centers, radii)
        t = np.zeros(len(radii)); np.maximum.at(t, index, gap)
        self.outer = radii + t
        self.held = [np.asarray(x, int) for x in self.tree.query_ball_point(self.centers, self.outer + 1e-9, return_sorted=False)]
        self.times = np.zeros(len(samples), np.int32)
        for h in self.held: self.times[h] += 1

    def place(self, i, c, r, R):
        self.centers[i], self.inner[i], self.outer[i] = c, r, R
        new = np.asarray(self.tree.query_ball_point(c, R + 1e-9, return_sorted=False), int)
        self.times[self.held[i]] -= 1; self.times[new] += 1; self.held[i] = new

    def descended(self, generator):
        S = len(self.centers)
        scale = np.ones(S)
        for k in range(DESCENTS):
            t = self.outer - self.inner
            step = scale * (t * 0.5 * 0.9**k + 1e-4)
            trials = self.centers[:, None] + generator.normal(size=(S, TRIALS, 3)) * step[:, None, None]
            trials = trials.astype(np.float32).astype(np.float64)
            reach = -self.distance.sdf(trials.reshape(-1, 3)).astype(float).reshape(S, TRIALS)
            trials = np.concatenate([self.centers[:, None], trials], 1); reach = np.concatenate([self.inner[:, None], reach], 1)
            far = np.linalg.norm(trials - self.centers[:, None], axis=2).max(1)
            split = list(np.argsort(t)) 
            for i in np.argsort(-t):
                must = self.samples[self.held[i][self.times[self.held[i]] == 1]]
                if not len(must):
                    self.place(i, self.centers[i], self.inner[i], self.inner[i]); continue
                D = np.linalg.norm(must - self.centers[i], axis=1)
                must = must[D >= D.max() - 2 * far[i]]
                need = np.maximum(_needed(must, trials[i], reach[i]), 0); need[reach[i] <= 0] = np.inf
                b = need.argmin()
                scale[i] *= 0.8 if b == 0 else 1.1
                self.place(i, trials[i, b], reach[i, b], reach[i, b] + need[b])
        return self.centers, self.inner, self.outer
