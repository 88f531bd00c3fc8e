"""Tabu steps on a GPU: the steps of :func:`solvers.local.kernels.tabu.tabu_matrix`, one program for each search.

A program keeps its search's fields and rests in registers and takes thousands of steps in one launch. A step reads two
rows of the matrix, 8 n bytes, and that is all its traffic: the best leaver's row prices what may enter and stays in
registers until the fields change. So the memory that holds the matrices sets the pace, if enough searches hide one
another's latency: the L2 cache while the matrices fit there (n = 3,500 in 50 MB), then the card's memory.

For that a search must need few registers and instructions. Compiled for a Hopper card, n = 256, 512, 1,024 and 4,096
run as 25, 16, 8 and 2 programs a multiprocessor and nothing spills; to issue a step takes a multiprocessor about 110,
169, 270 and 1,114 cycles, and its rows take 84, 167, 334 and 1,337 to arrive if an L2 cache of 5.5 TB/s serves all 132
of them (`benchmarks/gpu_resources.py`). No time has been measured on a card yet.

Of equally good moves the one is taken whose index, with bits flipped at random, is least: no layout of threads changes
an answer, and Triton's interpreter (`TRITON_INTERPRET=1`, on the CPU) gives the same as a card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch

LARGEST = 8192
"""Variables up to which a search fits into the registers of one program: 16 for each of 512 threads."""

NEVER = 2**31 - 1
"""Rest of the columns that only fill up a row: they neither leave nor enter."""

_REGISTERS = 65_536  # of a multiprocessor, all of which one program may use

_NEVER = tl.constexpr(NEVER)
_INFINITY = tl.constexpr(float("inf"))
_GAMMA = tl.constexpr(0x9E3779B97F4A7C15)  # the constants of SplitMix64, as in solvers.local.kernels.random
_MIX1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MIX2 = tl.constexpr(0x94D049BB133111EB)


def width(n: int) -> int:
    """Columns to which rows of n variables are filled up: whole vectors of 16 bytes and sectors of 64."""
    return -(-n // 16) * 16


def block(n: int) -> int:
    """Variables that a program holds: the next power of two."""
    return max(32, 1 << (n - 1).bit_length())


def warps(n: int) -> int:
    """Warps of a program: 8 variables a thread up to n = 256, 16 above."""
    return max(1, block(n) // 512)


def registers(n: int, warps: int) -> int:
    """Registers of a thread at most: with less it spills, with more fewer programs fit on a multiprocessor, or none."""
    return min(80 if block(n) <= 256 else 128, _REGISTERS // (32 * warps))


def take_steps(
    Q: torch.Tensor, fields: torch.Tensor, rests: torch.Tensor, offspring_x: torch.Tensor, energy: torch.Tensor,
    offspring: torch.Tensor, found_at: torch.Tensor, least: torch.Tensor, streams: torch.Tensor, tenures: torch.Tensor,
    begin: int, end: int, patience: int, *, num_warps: int | None = None,
) -> None:  # fmt: skip
    """Take the steps `begin` + 1 .. `end` of every search that has not run out of patience; all arrays are kept up.

    Args:
        Q: couplings, float32 [P, n, W] with W = `width(n)`; columns from n on are zero.
        fields: g = s + Q x, float32 [P, M, W].
        rests: the state and how long it holds: t for a one and -1 - t for a zero that must rest through step t,
            `NEVER` for columns from n on, int32 [P, M, W].
        offspring_x: the best state of each search, uint8 [P, M, W].
        energy: energies of the present states, float64 [P, M].
        offspring: energies of the best states, float64 [P, M].
        found_at: the steps of the best states, int32 [P, M].
        least: the gain from which a state counts as better, float64 [P, M].
        streams: random streams, int64 [P, M]; step t of a search uses the t-th number of its stream.
        tenures: as :class:`solvers.local.arrays.Groups` has them, int32 [P, 4].
        begin: steps taken before.
        end: steps taken after, at most 2^30.
        patience: steps without a better state that end a search, at most 2^30.
        num_warps: threads of a program by the 32, None for what is thought best; changes no result.
    """
    problems, searches, wide = fields.shape
    n = Q.shape[1]
    num_warps = num_warps or warps(n)
    _steps[(problems * searches,)](
        Q, fields, rests, offspring_x, energy, offspring, found_at, least, streams, tenures,
        searches, n, wide, begin, end, patience,
        BLOCK=block(n), FULL=block(n) == wide, num_warps=num_warps, maxnreg=registers(n, num_warps),
        enable_fp_fusion=False,
    )  # fmt: skip


def make_ready(n: int, device: str) -> None:
    """Compile for problems of n variables, or load what was compiled before, by a launch that takes no step."""
    import torch

    def zeros(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    wide = width(n)
    real, whole, row = torch.float64, torch.int32, (1, 1, wide)
    take_steps(
        zeros(torch.float32, *row).expand(1, n, wide), zeros(torch.float32, *row), zeros(whole, *row),
        zeros(torch.uint8, *row), zeros(real, 1, 1), zeros(real, 1, 1), zeros(whole, 1, 1), zeros(real, 1, 1),
        zeros(torch.int64, 1, 1), zeros(whole, 1, 4), begin=0, end=0, patience=1,
    )  # fmt: skip


@triton.jit
def _mixed(z):  # type: ignore[no-untyped-def]
    z = (z ^ (z >> 30)) * _MIX1
    z = (z ^ (z >> 27)) * _MIX2
    return z ^ (z >> 31)


# The numbers of problems, searches, variables and steps are not to be compiled for.
@triton.jit(do_not_specialize=["searches", "n", "begin", "end", "patience"])  # type: ignore[untyped-decorator]
def _steps(  # type: ignore[no-untyped-def]
    Q, fields, rests, offspring_x, energies, offspring, found_at, leasts, streams, tenures,
    searches, n, wide, begin, end, patience,
    BLOCK: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    search = tl.program_id(0).to(tl.int64)  # in 64 bits, as all that is multiplied with it: P n n may pass 2^31
    problem = search // searches
    at = tl.arange(0, BLOCK)
    matrix = Q + problem * n * wide
    here = search * wide + at
    within = at < wide
    field = tl.load(fields + here, within, 0.0)
    rest = tl.load(rests + here, within, _NEVER)
    energy = tl.load(energies + search)
    best = tl.load(offspring + search)
    least = tl.load(leasts + search)
    found = tl.load(found_at + search)
    stream = tl.load(streams + search).to(tl.uint64, bitcast=True)
    stay = tl.load(tenures + 4 * problem)
    stay_spread = tl.load(tenures + 4 * problem + 1)
    away = tl.load(tenures + 4 * problem + 2)
    away_spread = tl.load(tenures + 4 * problem + 3)
    now = begin
    unsaved = False  # whether the present state is the best and not yet written
    while (now < end) & (now - found < patience):
        now += 1
        bits = _mixed(stream + now.to(tl.uint64) * _GAMMA)
        flip = (bits & 0xFFFF).to(tl.int32) & (BLOCK - 1)
        # 0 <= rest < now of a one in a single comparison, and -now <= rest < 0 of a zero in another.
        free = rest.to(tl.uint32, bitcast=True) < now.to(tl.uint32)
        leaving = tl.where(free, field, -_INFINITY)
        most = tl.max(leaving)
        if most > -_INFINITY:
            out = tl.min(tl.where(leaving == most, at ^ flip, BLOCK)) ^ flip
            row = matrix + out.to(tl.int64) * wide + at
            lost = tl.load(row) if FULL else tl.load(row, within, 0.0)
            free = rest.to(tl.uint32, bitcast=True) >= (-now).to(tl.uint32, bitcast=True)
            entering = tl.where(free, field - lost, _INFINITY)
            low = tl.min(entering)
            if low < _INFINITY:
                into = tl.min(tl.where(entering == low, at ^ flip, BLOCK)) ^ flip
                row = matrix + into.to(tl.int64) * wide + at
                gained = tl.load(row) if FULL else tl.load(row, within, 0.0)
                after = energy + (low.to(tl.float64) - most.to(tl.float64))
                better = after < best - least
                # A state is written when it is left for no better one: once a descent, not once a step of it.
                if unsaved & (not better):
                    tl.store(offspring_x + here, (rest >= 0).to(tl.uint8), FULL | within)
                unsaved = better
                energy = after
                if better:
                    best = after
                    found = now
                field += gained - lost
                kept_away = now + away + ((((bits >> 16) & 0xFFFF).to(tl.int32) * away_spread) >> 16) - 1
                kept = now + stay + ((((bits >> 32) & 0xFFFF).to(tl.int32) * stay_spread) >> 16) - 1
                rest = tl.where(at == out, -1 - kept_away, rest)
                rest = tl.where(at == into, kept, rest)
    if unsaved:
        tl.store(offspring_x + here, (rest >= 0).to(tl.uint8), within)
    tl.store(fields + here, field, within)
    tl.store(rests + here, rest, within)
    tl.store(energies + search, energy)
    tl.store(offspring + search, best)
    tl.store(found_at + search, found)
