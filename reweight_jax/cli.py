"""What the command lines share: reading flags, and one line for a user's mistake."""

import os
import pathlib
import re
import sys
import traceback

from absl import app, flags, logging

from reweight_jax import configs, startup
from reweight_jax.errors import UserError


def check_arguments(argv, config) -> None:
    """Raises UserError for a stray argument or a missing --config."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; options are written --name=value")
    if config is None:
        raise UserError("--config is missing; for example --config=configs/mnist_imbalance.py")
    try:
        _ = config.name
    except OSError as error:  # config_flags reports a file it could not open on first use
        raise UserError(f"--config: {str(error).splitlines()[-1].strip()}") from None


def find_config(value: str) -> str:
    """Returns FILE:VARIANT of a --config with ~ expanded, and its folder added to sys.path.

    A path configs/NAME.py that does not exist is taken from the installed package.
    """
    name, colon, variant = value.partition(":")
    path = pathlib.Path(os.path.expanduser(name))
    packaged = pathlib.Path(configs.__file__).parent / path.name
    if not path.exists() and path.parent.name == "configs" and packaged.exists():
        path = packaged
    if path.exists():
        sys.path.append(str(path.resolve().parent))
    return f"{path}{colon}{variant}"


def make_folder(flag: str, folder: str | os.PathLike) -> pathlib.Path:
    """Makes and returns the folder that `flag` names; raises UserError if it cannot."""
    folder = pathlib.Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {folder}: cannot be used ({error})") from None
    return folder


def output_file(flag: str, path: str | None) -> pathlib.Path | None:
    """Returns the file that `flag` names, or None, and makes its folder."""
    if path is None:
        return None
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a folder; name a file in it")
    return make_folder(flag, path.parent) / path.name


def run(main, *, resumes: bool = False) -> None:
    """Parses the flags and calls main(argv); a user's mistake ends in one line and status 1.

    Ctrl-C ends in one line and status 130; if the command `resumes`, the line says so.
    """
    startup.prepare()
    # What TFDS and orbax log is not for the user: an error that matters is raised too.
    logging.set_verbosity(logging.FATAL)
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        rest = ": the same command goes on from the last checkpoint" if resumes else ""
        print(f"\ninterrupted{rest}", file=sys.stderr)
        sys.exit(130)


def _parse(argv):
    """Parses flags by absl; errors of config files and their fields become one line."""
    argv = list(argv)
    for i, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config") and equals:
            argv[i] = f"{flag}={find_config(value)}"
        elif argv[i - 1] in ("--config", "-config") and i > 1:
            argv[i] = find_config(argument)
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        raise UserError(f"--config: {_field_error(str(error.args[0]))}") from error
    except (flags.Error, OSError, TypeError, ValueError) as error:
        text = str(error)
        if "Traceback" in text:  # of an error inside the config file
            text = f"--config: {_field_error(text)}"
        raise UserError(_one_line(text)) from error
    except Exception as error:  # a config file is a program, and raises what it likes
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {_one_line(error)}"
        raise UserError(f"--config: {frame.filename}, line {frame.lineno}: {what}") from error


def _field_error(text):
    """Says which field does not exist, or gives the last line of any other error."""
    text = text.replace("\\n", "\n").replace("\\'", "'")
    near = re.search(r'[Dd]id you mean "(.+?)"', text)
    missing = re.search(r'[Kk]ey "(.+?)" does not exist|^\W*([\w.]+)\W*$', text, re.MULTILINE)
    if missing and (near or missing[1]):
        hint = f"did you mean {near[1]}?" if near else "configs/default.py has all fields"
        return f"no field {missing[1] or missing[2]}; {hint}"
    last = text.strip().rpartition("\n")[2] or "cannot be read"
    return _one_line(last.partition(": ")[2] or last)


def _one_line(text):
    return " ".join(str(text).split())
