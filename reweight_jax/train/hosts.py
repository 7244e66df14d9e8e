"""Several hosts: how the processes of a run join, and what the first one does for all.

Every process runs the same program over the devices of all. Only the first reads and writes the
folder of the run, and broadcasts what it read. For a run in a single process this does nothing.
"""

import atexit
import contextlib
import faulthandler
import importlib.util
import json
import os
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from reweight_jax.errors import UserError
from reweight_jax.records.workdir import flatten

JOIN_TIMEOUT_S = 300  # hosts of one job may start minutes apart
MOST_PROCESSES = 1 << 16
HEARTBEAT_TIMEOUT_S = 30  # JAX then considers a silent process lost, and ends the others
NOT_JOINED = (
    f"the processes of the run did not meet within {JOIN_TIMEOUT_S} s; each needs the same "
    "--coordinator_address, with a port that is free on the host of process 0 and open to the "
    "others, and a --process_id of its own (--num_processes=1: a run by itself)"
)
FAILED = (
    "a step or a transfer of a run of several processes failed; if another process has ended, "
    "start all of them again: they go on from the last checkpoint"
)


@contextlib.contextmanager
def joined(coordinator_address: str | None, num_processes: int | None, process_id: int | None):
    """Makes this process one of the run's for as long as the `with` statement lasts.

    Give all three arguments, the flags of `reweight_jax.main`, or none: then a Slurm step of
    several tasks or a TPU pod makes one run, and anything else is a run by itself. UserError for
    missing or impossible values, processes that do not meet, or a step that failed because another
    process was lost. The other processes end too, within a minute.
    """
    given = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    if not _is_one_of_several(given):
        yield
        return
    faulthandler.disable()  # absl's would bury the reason under the stacks of all threads
    # A step on the caller's thread would raise a ValueError when a peer is lost (jax 0.12).
    jax.config.update("jax_cpu_enable_async_dispatch", True)
    try:
        _initialize(*given.values())
        yield
        jax.distributed.shutdown()
    except BaseException as error:
        atexit.register(_exit_at_once)  # an orderly end would wait for the others' goodbye
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise UserError(f"{FAILED} ({str(error).splitlines()[0]})") from error
        raise


def count() -> int:
    """Returns how many processes share this run."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Returns whether this process reads and writes the run's folder, and prints."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def from_first(compute):
    """Returns, in every process, the JSON value of `compute()`, which only the first one calls."""
    if count() == 1:
        return compute()
    text = json.dumps(compute()).encode() if is_first() else b""
    size = int(broadcast(np.int32(len(text))))
    return json.loads(bytes(broadcast(np.frombuffer(text.ljust(size), np.uint8))))


def check_same(config_json: str) -> None:
    """Raises UserError, naming a field, if the processes have configs that differ."""
    fields = flatten(json.loads(config_json))
    for name, value in from_first(lambda: fields).items():
        if fields[name] != value:
            raise UserError(f"config.{name}: {fields[name]}, but {value} in the first process")


def broadcast(tree):
    """Returns, in every process, the first one's pytree; in numpy if there are several."""
    return tree if count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def _is_one_of_several(given):
    """Whether this process is one of several; UserError for flags that do not fit together."""
    missing = [flag for flag, value in given.items() if value is None]
    address, number, index = given.values()
    if missing == list(given):
        return _may_be_on_cluster()
    if number == 1:
        return False
    if missing:
        raise UserError(f"{missing[0]}: missing; give all of {', '.join(given)}, or none")
    if not 1 <= number < MOST_PROCESSES:
        raise UserError(f"--num_processes: {number}; must be in 1..{MOST_PROCESSES - 1}")
    if not 0 <= index < number:
        raise UserError(f"--process_id: {index}; must be in 0..{number - 1}")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"--coordinator_address: {address!r}; must be HOST:PORT")
    return True


def _may_be_on_cluster():
    """Whether to let JAX look for other processes of this run.

    It must not always look: it would use only one GPU of a Slurm step of a single task, and fail in
    a Kubernetes pod that is not part of a job.
    """
    if "SLURM_STEP_NODELIST" in os.environ:  # within srun
        tasks = os.environ.get("SLURM_NTASKS", "1")
        if not tasks.isdecimal():
            raise UserError(f"SLURM_NTASKS: {tasks!r} in the environment; must be a number")
        return int(tasks) > 1
    return importlib.util.find_spec("libtpu") is not None


def _initialize(*given):
    # The service would catch SIGTERM, and the program would not end.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            *given,
            initialization_timeout=JOIN_TIMEOUT_S,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(f"{NOT_JOINED} ({str(error).splitlines()[0]})") from error
    except ValueError:  # JAX found no cluster: libtpu is here, but no TPU
        if given[0] is not None:
            raise


def _exit_at_once():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
