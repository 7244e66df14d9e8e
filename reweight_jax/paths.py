"""Paths that a user gives: ~, and files that must not be waited for."""

import errno
import os
import pathlib
import stat

from reweight_jax.errors import UserError


def expand(path: str | os.PathLike, flag: str = "") -> pathlib.Path:
    """Returns the path with ~ expanded; UserError, that names the flag, if ~ names nobody."""
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{flag} {path}: cannot be used ({error})".strip()) from None


def open_regular(path: str | os.PathLike, mode: str = "rb", **options):
    """Opens a file to read; OSError if it is not one.

    Reading a named pipe, or a device such as /dev/zero, might never end.
    """
    if not stat.S_ISREG(kind := os.stat(path).st_mode):
        is_folder = stat.S_ISDIR(kind)
        code, what = (errno.EISDIR, "a folder") if is_folder else (errno.EINVAL, "no regular file")
        raise OSError(code, what, str(path))
    return open(path, mode, **options)
