"""Command line: python -m reweight_jax.main --config=configs/mnist_imbalance.py[:variant]."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from reweight_jax import report
from reweight_jax.errors import UserError
from reweight_jax.train import train_and_evaluate

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py or FILE.py:VARIANT")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; the same command again resumes it. Default: under runs/."
)


def default_workdir(config) -> str:
    """runs/<config>-<variant>-<method>-seed<seed>."""
    return f"runs/{config.name}-{config.variant}-{config.method}-seed{config.seed}"


def _main(argv):
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; options are --config and --workdir")
    if _CONFIG.value is None:
        raise UserError("--config is missing; for example --config=configs/mnist_imbalance.py")
    config = _CONFIG.value
    workdir = _WORKDIR.value or default_workdir(config)
    result = train_and_evaluate(config, workdir)
    print(f"\n{report.table(result)}\nmetrics, plots and checkpoints: {workdir}")


def _parse(argv):
    """absl's parser, with what config files and fields raise put into one line."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error


def run():
    try:
        logging.set_verbosity(logging.WARNING)
        app.run(_main, flags_parser=_parse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run()
