"""Fetching numbers by the line: asking for those that are needed soon, and copying them.

What is asked for, memory delivers while something else is computed.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 16
"""So many numbers come from memory together: 64 bytes."""


@intrinsic  # type: ignore[untyped-decorator]
def ask_for(typing_context: Any, numbers: Any, index: Any) -> Any:
    """Let ``numbers[index]`` and what lies beside it come from memory while others are computed with (a prefetch)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), byte)
        builder.call(function, [address, flag(0), flag(3), flag(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.void(numbers, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def copy_line(typing_context: Any, source: Any, place: Any, target: Any, start: Any) -> Any:
    """``target[start : start + LINE] = source[place : place + LINE]``, of flat arrays that do not overlap.

    A loop does the same, but first asks each time whether they do, which takes five times as long as to copy.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2))
        line = ir.VectorType(ir.FloatType(), LINE).as_pointer()
        theirs, mine = (builder.gep(source, [arguments[1]]), builder.gep(target, [arguments[3]]))
        builder.store(builder.load(builder.bitcast(theirs, line), align=4), builder.bitcast(mine, line), align=4)
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), generate
