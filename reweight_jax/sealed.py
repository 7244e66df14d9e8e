"""Files of a run that carry a checksum of their content, so that damage is never believed."""

import hashlib
import io
import json
import pathlib
import zipfile
import zlib

import numpy as np

from reweight_jax.errors import UserError, one_line
from reweight_jax.paths import open_regular

# What zipfile and numpy raise for a damaged npz file.
DAMAGED = (OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError)
DAMAGED += (zipfile.BadZipFile, zlib.error)


class DamagedError(UserError):
    """A file is not what was written."""


class MissingError(UserError):
    """A file of a finished run is not there."""


def seal(content: dict, after: str = "") -> dict:
    """Returns `content` with its "checksum", which also covers `after`: that of what precedes."""
    return content | {"checksum": _checksum_of(content, after)}


def unseal(content: dict, after: str = "") -> dict:
    """Returns the content without its "checksum"; raises ValueError if that is not of it."""
    if not isinstance(content, dict) or "checksum" not in content:
        raise ValueError("it has no checksum")
    content = dict(content)
    if content.pop("checksum") != _checksum_of(content, after):
        raise ValueError("its checksum is not that of its content")
    return content


def read_sealed(path: pathlib.Path) -> dict:
    """Returns the content of a file that holds what `seal` returned.

    Raises:
      DamagedError: the file is damaged, was edited, or is of another version.
      MissingError: there is none.
    """
    try:
        with open_regular(path) as file:
            return unseal(json.load(file))
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from None


def read_npz(path: pathlib.Path, result: dict) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file of a run; errors as `read_sealed`.

    `result`: the contents of result.json, which has the digests of the files written with it.
    """
    try:
        with open_regular(path) as file:
            content = file.read()
        if digest(content) != result.get("files", {}).get(path.name, digest(content)):
            raise ValueError("it is not the file that result.json was written with")
        return dict(np.load(io.BytesIO(content), allow_pickle=False))
    except (FileNotFoundError, NotADirectoryError):
        if path.name in result.get("files", ()):
            raise _damaged(path, "it is missing") from None
        raise _missing(path) from None
    except DAMAGED as error:
        raise _damaged(path, error) from None


def digest(content: bytes) -> str:
    """Returns a digest of a file."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def checksum(content) -> str:
    """Returns a digest of JSON, the same after it was written and read again."""
    # As it is read back: tuples are lists then, and keys are text.
    content = json.loads(json.dumps(content))
    return digest(json.dumps(content, sort_keys=True).encode())


def _checksum_of(content, after):
    return checksum([after, content] if after else content)


def _missing(path):
    return MissingError(f"{path.parent}: no finished run ({path.name} is missing)")


def _damaged(path, error):
    return DamagedError(
        f"{path}: is damaged, or was edited ({one_line(error)}); the command of its run writes it "
        "again"
    )
