import numpy as np
import pytest
import torch

from dss.geometry.similarity import Similarity

SIMILARITY = Similarity((5e5, -3e6, 12.0), 2.5)


def test_apply_is_scale_then_shift():
    assert SIMILARITY.apply(np.array([[1.0, 2.0, -2.0]])).tolist() == [
        [500_002.5, -2_999_995.0, 7.0]
    ]


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize("shape", [(3,), (7, 3), (2, 5, 3)])
def test_inverse_undoes_apply(kind, shape):
    points = kind(np.random.default_rng(0).uniform(-1, 1, shape))
    back = SIMILARITY.inverse(SIMILARITY.apply(points))
    assert type(back) is type(points) and back.dtype == points.dtype and back.shape == points.shape
    assert abs(back - points).max() < 1e-9


def test_numpy_and_torch_agree_bit_by_bit():
    points = np.random.default_rng(1).uniform(-1, 1, (50, 3))
    for change in (SIMILARITY.apply, SIMILARITY.inverse):
        assert np.array_equal(change(points), change(torch.from_numpy(points)).numpy())


@pytest.mark.parametrize("points", [np.zeros((4, 3), np.float32), torch.zeros(4, 3)])
def test_the_dtype_stays(points):
    assert SIMILARITY.apply(points).dtype == SIMILARITY.inverse(points).dtype == points.dtype
