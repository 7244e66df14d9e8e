"""Images that stay on the disk until they are asked for: data sets larger than memory.

`LazyImages` is what `Examples.image` is of a set that is streamed. It wraps anything with a shape
[M, H, W, C] and source[rows int [b]] -> uint8 [b, H, W, C]: an array, or one of the readers here.
"""

import zipfile

import numpy as np

from reweight_jax.errors import UserError


class LazyImages:
    """Stands where uint8 [N, H, W, C] does, holds row numbers alone, and reads what is indexed."""

    dtype = np.dtype(np.uint8)

    def __init__(self, source, rows: np.ndarray | None = None):
        """`rows`, int [N], are those of `source` that these images are; all of them where None."""
        self._source = source
        self._rows = np.arange(source.shape[0]) if rows is None else rows

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self._rows), *self._source.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Reads rows: a slice, or int [b]; returns uint8 [b, H, W, C]. UserError where damaged."""
        return self._source[self._rows[rows]]

    def take(self, rows: np.ndarray, axis: int = 0) -> "LazyImages":
        """The images of `rows`, int [b], unread; `axis`, as numpy's `take` has it, must be 0."""
        if axis != 0:
            raise ValueError(f"axis: {axis}; only whole images can be taken")
        return LazyImages(self._source, self._rows[rows])

    def concatenate(self, other: "LazyImages") -> "LazyImages":
        """These images and then those of `other`, which must be of the same source; unread."""
        if other._source is not self._source:
            raise ValueError("images of two sources cannot be concatenated")
        return LazyImages(self._source, np.concatenate([self._rows, other._rows]))

    def __array__(self, dtype=None, copy=None):
        # numpy would otherwise quietly read all of them, one by one.
        raise TypeError("streamed images are not read as a whole; index them")


class TfdsImages:
    """The images of a TFDS split, read and decoded when rows are asked for.

    Args:
      records: what `as_data_source` returns; it is sent to another process without its open files.
      shape: (H, W, C).
      where: the name of the set and its folder, for messages.
    """

    def __init__(self, records, shape: tuple[int, int, int], where: str):
        self.shape = (len(records), *shape)
        self._records, self._where = records, where

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        records = read_records(self._records, rows.tolist(), self._where)
        return np.stack([record["image"] for record in records])


def read_records(records, rows, where: str) -> list[dict]:
    """Reads `rows` of a TFDS data source; raises UserError that says `where` one is damaged."""
    try:
        return records.__getitems__(rows)
    except Exception as error:  # array_record, protobuf and the image decoder raise many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{where}: a record cannot be read ({reason}); prepare the set anew"
        ) from error


class MappedImages:
    """uint8 images [M, H, W] or [M, H, W, C] in a file, mapped anew whenever rows are asked for.

    So it can be sent to another process, where a `np.memmap` would go with all that it maps.
    """

    def __init__(self, array: np.memmap):
        self.shape = array.shape if array.ndim == 4 else (*array.shape, 1)
        order = "C" if array.flags.c_contiguous else "F"
        self._mapped = (array.filename, array.dtype, "r", array.offset, array.shape, order)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        try:
            mapped = np.memmap(*self._mapped)
        except (OSError, ValueError) as error:
            raise UserError(f"{self._mapped[0]}: cannot be read any more ({error})") from error
        return mapped[rows].reshape(len(rows), *self.shape[1:])


def map_array(archive: np.lib.npyio.NpzFile, path, key: str) -> np.memmap:
    """Maps the array `key` of the npz file `path`; raises UserError where it is compressed."""
    member = archive.zip.getinfo(f"{key}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise UserError(
            f"{path}: {key} is compressed, and cannot be read in parts; save it with np.savez, "
            "or set config.data.resident=True"
        )
    npy = np.lib.format
    with archive.zip.open(member) as file:
        is_first = npy.read_magic(file) == (1, 0)  # the version that np.savez writes
        read_header = npy.read_array_header_1_0 if is_first else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        header_size = file.tell()
    if dtype.hasobject:  # as np.load has it, whose message is known to who reads an npz file
        raise ValueError("object arrays cannot be loaded when allow_pickle=False")
    with open(path, "rb") as file:
        # A zip member is its local header of 30 bytes, which ends in the lengths of the name and
        # of an extra field, those two, and then the content.
        file.seek(member.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
    offset = member.header_offset + 30 + int(lengths.sum()) + header_size
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
