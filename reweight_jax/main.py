"""Command line: python -m reweight_jax.main --config=configs/mnist_imbalance.py[:variant]."""

from absl import flags

from reweight_jax import cli
from reweight_jax.records import result
from reweight_jax.train import hosts, loop

_CONFIG = cli.define_config("FILE.py or FILE.py:VARIANT")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; the same command again resumes it. Default: under runs/."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "Several hosts: HOST:PORT of process 0, the same on each."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Several hosts: their number. 1: a run by itself, wherever it starts."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Several hosts: which one this is, from 0; that one writes the workdir."
)


def main():
    cli.check_config(_CONFIG.value)
    config = _CONFIG.value
    names = (config.name, config.variant, config.method, f"seed{config.seed}")
    workdir = _WORKDIR.value or "runs/" + "-".join(filter(None, names))
    with hosts.joined(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value):
        outcome = loop.train_and_evaluate(config, workdir)
        if hosts.is_first():
            print(f"\n{result.table(outcome)}\nmetrics, plots and checkpoints: {workdir}")
            if "labels" in outcome:
                print(f"labels to look at: {workdir}/label_report.html, suspects.csv")
            for sentence in outcome.get("health", ()):
                print(sentence)


if __name__ == "__main__":
    cli.run(main, resumes=True)
