"""Memory that steps share."""

import torch

from skdebias._engine._workspace import Workspace

CPU = torch.device("cpu")


def test_a_name_is_the_same_memory_in_every_step():
    workspace = Workspace(CPU)
    first = workspace("rows", 3, 4)
    assert workspace("rows", 3, 4).data_ptr() == first.data_ptr()
    assert workspace("rows", 4, 2).data_ptr() == first.data_ptr()
    assert workspace("others", 3, 4).data_ptr() != first.data_ptr()


def test_it_grows_and_serves_the_smaller_shape_from_the_new_memory():
    workspace = Workspace(CPU)
    workspace("rows", 2, 2)
    large = workspace("rows", 5, 5)
    assert large.shape == (5, 5)
    assert workspace("rows", 2, 2).data_ptr() == large.data_ptr()


def test_types():
    workspace = Workspace(CPU)
    assert workspace("sums", 2, dtype=torch.float64).dtype == torch.float64
    assert workspace("sums", 2).dtype == torch.float32
    assert workspace("sums", 2, dtype=torch.float64).dtype == torch.float64
