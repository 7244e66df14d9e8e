"""Command line: python -m reweight_jax.main --config=configs/mnist_imbalance.py[:variant]."""

from absl import flags
from ml_collections import config_flags

from reweight_jax import cli, report
from reweight_jax.train import train_and_evaluate

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py or FILE.py:VARIANT")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; the same command again resumes it. Default: under runs/."
)


def default_workdir(config) -> str:
    """runs/<config>-<variant>-<method>-seed<seed>."""
    return f"runs/{config.name}-{config.variant}-{config.method}-seed{config.seed}"


def main(argv):
    config = _CONFIG.value
    cli.check_arguments(argv, config)
    workdir = _WORKDIR.value or default_workdir(config)
    result = train_and_evaluate(config, workdir)
    print(f"\n{report.table(result)}\nmetrics, plots and checkpoints: {workdir}")


if __name__ == "__main__":
    cli.run(main)
