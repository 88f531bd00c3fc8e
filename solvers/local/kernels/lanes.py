"""Loops written so that LLVM vectorises them."""

from __future__ import annotations

from typing import Any

import numba as nb
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # entries that `put_larger` looks at together


@intrinsic
def lesser(typing_context, a, b):  # type: ignore[no-untyped-def]
    """The lesser of two floats of one type, neither of them NaN. They may be infinite: what is closed to a search is.

    LLVM vectorises a minimum over a loop only if NaN is excluded by a flag; numba's own `min` and
    comparisons do not pass that on from `fastmath`, and run eight times slower.
    """
    if a != b or a not in (nb.float32, nb.float64):
        return None
    kind = ir.FloatType() if a == nb.float32 else ir.DoubleType()

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        function = ir.FunctionType(kind, [kind, kind])
        minimum = builder.module.declare_intrinsic("llvm.minnum", (kind,), function)
        return builder.call(minimum, arguments, fastmath=("nnan", "nsz"))

    return a(a, a), generate


@intrinsic
def put_larger(typing_context, row, lo, limit, where, what, at):  # type: ignore[no-untyped-def]
    """Put those of `LANES` entries of a row, from `lo` on, that exceed a limit side by side; return how many do.

    Processors with vectors of 512 bits have an instruction for it, which spares a branch for each entry; for others the
    compiler makes those branches.

    Arrays:
        row: float32 [n], contiguous, with lo + LANES <= n.
        where, what: filled in from `at` on, uint32 and float32: where each stands in the row, and the entry.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        real, whole = ir.FloatType(), ir.IntType(32)
        reals, wholes, bits = (ir.VectorType(kind, LANES) for kind in (real, whole, ir.IntType(1)))
        row_at, where_at, what_at = (
            builder.gep(context.make_array(signature.args[a])(context, builder, arguments[a]).data, [start])
            for a, start in zip((0, 3, 4), (arguments[1], arguments[5], arguments[5]), strict=True)
        )

        def everywhere(value: Any, kind: Any) -> Any:
            first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(whole, 0))
            return builder.shuffle_vector(first, first, ir.Constant(wholes, [0] * LANES))

        def put(values: Any, kind: Any, entry: Any, name: str, place: Any) -> None:
            function = ir.FunctionType(ir.VoidType(), [kind, entry.as_pointer(), bits])
            store = cgutils.get_or_insert_function(builder.module, function, f"llvm.masked.compressstore.{name}")
            builder.call(store, [values, place, larger])

        entries = builder.load(builder.bitcast(row_at, reals.as_pointer()), align=4)
        larger = builder.fcmp_ordered(">", entries, everywhere(arguments[2], reals))
        indices = builder.add(
            everywhere(builder.trunc(arguments[1], whole), wholes), ir.Constant(wholes, list(range(LANES)))
        )
        put(entries, reals, real, f"v{LANES}f32", what_at)
        put(indices, wholes, whole, f"v{LANES}i32", where_at)
        count = builder.ctpop(builder.bitcast(larger, ir.IntType(LANES)))
        return builder.zext(count, ir.IntType(64))

    return nb.uint64(row, nb.uint64, nb.float32, where, what, nb.uint64), generate
