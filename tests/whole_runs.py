"""What the tests of whole runs train on and compare: checkpoints, records without their times."""

import jax
import numpy as np
import orbax.checkpoint as ocp

from reweight_jax.data import sources
from reweight_jax.records.metrics import read_metrics
from reweight_jax.train.config import load_experiment
from reweight_jax.train.loop import train

ONE_DEVICE = jax.devices()[:1]


TIMES = ("seconds", "seconds_at", "steps_per_second", "checksum")


def train_undrawn(config, workdir, devices=None):
    """`train_and_evaluate` without plots, which take as long as a short run."""
    return train(load_experiment(config, devices), workdir, draw=False)


def saved(workdir, step):
    """The arrays of a checkpoint, read by orbax alone."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(workdir.resolve() / "checkpoints" / str(step) / "state")


def records(workdir):
    """Those of metrics.jsonl, without their times."""
    return [without_times(record) for record in read_metrics(workdir)]


def without_times(tree):
    """result.json or a metrics record, less what differs between two runs of one seed."""
    return {k: v for k, v in tree.items() if k not in TIMES}


def write_digits(path):
    """Writes the digits as a file that can be streamed; returns the flags that name it."""
    parts = sources.digits(None)
    arrays = {}
    for split, part in parts.items():
        arrays |= {f"{split}_input": part.inputs, f"{split}_label": part.label}
    np.savez(path, **arrays)
    return ["--config.data.name=npz", f"--config.data.path={path}"]
