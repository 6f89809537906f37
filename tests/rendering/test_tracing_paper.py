import pytest
import torch

from dss import ops
from dss.rendering.tracing import trace
from dss.rendering.tracing_paper import MAX_HIT_DISTANCE, PROBE, trace_exact, trace_paper
from tests.helpers import Analytic, box, camera_rays, shell_of, sphere, torus


def reference(field, origin, direction):
    """One ray, interval by interval, in plain Python: t, sphere, steps, intervals marched; None on
    a miss."""
    shell, hits, steps, marched = field.shell, [], 0, 0
    near, outer = [], []
    for j in range(len(shell)):
        b = float((shell.centers[j] - origin).double() @ direction.double())
        square = float((shell.centers[j] - origin).double().square().sum()) - b * b
        for radius, out in (
            (shell.inner_radii[j].item(), near),
            (shell.outer_radii[j].item(), outer),
        ):
            if radius**2 > square:
                half = (radius**2 - square) ** 0.5
                out.append((b - half, b + half, j))
    stop = min((entry for entry, _, _ in near), default=100)
    for entry, exit, j in outer:
        if not 0 < entry < stop:
            continue
        d1, d2 = entry + 1e-6, exit - 1e-6

        def query(t, j=j):
            return field((origin + t * direction)[None], torch.tensor([j])).item()

        t, d = d1, query(d1)
        if d < -5 * MAX_HIT_DISTANCE:
            continue
        marched += 1
        before = d
        for _ in range(256):
            steps += 1
            t += d
            if abs(d) < MAX_HIT_DISTANCE or abs(d + before) / 2 < 5 * MAX_HIT_DISTANCE:
                hits.append((t, t - d1, j))
                break
            if t >= d2:
                break
            before, d = d, query(t)
    if not hits:
        return None, steps, marched
    first = min(hits)[0]
    return (
        max((h for h in hits if abs(h[0] - first) < 5 * MAX_HIT_DISTANCE), key=lambda h: h[1]),
        steps,
        marched,
    )


@pytest.mark.parametrize("distance", [box(), torus()])
def test_every_rule_against_a_slow_reference(distance):
    field = Analytic(distance, shell_of(distance, count=25))
    origins, directions = (rays[::19] for rays in camera_rays(48))
    hits = trace_paper(field, origins, directions)
    assert 20 < hits.hit.sum() < len(origins)
    for i in range(len(origins)):
        expected, steps, marched = reference(field, origins[i], directions[i])
        assert hits.hit[i].item() == (expected is not None) and hits.marched[i].item() == marched
        assert abs(hits.steps[i].item() - steps) <= 1  # t is summed in double there
        if expected:
            assert (
                hits.t[i].item() == pytest.approx(expected[0], abs=1e-5)
                and hits.sphere[i].item() == expected[2]
            )
        else:
            assert hits.sphere[i].item() == -1


@pytest.mark.parametrize("distance", [sphere(), torus()])
def test_close_to_the_exact_tracer(distance):
    """The paper's hits are within its tolerance of the surface, its normals within its differences'
    smoothing."""
    field = Analytic(distance, shell_of(distance))
    origins, directions = camera_rays(96)
    exact = trace(field, origins, directions)
    for hits in (
        trace_paper(field, origins, directions),
        trace_exact(distance, distance, origins, directions),
    ):
        assert (hits.hit != exact.hit).float().mean() < 0.01
        both = hits.hit & exact.hit
        assert (
            distance(origins + hits.t[:, None] * directions)[both].abs().max()
            < 5 * MAX_HIT_DISTANCE
        )
        assert (hits.normal * exact.normal).sum(1)[both].median() > 0.9995


def test_differences_round_an_edge():
    """Across a box's edge the normals turn within one probe, as in the paper's pictures."""
    origins = torch.tensor([[0.1, 0.4 - offset, 2.0] for offset in (0.2, PROBE / 2)])
    hits = trace_exact(box(), box(), origins, torch.tensor([[0.0, 0, -1]]).expand_as(origins))
    assert hits.hit.all() and hits.normal[0, 2] > 0.999 and 0.6 < hits.normal[1, 2] < 0.999


def test_how_intervals_and_normals_are_made_may_be_exchanged():
    field, (origins, directions) = Analytic(sphere(), shell_of(sphere())), camera_rays(24)
    asked = []

    def intervals(shell, *rays):
        asked.append(len(rays[0]))
        return ops.shell_intervals(shell, *rays)

    hits = trace_paper(field, origins, directions, intervals, lambda sdf, points: -points)
    plain = trace_paper(field, origins, directions)
    assert asked == [len(origins)] and torch.equal(hits.t, plain.t)
    assert torch.equal(hits.normal[hits.hit], -(origins + hits.t[:, None] * directions)[hits.hit])


def test_no_rays():
    empty = torch.zeros(0, 3)
    assert len(trace_paper(Analytic(sphere(), shell_of(sphere())), empty, empty).hit) == 0
    assert len(trace_exact(sphere(), sphere(), empty, empty).hit) == 0
