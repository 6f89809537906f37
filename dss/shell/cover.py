"""Key spheres that need the thinnest shell: a cover of the surface by medial balls.

A ball inside the solid has as its radius the distance of its centre from the surface; the thickness
of its shell is what the ball must grow by to hold the surface points given to it (docs/method.md,
section 2). Three searches lower the thickness: farthest-point insertion of medial balls; Lloyd's
iteration, with rounds in which the cheapest balls are removed and the costliest split; and a
descent ball by ball, which exploits that the outer balls overlap. Balls are rows x y z r, float64,
whose centres are float32 numbers.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import surface_samples
from dss.shell.certify import nearest_sphere, squared_distances
from dss.shell.lattice import Lattice

COARSE = 60  # samples per ball for insertion and Lloyd's iteration
MIN_COARSE, MAX_COARSE = 20_000, 100_000  # of these in all
DENSE = 400_000  # samples of the descent
ROUNDING = 1e-9  # so that a ball holds the sample that it reaches for
ERROR = 1e-5  # more than distances, which are float32, are wrong by
MIN_RADIUS = 1e-5  # below it, float32 does not tell inside from outside
MAX_SHRINKINGS = 12  # of a ball until it is medial; most need five
TRIALS = 8  # places near its own that a ball chooses from at a time
ROUNDS = 12  # of relocation
MAX_RELOCATED = 0.08  # share of the balls that one round removes
SAVED_BY_HALVING = 0.5  # of the volume of a cell
DESCENTS = 20  # rounds of the descent
LEAF = 32  # points in a leaf of a tree: the fastest for the queries here


def cover(
    distance: MeshDistance, count: int, seed: int = 0, lattice: Lattice | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (S, 3), inner radii (S,) and outer radii (S,), float64, of a thin shell.

    The ball with the largest share of the surface comes first. The outer balls hold dense surface
    samples; `build_shell` certifies and completes them. With a lattice, centres and inner radii are
    of it; a ball that finds no place there is left out. Raises InputError where the solid is too
    thin for balls.
    """
    generator = np.random.default_rng(seed)
    coarse = int(np.clip(COARSE * count, MIN_COARSE, MAX_COARSE))
    samples, face = surface_samples(distance.vertices, distance.faces, coarse, seed)
    medial = _medial_balls(distance, samples, face)
    found = int((medial[:, 3] > 0).sum())
    if found < count:
        reason = f"only {found} spheres fit into so thin a mesh"
        raise InputError(f"spheres.count={count}: {reason}; choose a smaller spheres.count")
    lloyd = _Lloyd(distance, samples, medial, generator)
    balls = lloyd.relocate(lloyd.settle(lloyd.insert(count), 5))
    samples, _ = surface_samples(distance.vertices, distance.faces, DENSE, seed + 1)
    if lattice:
        balls = lattice.balls(distance, balls[:, :3])
    balls, outer, share = _descend(distance, samples, balls, generator, lattice)
    order = np.argsort(-share, kind="stable")
    radii = balls[order, 3] if lattice else distance.exact(balls[order, :3])
    return balls[order, :3], radii, outer[order]


def _balls(
    distance: MeshDistance,
    centers: np.ndarray,
    lattice: Lattice | None = None,
    wanted: np.ndarray | None = None,
) -> np.ndarray:
    """The largest balls (..., 4) inside the solid at centers (..., 3), moved to the lattice where
    there is one.

    Outside, and where they are not `wanted` (...) bool, the radius is -inf, so that no use is made
    of them.
    """
    centers = (lattice.snapped(centers) if lattice else centers).astype(np.float32)
    wanted = np.ones(centers.shape[:-1], bool) if wanted is None else wanted
    radii = np.full(wanted.shape, -np.inf)
    radii[wanted] = -distance.sdf(centers[wanted])
    usable = radii > MIN_RADIUS
    if lattice:
        radii = lattice.radii(np.maximum(lattice.radius_codes(radii), 0))
    radii = np.where(usable, radii, -np.inf)
    return np.concatenate([centers, radii[..., None]], -1, dtype=np.float64)


def _gap(points: np.ndarray, balls: np.ndarray) -> np.ndarray:
    """What each ball (..., 4) must grow by to hold the point (..., 3)."""
    return np.sqrt(squared_distances(points, balls)) - balls[..., 3]


def _moved(balls: np.ndarray, step: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Random places (S, TRIALS, 3) about the centre of each ball, about `step` (S,) away."""
    return balls[:, None, :3] + step[:, None, None] * generator.normal(size=(len(balls), TRIALS, 3))


def _medial_balls(distance: MeshDistance, samples: np.ndarray, face: np.ndarray) -> np.ndarray:
    """The largest ball (n, 4) inside the solid that touches the surface at each sample.

    Balls that shrink until they are empty (Ma et al. 2012).
    """
    inward = -distance.normals.cpu().numpy()[face].astype(np.float64)
    radii = np.full(len(samples), np.linalg.norm(samples, axis=1).max())
    tree = cKDTree(samples, leafsize=LEAF)
    active = tree.indices  # near samples ask for near places, which are then in the cache
    for _ in range(MAX_SHRINKINGS):
        centers = samples[active] + inward[active] * radii[active, None]
        reach, other = tree.query(centers, workers=-1)
        chord = samples[other] - samples[active]
        depth = (chord * inward[active]).sum(1)
        inside = (reach < 0.999 * radii[active]) & (depth > 0)
        active = active[inside]  # another sample lies in the ball, which shrinks to touch it
        radii[active] = (chord[inside] ** 2).sum(1) / (2 * depth[inside])
    return _balls(distance, samples + inward * radii[:, None])


@dataclass
class _Cells:
    """The samples of every ball; by the paper's rule, those to which it has the least gap."""

    gap: np.ndarray  # (2, n) of the best and second best ball; inf where none is within reach
    ball: np.ndarray  # (2, n) int64; -1 where there is none
    members: np.ndarray  # (n,) index of the samples, sorted by ball
    start: np.ndarray  # (S + 1,) of each ball's part of members
    thickness: np.ndarray  # (S,)
    share: np.ndarray  # (S,) of the surface

    @property
    def volume(self) -> np.ndarray:
        """(S,) roughly that of each ball's part of the shell, per area of the surface."""
        return self.share * self.thickness

    def members_of(self, ball: int) -> np.ndarray:
        """Index (n,) of a ball's samples."""
        return self.members[self.start[ball] : self.start[ball + 1]]


class _Lloyd:
    """Insertion, settling and relocation of balls.

    On samples (n, 3) with their medial balls (n, 4).
    """

    def __init__(
        self,
        distance: MeshDistance,
        samples: np.ndarray,
        medial: np.ndarray,
        generator: np.random.Generator,
    ):
        self.distance, self.generator = distance, generator
        self.samples, self.medial = samples, medial
        self.tree = cKDTree(samples, leafsize=LEAF)
        self.reach = 0.05  # gaps beyond it are not looked for
        self.searched = 0.0  # the reach of the searches whose results are in `found`
        self.found: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def insert(self, count: int) -> np.ndarray:
        """`count` medial balls: the largest, then each at the sample with the largest gap."""
        usable = self.medial[:, 3] > 0
        gap = np.where(usable, 4 + self.medial[:, 3], -np.inf)  # 4: more than any gap
        chosen = []
        for _ in range(count):
            chosen.append(gap.argmax())
            ball = self.medial[chosen[-1]]
            near = self.tree.query_ball_point(ball[:3], ball[3] + gap.max(), return_sorted=False)
            gap[near] = np.minimum(gap[near], _gap(self.samples[near], ball))
            gap[chosen] = -np.inf
        return self.medial[chosen]

    def cells(self, balls: np.ndarray) -> _Cells:
        """The samples of the balls (S, 4)."""
        near, value = zip(*self._near(balls), strict=True)
        owner = np.arange(len(balls)).repeat([len(index) for index in near])
        near, value = np.concatenate(near), np.concatenate(value)
        within = value <= self.reach
        owner, near, value = owner[within], near[within], value[within]
        gap, best = np.full((2, len(self.samples)), np.inf), np.full((2, len(self.samples)), -1)
        for rank in range(2):
            np.minimum.at(gap[rank], near, value)
            least = np.flatnonzero(value == gap[rank, near])[::-1]  # of equal ones, the first ball
            best[rank, near[least]] = owner[least]
            other = best[rank, near] != owner  # the second best ball is the best of the others
            owner, near, value = owner[other], near[other], value[other]
        if gap[0].max() == np.inf:
            self.reach *= 2
            return self.cells(balls)
        self.reach = 1.3 * gap[0].max()
        thickness = np.zeros(len(balls))
        np.maximum.at(thickness, best[0], gap[0])
        size = np.bincount(best[0], minlength=len(balls))
        start = np.concatenate([[0], size.cumsum()])
        members = np.argsort(best[0], kind="stable")
        return _Cells(gap, best, members, start, thickness, size / len(self.samples))

    def _near(self, balls: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Index (n,) of the samples within reach of each ball (S, 4), and their gaps (n,).

        Only balls that the last call did not have are looked for; most stay where they are.
        """
        if not self.reach <= self.searched <= 1.5 * self.reach:
            self.searched, self.found = self.reach, {}
        keys = [ball.tobytes() for ball in balls]
        new = [index for index, key in enumerate(keys) if key not in self.found]
        lists = self.tree.query_ball_point(
            balls[new, :3], balls[new, 3] + self.searched, return_sorted=False
        )
        for index, found in zip(new, lists, strict=True):
            near = np.array(found, np.int64)
            self.found[keys[index]] = near, _gap(self.samples[near], balls[index])
        self.found = {key: self.found[key] for key in keys}
        return [self.found[key] for key in keys]

    def settle(
        self, balls: np.ndarray, iterations: int, active: np.ndarray | None = None
    ) -> np.ndarray:
        """Lloyd's iteration: form the cells, move each ball where its cell needs less thickness.

        With `active` (S,) bool, only those balls move.
        """
        balls = balls.copy()
        for _ in range(iterations):
            cells = self.cells(balls)
            size = cells.start[1:] - cells.start[:-1]
            chosen = np.flatnonzero((size > 0) if active is None else (size > 0) & active)
            drawn = self.generator.random((len(chosen), 2 * TRIALS)) * size[chosen, None]
            picked = cells.members[cells.start[chosen, None] + drawn.astype(np.int64)]
            trials = self.medial[picked]
            farthest, _ = self._range(cells, chosen, trials)
            self._improve(balls, cells, chosen, trials, farthest)
            step = cells.thickness[chosen]
            for _ in range(4):
                places = _moved(balls[chosen], step, self.generator).astype(np.float32)
                farthest, nearest = self._range(cells, chosen, places.astype(np.float64))
                # No ball inside the solid is larger than the distance of a sample.
                hopeful = farthest - nearest < cells.thickness[chosen, None] + ERROR
                trials = _balls(self.distance, places, wanted=hopeful)
                better = self._improve(balls, cells, chosen, trials, farthest)
                step = np.where(better, step, 0.6 * step)
        return balls

    def _range(
        self, cells: _Cells, chosen: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The distances (m, T) of places (m, T, 3 or more) for the chosen balls (m,) from the
        farthest and from the nearest sample of the ball."""
        size = (cells.start[1:] - cells.start[:-1])[chosen]
        begin = size.cumsum() - size
        place = np.arange(size.sum()) + (cells.start[chosen] - begin).repeat(size)
        points = self.samples[cells.members[place]]
        squares = np.empty((2, *places.shape[:2]))
        for k in range(places.shape[1]):
            squared = squared_distances(points, places[:, k].repeat(size, axis=0))
            squares[0, :, k] = np.maximum.reduceat(squared, begin)
            squares[1, :, k] = np.minimum.reduceat(squared, begin)
        return tuple(np.sqrt(squares))

    def _improve(
        self,
        balls: np.ndarray,
        cells: _Cells,
        chosen: np.ndarray,
        trials: np.ndarray,
        farthest: np.ndarray,
    ) -> np.ndarray:
        """Replace chosen balls (m,), and their thickness, by the best of their trials (m, T, 4),
        whose `farthest` samples have the distances (m, T).

        Only where that is better, which is returned: (m,) bool.
        """
        needed = farthest - trials[:, :, 3]
        best = needed.argmin(1)
        value = needed[np.arange(len(chosen)), best]
        better = value < cells.thickness[chosen]
        balls[chosen[better]] = trials[better, best[better]]
        cells.thickness[chosen[better]] = value[better]
        return better

    def relocate(self, balls: np.ndarray) -> np.ndarray:
        """Rounds of exchanging balls and settling around them.

        Each is kept where the whole shell gets thinner.
        """
        cells, limit = self.cells(balls), max(1, int(MAX_RELOCATED * len(balls)))
        for _ in range(ROUNDS):
            trial, active = self._exchange(balls, cells, limit)
            trial = self.settle(trial, 3, active)
            trial_cells = self.cells(trial)
            if trial_cells.volume.sum() < cells.volume.sum():
                balls, cells = trial, trial_cells
            else:
                limit = max(1, limit // 2)
        return balls

    def _exchange(
        self, balls: np.ndarray, cells: _Cells, limit: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Remove the cheapest balls, up to `limit`, and split as many of the costliest.

        Returns the new balls (S, 4), and which of them (S,) bool took part or are neighbours of
        those.
        """
        cost, heirs = _removals(cells)
        balls, active = balls.copy(), np.zeros(len(balls), bool)
        for removed, split in _exchanges(cost, heirs, cells.volume, limit):
            balls[split], balls[removed] = self._halved(balls[split], cells.members_of(split))
            active[[removed, split, *heirs[removed], *heirs[split]]] = True
        return balls, active

    def _halved(self, ball: np.ndarray, members: np.ndarray) -> list[np.ndarray]:
        """Two balls (4,) in the place of one with the samples `members` (n,), one for either half.

        Each is the best of the ball itself and of the medial balls of some members.
        """
        picked = self.generator.choice(members, 8 * TRIALS)
        candidates = np.concatenate([ball[None], self.medial[picked]])
        halves = _halves(self.samples[members])
        return [candidates[_gap(half[:, None], candidates).max(0).argmin()] for half in halves]


def _removals(cells: _Cells) -> tuple[np.ndarray, list[np.ndarray]]:
    """What it costs to remove each ball, and who inherits its samples.

    Each sample of a removed ball goes to its second best ball, an heir, which may have to grow for
    it. The cost (S,) is the volume that the shell gains; infinite where some sample has no second
    ball within reach. The heirs are S arrays (h,).
    """
    count, (first, second) = len(cells.share), cells.ball
    inherited = second >= 0
    pairs, pair = np.unique(first[inherited] * count + second[inherited], return_inverse=True)
    removed, heir = pairs // count, pairs % count
    share = np.bincount(pair) / len(first)
    thickness = np.zeros(len(pairs))
    np.maximum.at(thickness, pair, cells.gap[1, inherited])
    volume = (cells.share[heir] + share) * np.maximum(cells.thickness[heir], thickness)
    cost = np.bincount(removed, volume - cells.volume[heir], minlength=count) - cells.volume
    cost[first[~inherited]] = np.inf
    return cost, np.split(heir, np.searchsorted(removed, np.arange(1, count)))


def _exchanges(
    cost: np.ndarray, heirs: list[np.ndarray], volume: np.ndarray, limit: int
) -> list[tuple[int, int]]:
    """Up to `limit` pairs of a ball to remove, the cheapest, and one to split, the costliest.

    They end where an exchange does not pay. A ball that inherits is neither removed nor split, and
    inherits once, so that the costs stay true.
    """
    chosen, taken, costliest = [], np.zeros(len(cost), bool), iter(np.argsort(-volume))
    for removed in np.argsort(cost):
        if taken[removed] or taken[heirs[removed]].any():
            continue
        taken[[removed, *heirs[removed]]] = True
        split = next((ball for ball in costliest if not taken[ball]), None)
        if split is None or cost[removed] > SAVED_BY_HALVING * volume[split]:
            break
        taken[split] = True
        chosen.append((removed, split))
        if len(chosen) == limit:
            break
    return chosen


def _halves(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) on either side of their mean along their longest axis."""
    offset = points - points.mean(0)
    side = offset @ np.linalg.svd(offset, full_matrices=False)[2][0] > 0
    return points[side], points[~side]


def _descend(
    distance: MeshDistance,
    samples: np.ndarray,
    balls: np.ndarray,
    generator: np.random.Generator,
    lattice: Lattice | None,
) -> tuple[np.ndarray, ...]:
    """Balls (S, 4), outer radii (S,) that hold all samples, and shares (S,) of the samples.

    Ball by ball, thickest first: move to where the samples that no other outer ball holds need less
    thickness. No ball's thickness ever grows.
    """
    balls, tree = balls.copy(), cKDTree(samples)
    gap, owner = nearest_sphere(samples[:, None], balls[:, :3], balls[:, 3])
    outer = balls[:, 3].copy()
    np.maximum.at(outer, owner, balls[owner, 3] + gap)
    regions = [_Region(tree, *pair) for pair in zip(balls, outer, strict=True)]
    times = np.zeros(len(samples), np.int32)  # that a sample is held
    for region in regions:
        times[region.held] += 1
    scale = np.full(len(balls), 0.5)
    for _ in range(DESCENTS):
        thickness = outer - balls[:, 3]
        trials = _balls(distance, _moved(balls, scale * thickness, generator), lattice)
        trials = np.concatenate([balls[:, None], trials], 1)
        for index in np.argsort(-thickness):
            region = regions[index]
            alone = region.held_points[times[region.held] == 1]
            farthest = np.sqrt(squared_distances(alone, trials[index, :, None]).max(1, initial=0))
            needed = np.maximum(farthest - trials[index, :, 3], 0)
            best = needed.argmin()
            scale[index] *= 1 if best else 0.8
            reach = trials[index, best, 3] + needed[best]
            if best or reach < outer[index]:
                balls[index], outer[index] = trials[index, best], reach
                times[region.held] -= 1
                if not region.hold(balls[index], reach):
                    region = regions[index] = _Region(tree, balls[index], reach)
                times[region.held] += 1
    return balls, outer, np.array([(1 / times[region.held]).sum() for region in regions])


class _Region:
    """The samples near a ball (4,), and those among them that its outer ball holds: `held` (n,)
    int64 and `held_points` (n, 3)."""

    def __init__(self, tree: cKDTree, ball: np.ndarray, outer: float):
        self.center, self.radius = ball[:3].copy(), outer + (outer - ball[3]) / 2 + ROUNDING
        found = tree.query_ball_point(self.center, self.radius, return_sorted=False)
        self.samples = np.array(found, np.int64)
        self.points = tree.data[self.samples]
        self.hold(ball, outer)

    def hold(self, ball: np.ndarray, outer: float) -> bool:
        """Find the samples that another outer ball holds; whether it is within the region."""
        reach = outer + ROUNDING
        inside = squared_distances(self.points, ball[:3]) <= reach**2
        self.held, self.held_points = self.samples[inside], self.points[inside]
        return np.linalg.norm(ball[:3] - self.center) + reach <= self.radius
