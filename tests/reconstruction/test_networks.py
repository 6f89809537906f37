import torch

from dss.reconstruction.networks import Hash


def test_hash_is_continuous_and_twice_differentiable():
    torch.manual_seed(0)
    encoding = Hash(3, 8, 4, 2.0).double()
    torch.nn.init.normal_(encoding.table)
    points = (torch.rand(6, 3, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    assert torch.autograd.gradcheck(encoding, points)
    assert torch.autograd.gradgradcheck(encoding, points)
    border = torch.tensor([[0.5, 0.3, 0.1]], dtype=torch.float64)  # on a cell's face
    torch.testing.assert_close(encoding(border - 1e-9), encoding(border + 1e-9), atol=1e-6, rtol=0)
    assert encoding(torch.tensor([[-3.0, 1, 3]], dtype=torch.float64)).isfinite().all()
