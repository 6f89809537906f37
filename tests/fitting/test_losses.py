"""The losses against their formulas."""

import numpy as np
import pytest
import torch

from dss.fitting.losses import LOSSES, MIN_WEIGHT, mean_error


@pytest.fixture(scope="module")
def values():
    """Predictions and true distances."""
    return 0.4 * torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))


def formulas(p: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "l1": np.abs(p - t),
        "l2": (p - t) ** 2,
        "clamp": np.abs(p.clip(-0.1, 0.1) - t.clip(-0.1, 0.1)),
        "weighted": np.abs(p - t) / np.exp(50 * np.abs(t)),
    }


def test_losses(values):
    expected = formulas(*values.numpy())
    assert LOSSES.keys() == expected.keys()
    for name, value in expected.items():
        assert np.allclose(LOSSES[name](*values).numpy(), value, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("band", [0.0, 0.05])
def test_a_band_weighs_what_is_near_the_surface(values, loss, band):
    p, t = values.numpy()
    weight = MIN_WEIGHT + np.exp(-np.abs(t) / band) if band else 1.0
    expected = (formulas(p, t)[loss] * weight).mean()
    assert mean_error(*values, loss, band).item() == pytest.approx(expected, rel=1e-4)


def test_half_precision_is_compared_in_single(values):
    predicted, true = values[0].bfloat16(), values[1]
    expected = (predicted.float() - true).abs().mean()
    assert mean_error(predicted, true, "l1", 0.0).item() == pytest.approx(expected.item())
