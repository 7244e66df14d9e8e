"""How a data set that stays on the devices lies there."""

import math
from typing import Any

import flax.struct
import jax
import numpy as np

from reweight_jax.data.examples import Examples, map_inputs

LANES = 128  # of a TPU's tiles


@flax.struct.dataclass
class PaddedRows:
    """An array [N, ...] as one row of numbers for each example, padded to whole tiles.

    A TPU would lay uint8 [50000, 32, 32, 3] out with the examples in the lanes, and every dispatch
    would begin by turning the whole set around: 614 MB of temporary memory. A row is read as it is.

    Attributes:
      rows: [N, a multiple of LANES].
      shape: of one example.
    """

    rows: Any
    shape: tuple[int, ...] = flax.struct.field(pytree_node=False)

    def __getitem__(self, index):
        rows = self.rows[index][:, : math.prod(self.shape)]
        return rows.reshape(len(index), *self.shape)


def padded_rows(array: np.ndarray) -> PaddedRows:
    """Returns numpy [N, ...] as `PaddedRows`."""
    flat = np.reshape(array, (len(array), -1))
    return PaddedRows(np.pad(flat, [(0, 0), (0, -flat.shape[1] % LANES)]), array.shape[1:])


def resident(examples: Examples, *, inputs: bool, on_cpu: bool) -> dict[str, Any]:
    """Returns the arrays of a set that are put on a device: {"label", "inputs" if `inputs`}.

    On accelerators inputs of three or more dimensions are `PaddedRows`.
    """
    arrays = {"label": examples.label}
    if inputs:
        arrays["inputs"] = map_inputs(
            lambda array: array if on_cpu or array.ndim < 3 else padded_rows(array), examples.inputs
        )
    return arrays


def take(arrays: dict[str, Any], rows: jax.Array) -> dict[str, Any]:
    """Returns the rows [n] of what `resident` returned."""
    return jax.tree.map(
        lambda array: array[rows], arrays, is_leaf=lambda leaf: isinstance(leaf, PaddedRows)
    )
