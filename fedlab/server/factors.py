"""Averages of adapter factors, the formulas of FedIT, FLoRA, FedEx-LoRA and FlexLoRA.

The mean of A and the mean of B do not multiply to the mean of B A.

Client i of the cohort has ``B_i [out, r]``, ``A_i [r, in]`` and the weight ``p_i``. In every
function ``a`` is ``[m, r, in]``, ``b`` is ``[m, out, r]`` and ``p`` is ``[m]``, 1 in sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]  # A and B


def mean_factors(a: Tensor, b: Tensor, p: Tensor) -> Factors:
    """Average the factors: ``sum_i p_i A_i`` and ``sum_i p_i B_i``.

    FedIT, Zhang et al. 2024.

    Args:
        a: Factors A of the clients, ``[m, r, in]``.
        b: Factors B of the clients, ``[m, out, r]``.
        p: Weights of the clients, ``[m]``.

    Returns:
        A ``[r, in]`` and B ``[out, r]``.

    Example:
        >>> a = b = torch.tensor([1.0, 3.0]).reshape(2, 1, 1)  # two clients, one number each
        >>> p = torch.tensor([0.5, 0.5])
        >>> mean_a, mean_b = mean_factors(a, b, p)
        >>> (mean_b @ mean_a).item(), mean_product(a, b, p).item()
        (4.0, 5.0)
    """
    return torch.tensordot(p, a, 1), torch.tensordot(p, b, 1)


def mean_product(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """Average the products: ``sum_i p_i B_i A_i``, as an exact mean would.

    Args:
        a: Factors A of the clients, ``[m, r, in]``.
        b: Factors B of the clients, ``[m, out, r]``.
        p: Weights of the clients, ``[m]``.

    Returns:
        The mean product, ``[out, in]``.
    """
    return torch.einsum("m,mor,mri->oi", p, b, a)


def stack_factors(a: Tensor, b: Tensor, p: Tensor) -> Factors:
    """Stack the factors, so that their product is ``sum_i p_i B_i A_i``.

    FLoRA, Wang et al. 2024.

    Args:
        a: Factors A of the clients, ``[m, r, in]``.
        b: Factors B of the clients, ``[m, out, r]``.
        p: Weights of the clients, ``[m]``.

    Returns:
        All A_i, ``[m r, in]``, and all p_i B_i, ``[out, m r]``.

    Example:
        >>> a = b = torch.tensor([1.0, 3.0]).reshape(2, 1, 1)
        >>> stacked_a, stacked_b = stack_factors(a, b, torch.tensor([0.5, 0.5]))
        >>> (stacked_b @ stacked_a).item()
        5.0
    """
    return a.flatten(0, 1), (b * p[:, None, None]).transpose(0, 1).flatten(1)


def product_residual(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """Return the part of the mean product that the mean factors lack.

    ``sum_i p_i B_i A_i - B A = sum_i p_i (B_i - B) (A_i - A)``, with A and B the means. FedEx-LoRA,
    Singhal et al. 2025.

    Args:
        a: Factors A of the clients, ``[m, r, in]``.
        b: Factors B of the clients, ``[m, out, r]``.
        p: Weights of the clients, ``[m]``.

    Returns:
        The residual, ``[out, in]``.

    Example:
        >>> a = b = torch.tensor([1.0, 3.0]).reshape(2, 1, 1)
        >>> product_residual(a, b, torch.tensor([0.5, 0.5])).item()
        1.0
    """
    mean_a, mean_b = mean_factors(a, b, p)
    return mean_product(a - mean_a, b - mean_b, p)


def nearest_factors(product: Tensor, rank: int) -> Factors:
    """Return the factors whose product is nearest to a matrix, among all of this rank.

    Their rows and columns go by the singular values, the largest first.

    Args:
        product: Matrix ``[out, in]``.
        rank: Rank r of the factors.

    Returns:
        A ``[r, in]`` and B ``[out, r]``.

    Example:
        >>> a, b = nearest_factors(torch.diag(torch.tensor([4.0, 1.0])), 1)
        >>> (b @ a).round(decimals=4).tolist()
        [[4.0, 0.0], [0.0, 0.0]]
    """
    u, s, v = torch.linalg.svd(product, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root
