"""Several neighbours in memory at once, for compiled loops.

The compiler would have to know that what is read and what is written do not overlap before it works on eight numbers
of a short loop together; it cannot, and looks again at every pixel. So these instructions say it outright.

numba keeps a compiled loop until the loop's own file changes: whoever changes this file touches `kdlib/warp_maps.py`
and `kdlib/warp_packed.py`.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 8
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_WORD_BYTES = 4


def _sum_of_four(add: bool) -> Callable[..., None]:
    @intrinsic
    def sum_of_four(context, values, p, q, r, s, a, b, c, d, out, at):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202, PLR0913, PLR0917
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            def pointer(array: int, index: ir.Value) -> ir.Value:
                data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
                return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())

            def load(array: int, index: ir.Value) -> ir.Value:
                return builder.load(pointer(array, index), align=_WORD_BYTES)

            place = arguments[10]
            total = load(9, place) if add else None
            for index, weight in zip(arguments[1:5], arguments[5:9], strict=True):
                term = builder.fmul(load(0, index), _repeated(builder, weight))
                total = term if total is None else builder.fadd(total, term)
            builder.store(total, pointer(9, place), align=_WORD_BYTES)
            return context.get_dummy_value()

        return types.void(values, p, q, r, s, a, b, c, d, out, at), generate

    return sum_of_four


def _repeated(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """A vector of the same value everywhere."""
    word, undefined = ir.IntType(32), ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(word, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(word, LANES), [0] * LANES))


set_eight, add_eight = _sum_of_four(False), _sum_of_four(True)
"""Write to (add to) out[at : at + 8] the sum of the eight values from p, q, r and s on, times a, b, c and d.

values and out are contiguous one-dimensional float32 arrays, p, q, r, s and at are uint64, which nobody checks.
"""


@intrinsic
def load_two(context, words, at):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Two neighbours of a contiguous one-dimensional uint32 array as one uint64, words[at] in its low half.

    at is uint64, which nobody checks.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pair = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(pair, align=_WORD_BYTES)

    return types.uint64(words, at), generate
