import pytest
import torch

from fluxflow.losses import reconstruction_loss


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_absolute_plus_weighted_squared_error(weight):
    prediction, target = torch.rand(2, 2, 3, 4, 4, dtype=torch.float64)
    errors = [float(a - b) for a, b in zip(prediction.flatten(), target.flatten(), strict=True)]
    expected = sum(abs(error) + weight * error**2 for error in errors) / len(errors)
    assert float(reconstruction_loss(prediction, target, weight)) == pytest.approx(expected)


def test_default_weight_of_the_squared_error():
    assert float(reconstruction_loss(torch.full((1, 3, 2, 2), 3.0), torch.ones(1, 3, 2, 2))) == pytest.approx(
        2 + 0.1 * 4
    )
