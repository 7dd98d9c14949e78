"""Tensors in one piece of memory come back as they were."""

import pytest
import torch

from safe_train.io.packed_tensors import ALIGNMENT, PackedTensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_packed_tensors_come_back_as_they_were(dtype):
    tensors = {
        str(shape): (torch.randn(shape) * 9).to(dtype) for shape in [(), (0,), (1,), (3, 5, 7), (2, 0, 4), (129,)]
    }
    packed = PackedTensors.pack(tensors)
    found = packed.unpack()
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].shape == tensor.shape
        assert (found[name].dtype, found[name].is_contiguous()) == (dtype, True)
    assert all(start % ALIGNMENT == 0 for _, _, start in packed.places.values())


def test_a_tensor_that_is_not_contiguous_is_packed():
    tensor = torch.arange(12).view(3, 4).t()
    assert torch.equal(PackedTensors.pack({"x": tensor}).unpack()["x"], tensor)
