"""JSON that carries a checksum of its content, so that damage is noticed and never believed."""

import hashlib
import json
import pathlib

from reweight_jax.errors import UserError


class DamagedError(UserError):
    """A file is not what was written."""


def seal(content: dict) -> dict:
    """Returns `content` with its "checksum"."""
    return content | {"checksum": _checksum(content)}


def unseal(content: dict) -> dict:
    """Returns the content without its "checksum"; raises ValueError if that is not of it."""
    if not isinstance(content, dict) or "checksum" not in content:
        raise ValueError("it has no checksum")
    content = dict(content)
    if content.pop("checksum") != _checksum(content):
        raise ValueError("its checksum is not that of its content")
    return content


def read_sealed(path: pathlib.Path) -> dict:
    """Returns the content of a file that holds what `seal` returned.

    Raises:
      DamagedError: the file is damaged, was edited, or is of another version.
      FileNotFoundError: there is none.
    """
    try:
        return unseal(json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise DamagedError(f"{path}: is damaged, or was edited ({reason})") from None


def _checksum(content):
    # As it is read back: tuples are lists then, and keys are text.
    content = json.loads(json.dumps(content))
    text = json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()
