"""What the command lines share: flags into values, a user's mistake into one line."""

import pathlib
import sys

from absl import app, flags, logging

from reweight_jax.errors import UserError


def check_arguments(argv, config) -> None:
    """Raises UserError for a stray argument or a missing --config."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; options are written --name=value")
    if config is None:
        raise UserError("--config is missing; for example --config=configs/mnist_imbalance.py")


def run(main) -> None:
    """Parses the flags and calls main(argv); a user's mistake ends in one line and status 1."""
    logging.set_verbosity(logging.WARNING)
    # configs/ lies beside the package, and its files import each other from any working folder.
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _parse(argv):
    """absl's parser, with what config files and their fields raise put into one line."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
