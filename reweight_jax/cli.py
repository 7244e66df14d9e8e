"""What the command lines share: flags into values, a user's mistake into one line."""

import ast
import os
import pathlib
import sys

from absl import app, flags, logging

from reweight_jax import startup
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


def make_folder(flag: str, folder: str | os.PathLike) -> pathlib.Path:
    """Makes the folder that results go to; raises UserError, with the flag, where it cannot."""
    folder = pathlib.Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {folder}: cannot be used ({error})") from None
    return folder


def output_file(flag: str, path: str | None) -> pathlib.Path | None:
    """The file that results go to, its folder made; None where `flag` names none."""
    if path is None:
        return None
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a folder; name a file in it")
    return make_folder(flag, path.parent) / path.name


def run(main, *, resumes: bool = False) -> None:
    """Parses the flags and calls main(argv); a user's mistake ends in one line and status 1.

    So does Ctrl-C, with the status of a shell, 130; `resumes`: the same command goes on from there.
    """
    startup.prepare()
    logging.set_verbosity(logging.ERROR)  # TFDS and orbax warn of what is no concern of a user's
    # configs/ lies beside the package, and its files import each other from any working folder.
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
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
    """absl's parser, with what config files and their fields raise put into one line."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        text = str(error.args[0])  # ConfigDict names the field that it lacks in a quoted string
        text = ast.literal_eval(text) if text[:1] == text[-1:] == "'" else text
        raise UserError(f"--config: no field {_one_line(text)}") from error
    except (flags.Error, OSError, TypeError, ValueError) as error:
        text = str(error)
        if "Traceback" in text:  # of an error inside the config file; its last line says what
            text = "--config: " + text.strip().splitlines()[-1].partition(": ")[2]
        raise UserError(_one_line(text)) from error


def _one_line(text):
    return " ".join(str(text).split())
