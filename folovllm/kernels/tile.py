"""Products of a few rows of one matrix with a few of another: the tiles that a product of matrices is made of.

What is read once serves several products. Of each pair of rows eight partial sums stand side by side, as a vector does
or two; each is of every eighth product, and in the end halves are added. So a sum is the same to the last bit whatever
the tile's shape, and a shape may be picked for its speed alone.
"""

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from folovllm.kernels.compiled import exact_order

_LANES = 8
_NUMBER, _VECTOR, _INDEX = ir.FloatType(), ir.VectorType(ir.FloatType(), _LANES), ir.IntType(64)

_VECTOR_REGISTERS = 32 if binding.get_host_cpu_features().get("avx512vl", False) else 16
"""Room for so many vectors: x86's registers have eight numbers; ARM's 32 have four each."""

HEIGHT, WIDTH = 4, 6 if _VECTOR_REGISTERS == 32 else 3
"""The rows of either side for which all sums fit into registers, with what they are made of."""


def tile(height: int, width: int) -> Any:
    """Return the function that computes tiles of so many rows of either side.

    It is called as ``multiply(x, weight, out, m, n)``, and adds ``x[m : m + height] @ weight[n : n + width].T`` to
    ``out[m : m + height, n : n + width]``, as far as there are such rows.

    x: [num_rows, in].  weight: [num_columns, in].  out: [num_rows, num_columns].  All are float32 and contiguous.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply(typing_context: Any, x: Any, weight: Any, out: Any, m: Any, n: Any) -> Any:
        if {(each.dtype, each.layout) for each in (x, weight, out)} != {(types.float32, "C")}:
            raise TypingError(f"a tile of {x}, {weight} and {out}, not of contiguous float32 matrices")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, weight, out = (context.make_array(signature.args[i])(context, builder, arguments[i]) for i in range(3))
            num_rows, size = cgutils.unpack_tuple(builder, x.shape)
            num_columns = builder.extract_value(weight.shape, 0)
            ms = [builder.add(arguments[3], _INDEX(i)) for i in range(height)]
            ns = [builder.add(arguments[4], _INDEX(j)) for j in range(width)]
            x_rows = [_row(builder, x.data, m, num_rows, size) for m in ms]
            weight_rows = [_row(builder, weight.data, n, num_columns, size) for n in ns]
            whole = builder.and_(size, _INDEX(-_LANES))
            vectors = _add_products(builder, x_rows, weight_rows, _VECTOR, _INDEX(0), whole, _LANES)
            numbers = _add_products(builder, x_rows, weight_rows, _NUMBER, whole, size, 1)
            for i, m in enumerate(ms):
                for j, n in enumerate(ns):
                    here = builder.and_(builder.icmp_signed("<", m, num_rows), builder.icmp_signed("<", n, num_columns))
                    with builder.if_then(here):
                        place = builder.gep(out.data, [builder.add(builder.mul(m, num_columns), n)])
                        total = builder.fadd(_add_lanes(builder, vectors[i][j]), numbers[i][j])
                        builder.store(builder.fadd(builder.load(place), total), place)
            return context.get_dummy_value()

        return types.void(x, weight, out, types.int64, types.int64), generate

    @exact_order
    def multiply_in_order(x, weight, out, m, n):
        multiply(x, weight, out, m, n)

    return multiply_in_order


def _row(builder: Any, data: Any, i: Any, count: Any, size: Any) -> Any:
    """Return where a matrix's row begins; the last one stands in for those that are missing."""
    last = builder.sub(count, _INDEX(1))
    i = builder.select(builder.icmp_signed("<", i, last), i, last)
    return builder.gep(data, [builder.mul(i, size)])


def _add_products(builder: Any, x_rows: Any, weight_rows: Any, kind: Any, first: Any, end: Any, step: int) -> Any:
    """Return the sums of all pairs of rows over some columns, a number or a vector at a time: [height][width]."""
    name = "llvm.fmuladd.f32" if kind is _NUMBER else f"llvm.fmuladd.v{_LANES}f32"
    multiply_add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    nothing = ir.Constant(kind, None)
    sums = [[cgutils.alloca_once_value(builder, nothing) for _ in weight_rows] for _ in x_rows]
    with cgutils.for_range_slice(builder, first, end, _INDEX(step), _INDEX) as (k, _):

        def read(row: Any) -> Any:
            return builder.load(builder.bitcast(builder.gep(row, [k]), kind.as_pointer()), align=4)

        weights = [read(row) for row in weight_rows]
        for row, its_sums in zip(map(read, x_rows), sums, strict=True):
            for weight, each in zip(weights, its_sums, strict=True):
                builder.store(builder.call(multiply_add, [row, weight, builder.load(each)]), each)
    return [[builder.load(each) for each in its_sums] for its_sums in sums]


def _add_lanes(builder: Any, vector: Any) -> Any:
    """Return the sum of a vector's numbers: one half is added to the other, until one is left."""
    size = _LANES
    while size > 1:
        size //= 2
        low, high = (ir.Constant(ir.VectorType(ir.IntType(32), size), [*range(i, i + size)]) for i in (0, size))
        vector = builder.fadd(*(builder.shuffle_vector(vector, vector, half) for half in (low, high)))
    return builder.extract_element(vector, ir.IntType(32)(0))
