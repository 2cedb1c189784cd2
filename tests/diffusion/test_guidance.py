import torch

from fluxflow.diffusion.process import guide


def test_scale_extrapolates_from_unconditional_to_conditional():
    conditional, unconditional = torch.randn(2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(guide(conditional, unconditional, 0), unconditional)
    torch.testing.assert_close(guide(conditional, unconditional, 1), conditional)
    torch.testing.assert_close(guide(conditional, unconditional, 4.5), 4.5 * conditional - 3.5 * unconditional)
    assert torch.equal(guide(conditional, conditional, 7.0), conditional)
