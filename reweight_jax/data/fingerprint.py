"""A fingerprint of the data of a run, so that a resumed run notices other data."""

import hashlib

import numpy as np

from reweight_jax.data.examples import Splits, is_lazy

SAMPLED = 1_000  # rows of inputs in memory
SAMPLED_LAZY = 50  # of any: images on a disk are read and decoded for it


def fingerprint(splits: Splits) -> dict[str, str]:
    """Returns a digest of each split: all of its labels, and inputs of rows evenly spread over it.

    Of inputs in memory there is also one named SPLIT_rows, of more rows. An input that changed is
    noticed only if it is one of up to 1,000 rows, or of 50 that are read from a disk one by one; a
    label always, and so is an example more, less or in another place.
    """
    parts = {name: part for name, part in splits._asdict().items() if part is not None}
    digests = {name: _digest(part, SAMPLED_LAZY) for name, part in parts.items()}
    return digests | {
        f"{name}_rows": _digest(part, SAMPLED)
        for name, part in parts.items()
        if not is_lazy(part.inputs)
    }


def _digest(examples, most) -> str:
    digest = hashlib.blake2b(digest_size=16)
    count = min(most, examples.size)
    rows = np.linspace(0, examples.size - 1, count).astype(int)
    inputs = examples.inputs if isinstance(examples.inputs, dict) else {"": examples.inputs}
    arrays = {name: inputs[name][rows] for name in sorted(inputs)}  # their order says nothing
    digest.update(repr([*arrays]).encode())
    for array in (examples.label, *arrays.values()):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
