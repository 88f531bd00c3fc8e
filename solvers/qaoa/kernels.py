"""Compiled loops of the exact simulations; amplitudes are real and imaginary parts [2, D]."""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled


@compiled(nogil=True, error_model="numpy")
def phase(psi, costs, gamma):  # type: ignore[no-untyped-def]
    """Apply exp(-i gamma e) in place, e = costs [D]."""
    re, im = psi[0], psi[1]
    for x in range(len(costs)):
        c, s = np.cos(gamma * costs[x]), np.sin(gamma * costs[x])
        a, b = re[x], im[x]
        re[x] = c * a + s * b
        im[x] = c * b - s * a


@compiled(nogil=True, error_model="numpy")
def unphase(psi, lam, costs, gamma):  # type: ignore[no-untyped-def]
    """Undo :func:`phase` on both states; return 2 Im <lam| e |psi>, the derivative by gamma."""
    total = 0.0
    for x in range(len(costs)):
        c, s = np.cos(gamma * costs[x]), np.sin(gamma * costs[x])
        a, b, p, q = psi[0, x], psi[1, x], lam[0, x], lam[1, x]
        total += costs[x] * (p * b - q * a)
        psi[0, x], psi[1, x] = c * a - s * b, c * b + s * a
        lam[0, x], lam[1, x] = c * p - s * q, c * q + s * p
    return 2.0 * total


@compiled(nogil=True, error_model="numpy")
def mix_pairs(psi, ends, runs, weights, first, second, beta):  # type: ignore[no-untyped-def]
    """Apply exp(+i beta w (XX + YY) / 2) for each pair of qubits, in order, in place.

    Args:
        psi: amplitudes [2, D].
        ends: where the runs of gate g end [g].
        runs: [r, 4]: first amplitudes a and b of two stretches, where their list of positions begins, and its length;
            amplitude a + first[t] is turned with b + second[t], or a + t with b + t where there is no list (-1).
        weights: factor w of each gate [g].
        first: positions in the first stretch, list after list.
        second: those in the second stretch.
        beta: the layer's angle.
    """
    re, im = psi[0], psi[1]
    begin = 0
    for gate in range(len(ends)):
        c, s = np.cos(beta * weights[gate]), np.sin(beta * weights[gate])
        for run in range(begin, ends[gate]):
            a, b, at, length = runs[run]
            if at < 0:
                _turn(re[a : a + length], im[a : a + length], re[b : b + length], im[b : b + length], c, s)
            else:
                for t in range(at, at + length):
                    x, y = a + first[t], b + second[t]
                    xr, xi, yr, yi = re[x], im[x], re[y], im[y]
                    re[x], im[x] = c * xr - s * yi, c * xi + s * yr
                    re[y], im[y] = c * yr - s * xi, c * yi + s * xr
        begin = ends[gate]


@compiled(nogil=True, error_model="numpy")
def unmix_pairs(psi, lam, ends, runs, weights, first, second, beta):  # type: ignore[no-untyped-def]
    """Undo :func:`mix_pairs` on both states; return -2 Im <lam| B |psi>, summed over gates, the derivative by beta."""
    total = 0.0
    pr, pi, lr, li = psi[0], psi[1], lam[0], lam[1]
    for gate in range(len(ends) - 1, -1, -1):
        c, s = np.cos(beta * weights[gate]), np.sin(beta * weights[gate])
        part = 0.0
        for run in range(ends[gate - 1] if gate else 0, ends[gate]):
            a, b, at, length = runs[run]
            if at < 0:
                p, q = slice(a, a + length), slice(b, b + length)
                part += _overlap(pr[p], pi[p], pr[q], pi[q], lr[p], li[p], lr[q], li[q])
                _turn(pr[p], pi[p], pr[q], pi[q], c, -s)
                _turn(lr[p], li[p], lr[q], li[q], c, -s)
            else:
                for t in range(at, at + length):
                    x, y = a + first[t], b + second[t]
                    xr, xi, yr, yi = pr[x], pi[x], pr[y], pi[y]
                    ur, ui, vr, vi = lr[x], li[x], lr[y], li[y]
                    part += ur * yi - ui * yr + vr * xi - vi * xr
                    pr[x], pi[x] = c * xr + s * yi, c * xi - s * yr
                    pr[y], pi[y] = c * yr + s * xi, c * yi - s * xr
                    lr[x], li[x] = c * ur + s * vi, c * ui - s * vr
                    lr[y], li[y] = c * vr + s * ui, c * vi - s * ur
        total += weights[gate] * part
    return -2.0 * total


@compiled(nogil=True, inline="always")
def _turn(xr, xi, yr, yi, c, s):  # type: ignore[no-untyped-def]
    for t in range(len(xr)):
        a, b, p, q = xr[t], xi[t], yr[t], yi[t]
        xr[t] = c * a - s * q
        xi[t] = c * b + s * p
        yr[t] = c * p - s * b
        yi[t] = c * q + s * a


@compiled(nogil=True, fastmath={"reassoc"})
def _overlap(xr, xi, yr, yi, ur, ui, vr, vi):  # type: ignore[no-untyped-def]
    total = 0.0
    for t in range(len(xr)):
        total += ur[t] * yi[t] - ui[t] * yr[t] + vr[t] * xi[t] - vi[t] * xr[t]
    return total


@compiled(nogil=True, error_model="numpy")
def mix_qubits(psi, tilts, beta):  # type: ignore[no-untyped-def]
    """Apply exp(+i beta (sin theta X + cos theta Z)) to each qubit in place, theta = tilts [n], psi [2, 2^n]."""
    c, s = np.cos(beta), np.sin(beta)
    for qubit in range(len(tilts)):
        x, z = np.sin(tilts[qubit]), np.cos(tilts[qubit])
        _turn_qubit(psi, 1 << qubit, c, s * x, s * z)


@compiled(nogil=True, error_model="numpy")
def unmix_qubits(psi, lam, tilts, beta):  # type: ignore[no-untyped-def]
    """Undo :func:`mix_qubits` on both states; return -2 Im <lam| B |psi>, the derivative by beta."""
    c, s = np.cos(beta), np.sin(beta)
    total = 0.0
    pr, pi, lr, li = psi[0], psi[1], lam[0], lam[1]
    for qubit in range(len(tilts)):  # in any order, as mixers of different qubits commute
        x, z = np.sin(tilts[qubit]), np.cos(tilts[qubit])
        step = 1 << qubit
        flipped, kept = 0.0, 0.0
        for base in range(0, len(pr), 2 * step):
            for a in range(base, base + step):
                b = a + step
                flipped += lr[a] * pi[b] - li[a] * pr[b] + lr[b] * pi[a] - li[b] * pr[a]
                kept += lr[a] * pi[a] - li[a] * pr[a] - lr[b] * pi[b] + li[b] * pr[b]
        total += x * flipped + z * kept
        _turn_qubit(psi, step, c, -s * x, -s * z)
        _turn_qubit(lam, step, c, -s * x, -s * z)
    return -2.0 * total


@compiled(nogil=True)
def _turn_qubit(psi, step, c, sx, sz):  # type: ignore[no-untyped-def]
    """Apply c + i (sx X + sz Z) to the qubit whose bit is `step`."""
    re, im = psi[0], psi[1]
    for base in range(0, len(re), 2 * step):
        for a in range(base, base + step):
            b = a + step
            ar, ai, br, bi = re[a], im[a], re[b], im[b]
            re[a], im[a] = c * ar - sx * bi - sz * ai, c * ai + sx * br + sz * ar
            re[b], im[b] = c * br - sx * ai + sz * bi, c * bi + sx * ar - sz * br
