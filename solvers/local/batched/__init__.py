"""What the batched tabu search of :mod:`solvers.local.tabu_torch` runs on a GPU.

- `tabu_triton`: tabu steps as one fused Triton kernel.
- `torch_random`: the random streams of the compiled kernels, on tensors.
"""
