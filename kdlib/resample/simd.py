"""Several neighbours in memory at once, for compiled loops.

The compiler would have to know that what is read and what is written do not overlap before it works on eight numbers
of a short loop together; it cannot, and looks again at every pixel. So these instructions say it outright.

numba keeps a compiled loop until the loop's own file changes: whoever changes this file touches `kdlib/resample/maps.py`
and `kdlib/resample/pictures.py`.
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
            starts = _starts(context, builder, signature, arguments)

            def eight(array: int, index: ir.Value) -> ir.Value:
                return builder.bitcast(builder.gep(starts[array], [index]), _VECTOR.as_pointer())

            def load(array: int, index: ir.Value) -> ir.Value:
                return builder.load(eight(array, index), align=_WORD_BYTES)

            place = arguments[10]
            total = load(9, place) if add else None
            for index, weight in zip(arguments[1:5], arguments[5:9], strict=True):
                term = builder.fmul(load(0, index), _repeated(builder, weight))
                total = term if total is None else builder.fadd(total, term)
            builder.store(total, eight(9, place), align=_WORD_BYTES)
            return context.get_dummy_value()

        return types.void(values, p, q, r, s, a, b, c, d, out, at), generate

    return sum_of_four


def _starts(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> dict[int, ir.Value]:
    """Where the numbers of each array begin, by the array's place among the arguments."""
    return {
        i: context.make_array(kind)(context, builder, arguments[i]).data
        for i, kind in enumerate(signature.args)
        if isinstance(kind, types.Array)
    }


def _repeated(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """A vector of the same value everywhere."""
    word, undefined = ir.IntType(32), ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(word, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(word, LANES), [0] * LANES))


set_eight, add_eight = _sum_of_four(False), _sum_of_four(True)
"""Write to (add to) out[at : at + 8] the sum of the eight values from p, q, r and s on, times a, b, c and d.

values and out are contiguous one-dimensional float32 arrays, p, q, r, s and at are uint64, which nobody checks.
"""


PAIRS = 4


@intrinsic
def copy_pairs(context, words, places, offset, at, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Fill out[at : at + 4], uint64, with two neighbours each: words[p] in the low half, for p = places[i] + offset.

    words are uint32 and places int32, none negative; all three arrays are contiguous and one-dimensional. offset and at
    are uint64, and nobody checks them.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        word, pair = ir.IntType(32), ir.IntType(64)
        pairs, starts = ir.VectorType(pair, PAIRS), _starts(context, builder, signature, arguments)
        gathered = ir.Constant(pairs, ir.Undefined)
        for i in range(PAIRS):
            place = builder.load(builder.gep(starts[1], [builder.add(arguments[3], ir.Constant(pair, i))]))
            source = builder.gep(starts[0], [builder.add(builder.zext(place, pair), arguments[2])])
            two = builder.load(builder.bitcast(source, pair.as_pointer()), align=_WORD_BYTES)
            gathered = builder.insert_element(gathered, two, ir.Constant(word, i))
        target = builder.bitcast(builder.gep(starts[4], [arguments[3]]), pairs.as_pointer())
        builder.store(gathered, target, align=2 * _WORD_BYTES)
        return context.get_dummy_value()

    return types.void(words, places, offset, at, out), generate
