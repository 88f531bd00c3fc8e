"""Annealing and tabu search by single flips, for models without a cardinality.

As the kernels for swaps these work in float32 on e(x) = 1/2 x^T Q x + s.x, whose change by flipping i is
(1 - 2 x_i) g_i with the field g = s + Q x.
"""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled
from solvers.local.kernels.lanes import lesser
from solvers.local.kernels.random import exponential, next64
from solvers.local.kernels.tabu import BEST, GAIN, LARGE, NEVER, PRESENT

_M16, _S16 = np.uint64(0xFFFF), np.uint64(16)


@compiled(nogil=True, fastmath=True, error_model="numpy")
def anneal_flips(Q, fields, x, temperatures, progress, account, stream, proposals):  # type: ignore[no-untyped-def]
    """Propose so many flips, variable after variable, or fewer where the last sweep ends; return how many.

    Arrays:
        Q: couplings, float32 [n, n].
        fields, x: fields, float32 [n], and the state, uint8 [n]; kept up.
        temperatures: one for each sweep, float32 [s].
        progress, account: [sweep, variable] of the next proposal, int64 [2], and [energy], float64 [1].
        stream: random stream, uint64 [1].
    """
    n = x.shape[0]
    sweep, i = progress[0], progress[1]
    energy = account[0]
    done = 0
    while done < proposals and sweep < temperatures.shape[0]:
        temperature = temperatures[sweep]
        while i < n and done < proposals:
            done += 1
            sign = np.float32(1.0) - np.float32(2.0) * np.float32(x[i])
            change = sign * fields[i]
            if change <= temperature * exponential(next64(stream)):
                energy += change
                x[i] ^= 1
                row = Q[i]
                for l in range(n):
                    fields[l] += sign * row[l]
            i += 1
        if i == n:
            sweep += 1
            i = 0
    progress[0], progress[1] = sweep, i
    account[0] = energy
    return done


@compiled(nogil=True, fastmath=True, error_model="numpy")
def tabu_flips(Q, state, search, stream, steps):  # type: ignore[no-untyped-def]
    """Take so many tabu steps, each the best flip of a variable that is not tabu.

    Arrays:
        Q: couplings, float32 [n, n].
        state: a `FlipState`; updated.
        search: updated; `leave_at` holds the step from which each variable may be flipped again, `enter_at` is not
            used, and the tenures are [least, spread] of the steps for which a flipped variable is tabu.
        stream: random stream.
        steps: number of steps.
    """
    x, fields, signs, free_at, best_x = state.x, state.fields, state.signs, search.leave_at, search.best_x
    tenure, clock, account = search.tenures, search.clock, search.account
    n = x.shape[0]
    now = np.int32(clock[0])
    energy, best, least = account[PRESENT], account[BEST], account[GAIN]
    rest, rest_spread = np.int32(tenure[0]), np.uint64(tenure[1])
    shuffle = np.int32(1)
    while shuffle < n:
        shuffle *= np.int32(2)
    shuffle -= np.int32(1)
    for _ in range(steps):
        now += np.int32(1)
        bits = next64(stream)
        flip = np.int32(bits & _M16) & shuffle
        low = LARGE
        for l in range(n):
            low = lesser(low, signs[l] * fields[l] if free_at[l] <= now else LARGE)
        if low == LARGE:
            continue
        key = NEVER
        for l in range(n):
            here = free_at[l] <= now and signs[l] * fields[l] == low
            key = min(key, (np.int32(l) ^ flip) if here else NEVER)
        i = key ^ flip
        energy += np.float64(low)
        sign = signs[i]
        row = Q[i]
        for l in range(n):
            fields[l] += sign * row[l]
        x[i] ^= 1
        signs[i] = -sign
        free_at[i] = now + rest + np.int32((((bits >> _S16) & _M16) * rest_spread) >> _S16)
        if energy < best - least:
            best = energy
            best_x[:] = x
    clock[0] = now
    account[PRESENT], account[BEST] = energy, best


@compiled(nogil=True, fastmath=True, error_model="numpy")
def descend_flips(Q, fields, x):  # type: ignore[no-untyped-def]
    """Flip whatever lowers the energy, variable after variable, until nothing does.

    Arrays:
        Q: couplings [n, n], of any float dtype.
        fields, x: fields, float64 [n], and the state, uint8 [n]; kept up.
    """
    n = x.shape[0]
    size = 0.0
    for l in range(n):
        size = max(size, abs(fields[l]))
    least = -1e-12 * size
    quiet, i = 0, 0
    while quiet < n:
        quiet += 1
        sign = 1.0 - 2.0 * x[i]
        if sign * fields[i] < least:
            x[i] ^= 1
            row = Q[i]
            for l in range(n):
                fields[l] += sign * row[l]
            quiet = 0
        i = i + 1 if i + 1 < n else 0
