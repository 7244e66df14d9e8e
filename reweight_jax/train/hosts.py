"""The processes of a run on several hosts: how they join, end, and what one of them does for all.

Every process runs the same program over the devices of all. The first one alone reads and writes
the folder of the run, so the others need not see it; what it read there reaches them over the
network. A run in a single process, the usual case, passes through here untouched.
"""

import atexit
import contextlib
import faulthandler
import importlib.util
import json
import os
import subprocess
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from reweight_jax.errors import UserError

JOIN_TIMEOUT_S = 300  # hosts of one job may start minutes apart
HEARTBEAT_TIMEOUT_S = 30  # after which JAX takes a silent process for dead, and aborts the others
NOT_JOINED = (
    f"the processes of the run did not come together within {JOIN_TIMEOUT_S} s; each needs the "
    "same --coordinator_address, with a port that is free where process 0 runs and open to the "
    "others, and a --process_id of its own (--num_processes=1: a run by itself)"
)
RESUME = "start all processes of the run again as before: they go on from the last checkpoint"
LOST = f"another process of the run has ended or cannot be reached; {RESUME}"
ABORTED = (
    "this process was killed, or JAX aborted it because another process of the run has ended or "
    f"cannot be reached; {RESUME}"
)
# What JAX says where a peer was lost, rather than memory or a kernel's mistake: in a
# JaxRuntimeError, or where a step runs on the thread that asks for it (jax 0.12) a ValueError.
LOST_SIGNS = ("gloo", "nccl", "coordination", "socket closed", "connection")


@contextlib.contextmanager
def joined(coordinator_address: str | None, num_processes: int | None, process_id: int | None):
    """Makes this process one of the run's for as long as the `with` statement lasts.

    Where an error ends the block, or a signal the process, the others end too: within a minute,
    with a line that says why and a status other than 0.

    Args:
      coordinator_address: host:port at which process 0 listens and the others find it.
      num_processes: of the run; 1 is a run by itself, wherever it was started.
      process_id: of this process, 0..num_processes - 1.
        All three, or none: then a Slurm step of several tasks or a TPU pod, where JAX finds them,
        makes one run, and everywhere else this process is a run by itself.

    Raises:
      UserError: half-given or impossible values; or, out of the block, that another process is
        lost.
    """
    given = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    if not _is_one_of_several(given):
        yield
        return
    last_word = _LastWord(NOT_JOINED)
    faulthandler.disable()  # absl's, which would bury the reason under the stacks of all threads
    try:
        _initialize(*given.values())
        last_word.set(ABORTED)
        yield
        jax.distributed.shutdown()
        last_word.drop()
    except BaseException as error:
        # Not in an orderly way: JAX would have this process wait for the others' goodbye.
        atexit.register(_exit_at_once, last_word)
        if says_lost(error):
            raise UserError(LOST) from error
        raise


def says_lost(error: BaseException) -> bool:
    """Whether an error of a step or a transfer means that another process cannot be reached."""
    is_of_jax = isinstance(error, (jax.errors.JaxRuntimeError, ValueError))
    return is_of_jax and any(sign in str(error).lower() for sign in LOST_SIGNS)


def count() -> int:
    """How many processes share this run."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that reads and writes the run's folder, and prints."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def from_first(compute):
    """Returns in every process what `compute()`, called in the first alone, returns there.

    The value is of what JSON can hold. All processes must come to this call.
    """
    if count() == 1:
        return compute()
    text = json.dumps(compute()).encode() if is_first() else b""
    size = int(broadcast(np.int32(len(text))))
    return json.loads(bytes(broadcast(np.frombuffer(text.ljust(size), np.uint8))))


def broadcast(tree):
    """Returns in every process, in numpy, the first one's pytree of arrays of the same shapes."""
    return tree if count() == 1 else multihost_utils.broadcast_one_to_all(tree)


class _LastWord:
    """A process beside this one, which prints the error set last once this one has ended.

    Where JAX gives up it aborts, without a return to Python: no handler in here would be asked.
    """

    PROGRAM = "import sys; sys.stderr.write(sys.stdin.readlines()[-1].lstrip())"

    def __init__(self, error: str):
        self._process = subprocess.Popen(
            [sys.executable, "-ESc", self.PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the keyboard is for this process alone
            text=True,
            bufsize=1,
        )
        self.set(error)

    def set(self, error: str) -> None:
        self._process.stdin.write(f"error: {error}\n")

    def drop(self) -> None:
        """Nothing is to be said: this process ends by itself."""
        self._process.communicate("\n")


def _is_one_of_several(given):
    """Whether this process is to be; raises UserError for flags that make no sense together."""
    missing = [flag for flag, value in given.items() if value is None]
    address, number, index = given.values()
    if missing == list(given):
        return _may_be_on_cluster()
    if number == 1:
        return False
    if missing:
        raise UserError(f"{missing[0]}: missing; give all of {', '.join(given)}, or none")
    if number < 1:
        raise UserError(f"--num_processes: {number}; must be at least 1")
    if not 0 <= index < number:
        raise UserError(f"--process_id: {index}; must be in 0..{number - 1}")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator_address: {address!r}; must be HOST:PORT")
    return True


def _may_be_on_cluster():
    """Whether to let JAX look for other processes of this run.

    Not everywhere: it would take one GPU alone in a Slurm step of a single task, and fail in a
    Kubernetes pod that is no job of several.
    """
    if "SLURM_STEP_NODELIST" in os.environ:  # within srun
        return int(os.environ.get("SLURM_NTASKS", "1")) > 1
    return importlib.util.find_spec("libtpu") is not None


def _initialize(*given):
    # It would catch SIGTERM, and leave it to the program to ask for it and end.
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


def _exit_at_once(last_word):
    sys.stdout.flush()
    sys.stderr.flush()
    last_word.drop()
    os._exit(1)
