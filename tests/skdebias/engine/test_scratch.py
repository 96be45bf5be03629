"""Memory that steps share."""

import torch

from skdebias._engine._scratch import Scratch

CPU = torch.device("cpu")


def test_a_name_is_the_same_memory_in_every_step():
    scratch = Scratch(CPU)
    first = scratch("rows", 3, 4)
    assert scratch("rows", 3, 4).data_ptr() == first.data_ptr()
    assert scratch("rows", 4, 2).data_ptr() == first.data_ptr()
    assert scratch("others", 3, 4).data_ptr() != first.data_ptr()


def test_it_grows_and_serves_the_smaller_shape_from_the_new_memory():
    scratch = Scratch(CPU)
    scratch("rows", 2, 2)
    large = scratch("rows", 5, 5)
    assert large.shape == (5, 5)
    assert scratch("rows", 2, 2).data_ptr() == large.data_ptr()


def test_types():
    scratch = Scratch(CPU)
    assert scratch("sums", 2, dtype=torch.float64).dtype == torch.float64
    assert scratch("sums", 2).dtype == torch.float32
    assert scratch("sums", 2, dtype=torch.float64).dtype == torch.float64
