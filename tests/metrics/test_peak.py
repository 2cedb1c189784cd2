import pytest
import torch

from fluxflow.metrics.peak import cpu_peak, device_peak, gpu_peak


@pytest.mark.parametrize(
    ("name", "half", "tf32", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", True, True, 989.4),
        ("NVIDIA H100 PCIe", True, True, 756.0),
        ("NVIDIA A100-SXM4-80GB", False, True, 156.0),
        ("NVIDIA A100-SXM4-80GB", False, False, 19.5),
        ("NVIDIA A10", True, True, 125.0),
        ("NVIDIA GeForce RTX 4090", True, False, 165.2),
    ],
)
def test_known_gpus(name: str, half: bool, tf32: bool, tera: float) -> None:
    assert gpu_peak(name, half, tf32) == pytest.approx(tera * 1e12)


def test_what_is_not_in_the_table_has_no_peak() -> None:
    assert gpu_peak("NVIDIA A10G", True, True) is None
    assert device_peak(torch.device("meta"), half=True) is None


def test_the_peak_of_a_cpu_is_of_the_order_of_its_products() -> None:
    assert 1e6 < cpu_peak(torch.float32, side=64) < 1e14
