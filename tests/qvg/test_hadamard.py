"""The rotation against its matrix."""

from __future__ import annotations

import pytest
import torch

from qvg.ops.hadamard import hadamard


def test_the_matrix_by_hand() -> None:
    rows = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    assert (2 * hadamard(torch.eye(4))).tolist() == rows


@pytest.mark.parametrize("size", [1, 2, 64, 128])
def test_it_is_orthonormal_and_its_own_inverse(size: int) -> None:
    matrix = hadamard(torch.eye(size))
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(size))
    assert torch.equal(matrix, matrix.mT)
    x = torch.randn(3, 5, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(hadamard(x), x @ matrix)
    torch.testing.assert_close(hadamard(hadamard(x)), x)


def test_a_token_does_not_depend_on_the_others() -> None:
    x = torch.randn(2, 100, 128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(hadamard(x)[:, 37:41], hadamard(x[:, 37:41]))


@pytest.mark.parametrize("size", [0, 3, 96])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"D={size} is not a power of two"):
        hadamard(torch.zeros(2, size))
