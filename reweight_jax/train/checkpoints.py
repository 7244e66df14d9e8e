"""Checkpoints of a TrainState by orbax, and what to do with a damaged one.

Orbax keeps no checksum. So a checkpoint has two parts: the state, and a record of a digest of each
of its arrays, of the run's config and of its metrics up to this step, which is sealed.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
import threading
import warnings
import zlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from reweight_jax.errors import UserError, one_line
from reweight_jax.sealed import DamagedError, seal, unseal
from reweight_jax.train import hosts, orbax_threads
from reweight_jax.trees import by_path

KEEP = 3  # the last one, and two to fall back on; those of `Checkpoints.keep` besides
SLACK = 1_000_000  # bytes of a checkpoint that are not of its arrays, and of what follows it

# Orbax numbers the saves of a process, and its threads ask for the number of the last one. So runs
# in several threads save one after the other, and not in the background.
_saving = threading.Lock()
_going_on: list["Checkpoints"] = []


class Restored(NamedTuple):
    """A whole checkpoint: the state, its config.json, and the text of metrics.jsonl so far."""

    state: Any
    config: dict
    metrics: str


class Checkpoints:
    """The checkpoints/ folder of a run, a context manager whose exit waits for the last save.

    A save gets its name when it is complete, so a killed run leaves no half-written one. Of several
    processes only the first saves and restores; the others do nothing and find nothing.
    """

    def __init__(self, folder: pathlib.Path, check: Callable[[dict], None]):
        """`check` takes the config of a checkpoint; UserError if it is of another run."""
        self._folder, self._check = pathlib.Path(os.path.realpath(folder)), check
        self._preserved = policy.AnyPreservationPolicy([])
        self.keep(())
        self._manager = self._open() if hosts.is_first() else None

    def _open(self):
        with _writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._folder).close()  # orbax's threads would wait for ever
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._preserved,
            create=False,
            # Orbax must not wait for other processes: it would have each of them write and read.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}
            ),
        )
        return ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self):
        self._threads = contextlib.ExitStack()
        self._threads.enter_context(orbax_threads.quiet())
        _going_on.append(self)
        return self

    def __exit__(self, *exception):
        with self._threads:
            try:
                if self._manager:
                    with _writing(self._folder):
                        self._manager.close()
            finally:
                _going_on.remove(self)

    def keep(self, steps: Collection[int | None]) -> None:
        """Keeps the checkpoints of `steps` from now on, in place of those named before."""
        self._preserved.policies = [policy.LatestN(n=KEEP), policy.CustomSteps(steps)]

    def save(self, state, config: dict, metrics: str) -> None:
        """Saves `state` under its step, in the background, and deletes what is not kept.

        With it the content of config.json, and the text of metrics.jsonl so far.
        """
        if not self._manager:
            return
        # A copy, because the next step donates these buffers while the writer still reads them; in
        # numpy, because orbax takes no arrays of one host's devices.
        state = jax.tree.map(np.array, jax.device_get(state))
        self._check_space(sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        record = {"step": int(state.step), "config": config, "metrics": metrics}
        record = seal(record | {"digests": digests(state)})
        args = {"state": ocp.args.StandardSave(state), "record": ocp.args.JsonSave(record)}
        with _writing(self._folder), _saving:
            others = [run for run in list(_going_on) if run is not self and run._manager]
            for run in others:
                with contextlib.suppress(Exception):  # the run's own thread gets it too
                    run._manager.wait_until_finished()
            self._manager.save(int(state.step), args=ocp.args.Composite(**args))
            if others:
                self._manager.wait_until_finished()

    def _check_space(self, num_bytes):
        # Orbax's threads cannot go on from a disk that gets full.
        with _writing(self._folder):
            free = shutil.disk_usage(self._folder).free
        needed = num_bytes + SLACK
        if free < needed:
            raise UserError(
                f"{self._folder}: a checkpoint cannot be written: it needs "
                f"{needed / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free on this disk; "
                "the last checkpoint is kept"
            )

    def restore(self, step: int, like):
        """Returns the state saved at `step`; raises UserError if it cannot be believed."""
        if not self._manager:
            return like
        with _writing(self._folder):
            self._manager.wait_until_finished()
        try:
            return self._restore(step, like).state
        except DamagedError as error:
            raise UserError(
                f"{error}; remove it and those after it, and the command takes these steps again"
            ) from error

    def _restore(self, step, like) -> Restored:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.StandardRestore(abstract)
        return _read(self._manager, self._folder, step, args, self._check)

    def restore_latest(self, like) -> Restored | None:
        """Returns the newest whole checkpoint, its state placed as `like`; None if there is none.

        A damaged checkpoint is named in a warning and renamed to <step>.damaged, and the previous
        one is used. If none can be read, nothing is renamed and UserError says why: the program may
        have changed, and a fresh start would lose the run. UserError too if it is of another run.
        """
        if not self._manager:
            return None
        steps = sorted(self._manager.all_steps(), reverse=True)
        reasons = {}
        for step in steps:
            try:
                restored = self._restore(step, like)
            except DamagedError as error:
                reasons[step] = str(error)
                continue
            self._set_aside(reasons)
            return restored
        if steps:
            raise UserError(f"no checkpoint can be read; {reasons[steps[0]]}")
        return None

    def _set_aside(self, reasons: dict[int, str]) -> None:
        for step, reason in reasons.items():
            path, aside = self._folder / str(step), self._folder / f"{step}.damaged"
            warnings.warn(
                f"checkpoint {path} is damaged, now {aside.name} ({reason})", stacklevel=3
            )
            shutil.rmtree(aside, ignore_errors=True)  # of an earlier resume
            path.rename(aside)
        if reasons:
            self._manager.close()
            self._manager = self._open()


def digests(tree) -> dict[str, str]:
    """Returns a digest of each array of `tree` by its path: of its dtype, shape and numbers."""
    return {path: _digest(np.asarray(leaf)) for path, leaf in by_path(jax.device_get(tree)).items()}


def _digest(array):
    # CRC-32 is five times as fast as blake2b, and misses one damage in four billion.
    start = zlib.crc32(f"{array.dtype} {array.shape}".encode())
    return f"{zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8), start):08x}"


def _read(manager, folder, step, args, check) -> Restored:
    """A checkpoint, of whose state `args` says what is read; DamagedError if it is not as saved.

    `check` takes the config before the state is read.
    """
    with _damage_named(folder, step):
        of_record = ocp.args.Composite(record=ocp.args.JsonRestore())
        record = unseal(manager.restore(step, args=of_record)["record"])
        if record["step"] != step:
            raise ValueError(f"it is of step {record['step']}")
        if not isinstance(record["metrics"], str):
            raise ValueError("it is of another version")
    check(record["config"])
    with _damage_named(folder, step):
        state = manager.restore(step, args=ocp.args.Composite(state=args))["state"]
        for name, digest in digests(state).items():
            if record["digests"].get(name) != digest:
                raise ValueError(f"{name} is not what was saved")
    return Restored(state, record["config"], record["metrics"])


def read_model(
    folder: pathlib.Path, step: int, like: tuple, device, check: Callable[[dict], None]
) -> tuple:
    """Returns only the model's (params, model_state) from a checkpoint.

    Args:
      folder: checkpoints/ of a run, which is only read.
      step: of the checkpoint.
      like: (params, model_state) with the structure and shapes to restore.
      device: the device to put them on.
      check: takes the config of the checkpoint; UserError if it is of another run.

    Raises:
      UserError: the checkpoint is missing or damaged, or is of another model or run.
    """
    sharding = jax.sharding.SingleDeviceSharding(device)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like
    )
    item = {"params": {"model": abstract[0]}, "model_state": abstract[1]}
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
    # Nothing is saved, so nothing is written; `read_only` would only add warnings.
    options = ocp.CheckpointManagerOptions(create=False)
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}
    with ocp.CheckpointManager(
        os.path.realpath(folder), options=options, item_handlers=handlers
    ) as manager:

        def check_model(config):
            check(config)
            with _damage_named(folder, step):
                saved = by_path(manager.item_metadata(step)["state"].tree)
            # Orbax reads what `item` has, and says nothing of the rest.
            of_model = ("params/model", "model_state")
            saved = {path: leaf for path, leaf in saved.items() if path.startswith(of_model)}
            if _shapes(saved) != _shapes(by_path(item)):
                raise UserError(f"{folder / str(step)}: is the checkpoint of another model")

        state = _read(manager, folder, step, args, check_model).state
    return state["params"]["model"], state["model_state"]


def _shapes(leaves):
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}


@contextlib.contextmanager
def _damage_named(folder, step):
    try:
        yield
    except Exception as error:  # orbax raises many kinds for a damaged file
        raise DamagedError(f"{folder / str(step)}: {one_line(error)}") from error


@contextlib.contextmanager
def _writing(folder):
    """Names an error of orbax's writer, which also tells of one in the background, in one line."""
    try:
        with orbax_threads.uninterrupted():
            yield
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: a checkpoint cannot be written ({one_line(error)})") from error
