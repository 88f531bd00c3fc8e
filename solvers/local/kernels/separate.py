"""Kernels that other kernels call by address, so that each is compiled once.

Numba links a copy of every called function into its caller and optimises it there again, at every level of calls: four
fifths of the compile time of the memetic search went into such copies. A kernel of this module is compiled by itself
for one declared signature; its callers receive its address as an integer and jump to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numba as nb
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from problems.compiling import compiled


class SeparateKernel:
    """A kernel of one signature, which Python calls as any other and kernels call by address.

    Args:
        function: what numba compiles.
        signature: its only signature.
        options: those of `numba.njit`.
    """

    def __init__(self, function: Callable[..., Any], signature: Any, options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._compiled, self._signature = compiled(**options)(function), signature
        self.at = _call_of(signature)

    def __call__(self, *arguments: Any) -> Any:
        return self._compiled(*arguments)

    @functools.cached_property
    def address(self) -> int:
        """Where its machine code begins; asking for it compiles the kernel or loads it from numba's cache."""
        self._compiled.compile(self._signature.args)
        result = self._compiled.overloads[self._signature.args]
        if result.signature.return_type != self._signature.return_type:
            raise TypeError(f"{self.__name__} returns {result.signature.return_type}, not {self._signature}")  # type: ignore[attr-defined]
        address = int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))
        assert address, f"numba dropped the code of {result.fndesc.llvm_func_name}"
        return address


def separate(returns: Any, *arguments: Any, **options: Any) -> Callable[[Callable[..., Any]], SeparateKernel]:
    """A decorator as :func:`problems.compiling.compiled`, for kernels that other kernels call by address.

    Args:
        returns: numba's type of the result.
        arguments: numba's type of each argument, or the NamedTuple class that it is.
        options: those of `numba.njit`.
    """
    signature = returns(*map(type_of, arguments))
    return lambda function: SeparateKernel(function, signature, options)


def type_of(annotation: Any) -> Any:
    """Numba's type of a NamedTuple class, of an annotated array, of `int` and of `float`."""
    if isinstance(annotation, nb.types.Type):
        return annotation
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[1]
    if annotation in (int, float):
        return nb.int64 if annotation is int else nb.float64
    hints = get_type_hints(annotation, include_extras=True)
    return nb.types.BaseTuple.from_types([type_of(hint) for hint in hints.values()], annotation)


def _call_of(signature: Any) -> Any:
    """What kernels call as `kernel.at(address, *arguments)`."""

    @intrinsic
    def at(typing_context, address, *arguments):  # type: ignore[no-untyped-def]
        given = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], nb.types.StarArgTuple) else arguments
        if tuple(given) != signature.args:  # the callee reads its arguments as these types, whatever they are
            wrong = [f"{a} is not {b}" for a, b in zip(given, signature.args, strict=False) if a != b]
            raise nb.core.errors.TypingError(f"{len(given)} arguments for {len(signature.args)}: {wrong}")

        def generate(context, builder, call_signature, values):  # type: ignore[no-untyped-def]
            unpacked = cgutils.unpack_tuple(builder, values[1])
            convention = context.call_conv
            pointer = convention.get_function_type(signature.return_type, signature.args).as_pointer()
            callee = builder.inttoptr(values[0], pointer)
            status, result = convention.call_function(
                builder, callee, signature.return_type, signature.args, unpacked
            )  # fmt: skip
            with cgutils.if_unlikely(builder, status.is_error):
                convention.return_status_propagate(builder, status)
            return result

        return signature.return_type(nb.int64, nb.types.StarArgTuple(given)), generate

    return at


@intrinsic
def read_only(typing_context, array):  # type: ignore[no-untyped-def]
    """The same array, of the type of arrays that are not written: kernels are compiled once, for these."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return impl_ret_borrowed(context, builder, signature.return_type, values[0])

    return array.copy(readonly=True)(array), generate
