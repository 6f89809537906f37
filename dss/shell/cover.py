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
from dss.shell.certify import nearest_sphere
from dss.shell.lattice import Lattice

COARSE = 120  # samples per ball for insertion and Lloyd's iteration
MIN_COARSE, MAX_COARSE = 20_000, 100_000  # of these in all
DENSE = 400_000  # samples of the descent
ROUNDING = 1e-9  # so that a ball holds the sample that it reaches for
MIN_RADIUS = 1e-5  # below it, float32 does not tell inside from outside
MAX_SHRINKINGS = 12  # of a ball until it is medial; most need five
TRIALS = 8  # places near its own that a ball chooses from at a time
ROUNDS = 12  # of relocation
MAX_RELOCATED = 0.08  # share of the balls that one round removes
SAVED_BY_HALVING = 0.5  # of the volume of a cell
DESCENTS = 20  # rounds of the descent


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
    distance: MeshDistance, centers: np.ndarray, lattice: Lattice | None = None
) -> np.ndarray:
    """The largest balls (..., 4) inside the solid at centers (..., 3), moved to the lattice where
    there is one.

    Outside, the radius is -inf, so that no use is made of them.
    """
    centers = (lattice.snapped(centers) if lattice else centers).astype(np.float32)
    radii = -distance.sdf(centers.reshape(-1, 3)).reshape(centers.shape[:-1])
    usable = radii > MIN_RADIUS
    if lattice:
        radii = lattice.radii(np.maximum(lattice.radius_codes(radii), 0))
    radii = np.where(usable, radii, -np.inf)
    return np.concatenate([centers, radii[..., None]], -1, dtype=np.float64)


def _gap(points: np.ndarray, balls: np.ndarray) -> np.ndarray:
    """What each ball (..., 4) must grow by to hold the point (..., 3)."""
    return np.sqrt(((points - balls[..., :3]) ** 2).sum(-1)) - balls[..., 3]


def _within(tree: cKDTree, centers: np.ndarray, radii: np.ndarray | float) -> list[np.ndarray]:
    """Index (n,) int64 of the tree's points within each of the balls (S, 3), (S,)."""
    found = tree.query_ball_point(centers, radii, return_sorted=False)
    return [np.array(near, np.int64) for near in found]


def _moved(balls: np.ndarray, step: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Random places (S, TRIALS, 3) about the centre of each ball, about `step` (S,) away."""
    return balls[:, None, :3] + step[:, None, None] * generator.normal(size=(len(balls), TRIALS, 3))


def _medial_balls(distance: MeshDistance, samples: np.ndarray, face: np.ndarray) -> np.ndarray:
    """The largest ball (n, 4) inside the solid that touches the surface at each sample.

    Balls that shrink until they are empty (Ma et al. 2012).
    """
    inward = -distance.normals.cpu().numpy()[face].astype(np.float64)
    radii = np.full(len(samples), np.linalg.norm(samples, axis=1).max())
    active, tree = np.arange(len(samples)), cKDTree(samples)
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
        self.samples, self.medial, self.tree = samples, medial, cKDTree(samples)
        self.reach = 0.05  # gaps beyond it are not looked for

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
        gap, best = np.full((2, len(self.samples)), np.inf), np.full((2, len(self.samples)), -1)
        radii = balls[:, 3] + self.reach
        for index, near in enumerate(_within(self.tree, balls[:, :3], radii)):
            value = _gap(self.samples[near], balls[index])
            first = value < gap[0, near]
            second = ~first & (value < gap[1, near])
            gap[1, near[first]], best[1, near[first]] = gap[0, near[first]], best[0, near[first]]
            gap[0, near[first]], best[0, near[first]] = value[first], index
            gap[1, near[second]], best[1, near[second]] = value[second], index
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
            self._improve(balls, cells, chosen, self.medial[picked])
            step = cells.thickness[chosen]
            for _ in range(4):
                trials = _balls(self.distance, _moved(balls[chosen], step, self.generator))
                step = np.where(self._improve(balls, cells, chosen, trials), step, 0.6 * step)
        return balls

    def _improve(
        self, balls: np.ndarray, cells: _Cells, chosen: np.ndarray, trials: np.ndarray
    ) -> np.ndarray:
        """Replace chosen balls (m,), and their thickness, by the best of their trials (m, T, 4).

        Only where that is better, which is returned: (m,) bool.
        """
        size = (cells.start[1:] - cells.start[:-1])[chosen]
        begin = size.cumsum() - size
        local = np.arange(len(chosen)).repeat(size)
        place = np.arange(len(local)) + (cells.start[chosen] - begin)[local]
        points = self.samples[cells.members[place]]
        gap = np.stack([_gap(points, trials[local, k]) for k in range(trials.shape[1])], 1)
        needed = np.maximum.reduceat(gap, begin)
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
    held = _within(tree, balls[:, :3], outer + ROUNDING)
    times = np.bincount(np.concatenate(held))
    scale = np.full(len(balls), 0.5)
    for _ in range(DESCENTS):
        thickness = outer - balls[:, 3]
        trials = _balls(distance, _moved(balls, scale * thickness, generator), lattice)
        trials = np.concatenate([balls[:, None], trials], 1)
        for index in np.argsort(-thickness):
            alone = samples[held[index][times[held[index]] == 1]]
            needed = _gap(alone[:, None], trials[index]).max(0, initial=0)
            best = needed.argmin()
            balls[index], outer[index] = trials[index, best], trials[index, best, 3] + needed[best]
            scale[index] *= 1 if best else 0.8
            times[held[index]] -= 1
            (held[index],) = _within(tree, balls[index, None, :3], outer[index] + ROUNDING)
            times[held[index]] += 1
    return balls, outer, np.array([(1 / times[near]).sum() for near in held])
