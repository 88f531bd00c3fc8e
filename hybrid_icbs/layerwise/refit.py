"""Refit of kept weights: the weights of each row that minimise its layer's error on its mask.

For a row w [d], kept weights K and Gram matrix H this is  v_K = inv(H_KK) (H w)_K,  the minimum of (v - w)^T H (v - w).
All is computed in float64, as H is too ill-conditioned for less.
"""

from __future__ import annotations

import torch

from hybrid_icbs.errors import PruningError

EXACT_UP_TO = 1024
"""Inputs up to which each row's sub-matrix is factorised."""

_BATCH_BYTES, _BATCH_BYTES_OF_GPU = 1 << 22, 1 << 26
"""Bytes of sub-matrices per batched factorisation, or of rows per conjugate gradient: larger ones leave a processor's
cache and are not faster."""

_LEAST_ROWS = 64  # of a conjugate gradient: they share each pass over H
TOLERANCE, TOLERANCE_HALF = 1e-7, 1e-4
"""Residual of a row at which conjugate gradients stop, for weights of full and of half precision.

With the second the error is a tenth of that of rounding to bfloat16, for half the steps.
"""

_MOST_STEPS = 2000


def refit(
    W: torch.Tensor,
    H: torch.Tensor,
    kept: torch.Tensor,
    start: torch.Tensor | None = None,
    tolerance: float = TOLERANCE,
) -> torch.Tensor:
    """Refit each row on its mask.

    Rows of up to 1,024 inputs are solved by Cholesky factorisations, wider ones by preconditioned conjugate gradients
    on many rows at once, with one product with H per step instead of a factorisation per row.

    Args:
        W: the dense weights [R, d].
        H: damped Gram matrix, positive definite [d, d].
        kept: mask, bool [R, d].
        start: initial weights of the conjugate gradients [R, d]; None for W on the mask.
        tolerance: residual at which they stop, relative to a row's right-hand side.

    Returns:
        Weights in float64, exactly zero outside the mask [R, d].
    """
    W, H = W.double(), H.double()
    if W.shape[1] <= EXACT_UP_TO:
        return refit_exactly(W, H, kept)
    return refit_iteratively(W, H, kept, W if start is None else start.double(), tolerance)


def refit_exactly(W: torch.Tensor, H: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Refit each row by a Cholesky factorisation of H_KK. Arguments in float64, otherwise as for :func:`refit`."""
    targets, out = W @ H, torch.zeros_like(W)
    counts = kept.sum(1)
    order = torch.argsort(counts, stable=True)  # rows of similar counts together, with little padding
    # The kept variables of each row first, ascending.
    places = torch.argsort((~kept).to(torch.int8), dim=1, stable=True)
    begin = 0
    while begin < len(order):
        widest = int(counts[order[-1]])
        rows = order[begin : begin + max(1, _batch_bytes(W) // (8 * max(1, widest) ** 2))]
        width = int(counts[rows].max())
        begin += len(rows)
        if width == 0:
            continue
        index = places[rows, :width]
        real = torch.arange(width, device=W.device) < counts[rows, None]
        system = H[index[:, :, None], index[:, None, :]]
        system *= real[:, :, None] & real[:, None, :]
        system.diagonal(dim1=1, dim2=2).add_((~real).to(W.dtype))  # padding solves 1 v = 0
        right = torch.where(real, targets[rows[:, None], index], 0.0)
        solved = torch.cholesky_solve(right[..., None], torch.linalg.cholesky(system))[..., 0]
        row, column = torch.nonzero(real, as_tuple=True)
        out[rows[row], index[row, column]] = solved[row, column]
    return out


def refit_iteratively(
    W: torch.Tensor, H: torch.Tensor, kept: torch.Tensor, start: torch.Tensor, tolerance: float = TOLERANCE
) -> torch.Tensor:
    """Refit many rows at once by conjugate gradients with a diagonal preconditioner; converged rows are left out.

    Arguments in float64, otherwise as for :func:`refit`; `tolerance` is in the norm of the preconditioner.
    """
    out, at_once = torch.empty_like(W), max(_LEAST_ROWS, _batch_bytes(W) // (8 * W.shape[1]))
    scale = H.diagonal().reciprocal()
    for found, w, k, s in zip(*(each.split(at_once) for each in (out, W, kept, start)), strict=True):
        found.copy_(_conjugate_gradients(w, k, s, H, scale, tolerance))
    return out


def damped(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """G + damping * mean(diag G) I in float64; damping * I if G is zero."""
    gram = gram.double()
    mean = gram.diagonal().mean().item() or 1.0
    return gram + damping * mean * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def inverted(H: torch.Tensor) -> torch.Tensor:
    """inv(H) of a symmetric positive definite matrix [d, d].

    Raises:
        PruningError: H is not positive definite in float64.
    """
    factor, failed = torch.linalg.cholesky_ex(H)
    if failed:
        raise PruningError(f"a Gram matrix {list(H.shape)} is not positive definite; raise the damping")
    return torch.cholesky_inverse(factor)


def _batch_bytes(W: torch.Tensor) -> int:
    return _BATCH_BYTES if W.device.type == "cpu" else _BATCH_BYTES_OF_GPU


def _conjugate_gradients(
    W: torch.Tensor, kept: torch.Tensor, start: torch.Tensor, H: torch.Tensor, scale: torch.Tensor, tolerance: float
) -> torch.Tensor:
    """Conjugate gradients on some rows; `scale` is the preconditioner [d]."""
    mask = kept.to(W.dtype)
    right = (W @ H) * mask
    v = start * mask
    r = right - (v @ H) * mask
    z = r * scale
    p, rho = z.clone(), (r * z).sum(1)
    done = tolerance**2 * (right.square() * scale).sum(1)
    active = torch.nonzero(rho > done)[:, 0]
    for _ in range(_MOST_STEPS):
        if not len(active):
            break
        direction, residual = p[active], r[active]
        product = (direction @ H) * mask[active]
        step = rho[active] / (direction * product).sum(1)
        v[active] += step[:, None] * direction
        residual -= step[:, None] * product
        z = residual * scale
        after = (residual * z).sum(1)
        p[active] = z + (after / rho[active])[:, None] * direction
        r[active], rho[active] = residual, after
        active = active[after > done[active]]
    return v
