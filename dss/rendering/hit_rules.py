"""By which rule the rays of a method hit its field (docs/method.md, section 9)."""

from dataclasses import replace

import torch
from torch import Tensor

from dss.fields.base import Field
from dss.rendering.tracing import Hits, trace
from dss.rendering.tracing_paper import central_differences, trace_paper

BRACKETED, SHELL = "bracketed", "dual shell"  # names of rules; those of others are their fields'


def published_rule(field: Field) -> str:
    """The name of the rule by which `trace_published` hits."""
    return field.hit_rule or (SHELL if field.shell else BRACKETED)


@torch.no_grad()
def trace_published(field: Field, origins: Tensor, directions: Tensor) -> Hits:
    """Hits of rays by the tracer that the method's authors published, with their central
    differences for normals.

    That is the field's own, or, with a shell, the DSS paper's. Any other field is traced by the
    common rule, which brackets the surface, so that no tolerance is held against it.
    """
    if field.hit_rule:
        return _own(field, origins, directions)
    if field.shell:
        return trace_paper(field, origins, directions)
    hits = trace(field, origins, directions)
    normal, hit = torch.zeros_like(hits.normal), hits.hit
    points = origins[hit] + hits.t[hit, None] * directions[hit]
    normal[hit] = central_differences(field.sdf, points)
    return replace(hits, normal=normal)


def trace_fastest(field: Field, origins: Tensor, directions: Tensor) -> Hits:
    """Hits of rays by the fastest tracer that the method has, which is what its frames are timed
    by: its own, else the common one."""
    return (_own if field.hit_rule else trace)(field, origins, directions)


def is_compiled(field: Field) -> bool:
    """Whether `trace_fastest` is one compiled operator, outside `ops.eager`."""
    return bool(field.hit_rule) or field.network() is not None


def _own(field: Field, origins: Tensor, directions: Tensor) -> Hits:
    found = field.trace(origins, directions)
    return Hits(found.t.isfinite(), found.t, found.normal, found.steps.long())
