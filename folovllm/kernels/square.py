"""Turning a square of numbers around, in the registers of the CPU."""

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

SIDE = 16 if binding.get_host_cpu_features().get("avx512f", False) else 8
"""Rows and columns of a square: as many numbers as a vector has, or two."""


@intrinsic  # type: ignore[untyped-decorator]
def turn_square(
    typing_context: Any,
    source: Any,
    slots: Any,
    first: Any,
    stride: Any,
    column: Any,
    target: Any,
    start: Any,
    step: Any,
) -> Any:
    """``target[start + j * step + i] = source[slots[first + i] * stride + column + j]`` for a square's i and j.

    In a loop that would be a store for each number. Here two rows at a time exchange half of what they hold, first with
    their neighbours, then with those two further on, then four: as often as the side can be halved.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row_type, number = ir.VectorType(ir.FloatType(), SIDE), ir.IntType(64)
        source, slots, target = (
            context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 1, 5)
        )
        first, stride, column, start, step = (arguments[i] for i in (2, 3, 4, 6, 7))

        def row_at(data: Any, place: Any) -> Any:
            return builder.bitcast(builder.gep(data, [place]), row_type.as_pointer())

        def place(i: int) -> Any:
            slot = builder.load(builder.gep(slots, [builder.add(first, number(i))]))
            return builder.add(builder.mul(slot, stride), column)

        rows = [builder.load(row_at(source, place(i)), align=4) for i in range(SIDE)]
        distance = 1
        while distance < SIDE:
            columns = range(SIDE)
            left = [j if not j & distance else SIDE + j - distance for j in columns]
            right = [j + distance if not j & distance else SIDE + j for j in columns]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), SIDE), each) for each in (left, right)]
            for i in (i for i in columns if not i & distance):
                pair = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = (builder.shuffle_vector(*pair, mask) for mask in masks)
            distance *= 2
        for i, row in enumerate(rows):
            builder.store(row, row_at(target, builder.add(start, builder.mul(step, number(i)))), align=4)
        return context.get_dummy_value()

    integer = types.int64
    return types.void(source, slots, integer, integer, integer, target, integer, integer), generate
