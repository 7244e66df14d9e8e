"""How a data set that stays on the devices lies there."""

import math
from typing import Any

import flax.struct
import jax
import numpy as np

from reweight_jax.data.examples import Examples

LANES = 128  # of a TPU's tiles


@flax.struct.dataclass
class PaddedRows:
    """An array [N, ...] as one row of numbers for each example, padded to whole tiles.

    A TPU lays out uint8 [50000, 32, 32, 3] with the examples in the lanes, and each dispatch then
    transposes the whole set, in 614 MB of temporary memory. Rows need no transposition.
    """

    rows: Any  # [N, a multiple of LANES]
    shape: tuple[int, ...] = flax.struct.field(pytree_node=False)  # of one example

    def __getitem__(self, index):
        rows = self.rows[index][:, : math.prod(self.shape)]
        return rows.reshape(len(index), *self.shape)


def resident(examples: Examples, *, inputs: bool, on_cpu: bool, size: int = 0) -> dict[str, Any]:
    """Returns the arrays of a set that are put on a device: {"label", "inputs" if `inputs`}.

    If there are fewer than `size` examples, zeros follow them.

    On accelerators inputs of three or more dimensions are `PaddedRows`, if that does not double
    them.
    """
    more = max(0, size - examples.size)

    def lay_out(array):
        length = math.prod(array.shape[1:])
        if on_cpu or array.ndim < 3 or length < LANES:
            return padded(array, more)
        rows = np.reshape(array, (len(array), length))
        return PaddedRows(padded(rows, more, -length % LANES), array.shape[1:])

    arrays = {"label": padded(examples.label, more)}
    if inputs:
        arrays["inputs"] = jax.tree.map(lay_out, examples.inputs)
    return arrays


def shared_size(size: int) -> int:
    """Returns `size`, rounded up by 3% at most: most sets of nearly one size share programs."""
    step = 1 << max(0, size.bit_length() - 6)
    return -(-size // step) * step


def padded(array, *after: int):
    """Returns an array with so many zeros after the entries of its first axes; itself if none."""
    if not any(after):
        return array
    return np.pad(array, [(0, n) for n in after] + [(0, 0)] * (array.ndim - len(after)))


def take(arrays: dict[str, Any], rows: jax.Array) -> dict[str, Any]:
    """Returns the rows [n] of what `resident` returned."""
    return jax.tree.map(
        lambda array: array[rows], arrays, is_leaf=lambda leaf: isinstance(leaf, PaddedRows)
    )
