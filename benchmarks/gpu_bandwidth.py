"""What a card's memory and its L2 cache deliver, measured.

    python benchmarks/gpu_bandwidth.py

Memory: a copy between two tensors of 2 GB (or a sixteenth of what is free), read and written bytes together. L2 cache:
a quarter of it is read over and over by all multiprocessors, past their own caches.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
import triton
import triton.language as tl

_BLOCK = 2048  # numbers that a program of 128 threads reads at once: four vectors of 16 bytes a thread
_ROUNDS = 4000


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device is here")
    print(torch.cuda.get_device_name())
    print(f"memory (copy) {memory_bandwidth() / 1e12:.2f} TB/s, L2 cache (read) {cache_bandwidth() / 1e12:.2f} TB/s")


def memory_bandwidth() -> float:
    """Bytes a second of a large copy, read and written ones together."""
    size = min(2 << 30, torch.cuda.mem_get_info()[0] // 16)
    source, target = (torch.empty(size, dtype=torch.uint8, device="cuda").random_() for _ in range(2))
    return 2 * size / seconds(lambda: target.copy_(source))


def cache_bandwidth() -> float:
    """Bytes a second read from the L2 cache."""
    return read_bandwidth(torch.cuda.get_device_properties(0).L2_cache_size // 4)


def read_bandwidth(nbytes: int) -> float:
    """Bytes a second where all multiprocessors read so many bytes over and over, past their own caches."""
    card = torch.cuda.get_device_properties(0)
    size = nbytes // 4 // _BLOCK * _BLOCK
    source = torch.randn(size, device="cuda")
    programs = 16 * card.multi_processor_count
    sums = torch.empty(programs, device="cuda")
    taken = seconds(lambda: _read[(programs,)](source, sums, size // _BLOCK, _ROUNDS, BLOCK=_BLOCK, num_warps=4))
    return 4.0 * programs * _ROUNDS * _BLOCK / taken


def seconds(work: Callable[[], object], times: int = 7) -> float:
    """Median time of some work on the device, the first run not counted."""
    taken = []
    for _ in range(times + 1):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(taken[1:])


@triton.jit
def _read(source, sums, blocks, rounds, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    block = tl.program_id(0) % blocks
    for _ in range(rounds):
        total += tl.load(source + block * BLOCK + at, cache_modifier=".cg")
        block = (block + 7) % blocks
    tl.store(sums + tl.program_id(0), tl.sum(total))


if __name__ == "__main__":
    main()
