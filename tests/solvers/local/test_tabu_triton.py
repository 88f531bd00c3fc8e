"""The fused kernel of `tabu`: the same searches as its torch form, under Triton's interpreter and on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from problems import BlockProblem, instances
from solvers import UnavailableError
from solvers.local.tabu import TabuSearch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed; its wheels are for Linux"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def in_a_process(*command: str, **variables: str) -> str:
    """Run a Python program and return what it wrote; Triton reads its variables once, when it is imported."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRITON_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "1"} | variables,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@needs_triton
@pytest.mark.slow
def test_the_kernel_keeps_its_promises_under_the_interpreter():
    wrote = in_a_process(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(HERE / "interpreted_tabu.py"),
        TRITON_INTERPRET="1",
    )  # fmt: skip
    assert " passed" in wrote


@needs_triton
def test_the_kernel_compiles_for_a_card_that_is_not_there_and_spills_nothing(tmp_path):
    wrote = in_a_process("benchmarks/gpu_resources.py", "256", "1000", "4096", TRITON_CACHE_DIR=str(tmp_path))
    table = [line.split() for line in wrote.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert [int(row[0]) for row in table] == [256, 1000, 4096]
    for n, _, registers, spilled, programs, *_ in table:
        assert int(spilled) == 0, f"n = {n} spills"
        assert 32 <= int(registers) <= 128
        assert int(programs) >= 1
    *_, programs, _, _, _ = in_a_process(
        "benchmarks/gpu_resources.py", "--warps", "32", "4096", TRITON_CACHE_DIR=str(tmp_path)
    ).split()
    assert int(programs) == 1, "a program of 32 warps leaves no registers for itself"


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_asking_for_the_kernel_without_a_card_says_what_to_do(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UnavailableError, match=r"engine='triton' needs a CUDA device; engine='torch' does the same"):
        TabuSearch(engine="triton").solve(instances.random(8, 4, seed=0), seed=0)


def test_asking_for_the_kernel_without_triton_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="needs triton, which comes with torch for CUDA on Linux"):
        TabuSearch(engine="triton").solve(instances.random(8, 4, seed=0), seed=0)


@pytest.mark.gpu
@needs_gpu
@needs_triton
def test_a_card_takes_the_steps_of_the_torch_form():
    said = in_a_process("benchmarks/gpu_tabu.py", "--only", "same")
    for n in (16, 60, 256, 1000, 1024, 4096):
        assert f"same: n = {n}, 64 searches, 300 steps: the same states and energies\n" in said


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("n", [16, 256, 1024])
def test_a_card_gives_the_answers_of_the_torch_form(n):
    listed = [instances.random(n, n // 3, seed=seed) for seed in range(2)]
    settings = {"population": 3, "offspring": 9, "iterations": 20, "restarts": 4, "device": "cuda"}
    fused, plain = (TabuSearch(**settings, engine=e).solve_many(listed, seed=0) for e in ("triton", "torch"))
    assert {a.info["engine"] for a in fused} == {"triton"}
    assert [a.record.sample.tolist() for a in fused] == [a.record.sample.tolist() for a in plain]


@pytest.mark.gpu
@needs_gpu
@needs_triton
def test_auto_takes_the_kernel_on_a_card_and_the_torch_form_for_groups():
    solver = TabuSearch(population=3, offspring=6, device="cuda")
    assert solver.solve(instances.random(64, 20, seed=0), seed=0).info["engine"] == "triton"
    grouped = BlockProblem(np.eye(12), None, 2, groups=np.arange(12) // 4)
    assert solver.solve(grouped, seed=0).info["engine"] == "torch"


@pytest.mark.gpu
@needs_gpu
@needs_triton
def test_matrices_of_more_than_2_to_the_31_coefficients_are_read_where_they_are():
    from solvers.local.batched import tabu_triton

    problems, n = 33, 8192
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("less than 12 GB of the card's memory are free")
    Q = torch.zeros((problems, n, n), device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    last = torch.randn((n, n), device="cuda", generator=generator)
    Q[-1] = (last + last.T).fill_diagonal_(0.0)
    x = torch.zeros(n, device="cuda")
    x[: n // 2] = 1.0
    after = []
    for matrices in (Q, Q[-1:].clone()):
        shape = len(matrices), 1
        fields = (matrices[-1] @ x).expand(*shape, n).contiguous()
        rests = torch.where(x > 0, 0, -1).int().expand(*shape, n).contiguous()
        offspring_x = (rests >= 0).to(torch.uint8)
        energy = torch.zeros(shape, dtype=torch.float64, device="cuda")
        offspring, least = energy.clone(), energy + 1e-3
        found_at = torch.zeros(shape, dtype=torch.int32, device="cuda")
        streams = torch.full(shape, 7, device="cuda")
        tenures = torch.tensor([[10, 15, 10, 15]] * len(matrices), dtype=torch.int32, device="cuda")
        tabu_triton.take_steps(
            matrices, fields, rests, offspring_x, energy, offspring, found_at, least, streams, tenures, 0, 200, 1000
        )
        after.append((fields[-1], offspring_x[-1], energy[-1].item()))
    assert (after[0][0] == after[1][0]).all()
    assert (after[0][1] == after[1][1]).all()
    assert after[0][2] == after[1][2] < 0
