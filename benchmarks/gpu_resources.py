"""What the compiler makes of `tabu`'s fused kernel for a Hopper card; no card is needed, only Triton.

    python benchmarks/gpu_resources.py [--warps 1,2,4] [N ..]

For each n: registers and spilled bytes of a thread, programs that fit on a multiprocessor at once, machine instructions
in the loop of a step (the rarely taken branch that saves a state among them), the cycles that a multiprocessor takes to
issue them, and the cycles in which the step's two rows arrive if an L2 cache of 5.5 TB/s serves all 132 multiprocessors
at 1.7 GHz. Where the first are below the second, and enough programs hide one another's latency, memory sets the pace.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

REGISTERS, WARPS, PROGRAMS = 65_536, 64, 32  # of a Hopper multiprocessor
L2_BYTES_A_CYCLE = 5.5e12 / 132 / 1.7e9  # for one of its multiprocessors; other people's measurements of H100 cards
SIZES = (256, 512, 1000, 1024, 4096, 8192)


def main() -> None:
    parser = argparse.ArgumentParser(description="Registers and instructions of tabu's fused kernel on a Hopper card.")
    parser.add_argument("n", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--warps", help="warps of a program to try, with commas; the kernel's own choice without")
    arguments = parser.parse_args()
    import triton

    from solvers.local.batched import tabu_triton

    print(f"triton {triton.__version__}, compiled for compute capability 9.0")
    print(f"{'n':>5} {'warps':>5} {'registers':>9} {'spilled':>7} {'programs':>8} {'instructions':>12} "
          f"{'issue cycles':>12} {'row cycles':>10}")  # fmt: skip
    for n in arguments.n:
        for warps in map(int, arguments.warps.split(",")) if arguments.warps else [tabu_triton.warps(n)]:
            registers, spilled, instructions = compiled(n, warps)
            allotted = -(-registers // 8) * 8 * 32 * warps
            programs = min(PROGRAMS, WARPS // warps, REGISTERS // allotted)
            issue, rows = instructions * warps / 4, 8 * n / L2_BYTES_A_CYCLE
            print(f"{n:>5} {warps:>5} {registers:>9} {spilled:>7} {programs:>8} {instructions:>12} "
                  f"{issue:>12.0f} {rows:>10.0f}")  # fmt: skip


def compiled(n: int, warps: int) -> tuple[int, int, int]:
    """Registers and spilled bytes of a thread, and instructions in the loop of a step."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from solvers.local.batched import tabu_triton

    names = tabu_triton._steps.arg_names
    pointers = ["*fp32", "*fp32", "*i32", "*u8", "*fp64", "*fp64", "*i32", "*fp64", "*i64", "*i32"]
    types = [*pointers, *["i32"] * 6, "constexpr", "constexpr"]
    aligned = [*range(len(pointers)), names.index("wide")]
    full = tabu_triton.width(n) == tabu_triton.block(n)
    source = ASTSource(
        fn=tabu_triton._steps, signature=dict(zip(names, types, strict=True)),
        constexprs={"BLOCK": tabu_triton.block(n), "FULL": full},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )  # fmt: skip
    options = {"num_warps": warps, "maxnreg": tabu_triton.registers(n, warps), "enable_fp_fusion": False}
    program = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program.asm["cubin"])
        file.flush()
        usage = _output(tools / "cuobjdump", "--dump-resource-usage", file.name)
        machine_code = _output(tools / "nvdisasm", "-c", file.name)
    registers, spilled = (int(re.search(rf"{word}:(\d+)", usage)[1]) for word in ("REG", "STACK"))
    return registers, spilled, _longest_loop(machine_code)


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


def _longest_loop(machine_code: str) -> int:
    """Instructions from a label to the last jump back to it, of the loop where those are most."""
    labels: dict[str, int] = {}
    count = longest = 0
    for line in machine_code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = count
        elif re.match(r"\s*/\*[0-9a-f]+\*/\s", line):
            jump = re.search(r"BRA[^`]*`\((\.L_x_\d+)\)", line)
            if jump and jump[1] in labels:
                longest = max(longest, count + 1 - labels[jump[1]])
            count += 1
    return longest


if __name__ == "__main__":
    main()
