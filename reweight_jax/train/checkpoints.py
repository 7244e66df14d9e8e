"""Checkpoints of a TrainState by orbax, and what to do with a damaged one."""

import contextlib
import pathlib
import shutil
import warnings
from collections.abc import Collection

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from reweight_jax.errors import UserError
from reweight_jax.train import hosts

KEEP = 3  # the last one, and two to fall back on; those of `Checkpoints.keep` besides


class Checkpoints:
    """The checkpoints/ folder of a run, a context manager whose exit waits for the last save.

    A save gets its name when it is complete, so a killed run leaves no half-written one. Of several
    processes only the first saves and restores; the others do nothing and find nothing.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder.resolve()
        self._kept = _Kept()
        self._manager = self._open() if hosts.is_first() else None

    def _open(self):
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy([policy.LatestN(n=KEEP), self._kept]),
            create=False,
            # Orbax must not wait for other processes: it would have each of them write and read.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}
            ),
        )
        return ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._manager:
            self._manager.close()

    def keep(self, steps: Collection[int | None]) -> None:
        """Keeps the checkpoints of `steps` from now on, in place of those named before."""
        self._kept.steps = steps

    def save(self, state) -> None:
        """Saves `state` under its step, in the background, and deletes what is not kept."""
        if not self._manager:
            return
        # A copy, because the next step donates these buffers while the writer still reads them;
        # with several processes in numpy, because orbax takes no arrays of one host's devices.
        state = jax.device_get(state) if hosts.count() > 1 else jax.tree.map(jnp.copy, state)
        self._manager.save(int(state.step), args=ocp.args.StandardSave(state))

    def restore(self, step: int, like):
        """Returns the state saved at `step`; raises UserError if it cannot be read."""
        if not self._manager:
            return like
        self._manager.wait_until_finished()
        with _damage_named(self._folder, step):
            return self._restore(step, like)

    def _restore(self, step, like):
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def restore_latest(self, like):
        """Returns the newest readable state, placed as `like`, or None if there is no checkpoint.

        A damaged checkpoint is named in a warning and renamed to <step>.damaged, and the previous
        one is used. If none can be read, nothing is renamed and UserError says why: the data or the
        program may have changed, and a fresh start would lose the run.
        """
        if not self._manager:
            return None
        steps = sorted(self._manager.all_steps(), reverse=True)
        reasons = {}
        for step in steps:
            try:
                with _damage_named(self._folder, step):
                    state = self._restore(step, like)
            except UserError as error:
                reasons[step] = str(error)
                continue
            self._set_aside(reasons)
            return state
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


def read_model(folder: pathlib.Path, step: int, like: tuple, device) -> tuple:
    """Returns only the model's (params, model_state) from a checkpoint.

    Args:
      folder: checkpoints/ of a run, which is only read.
      step: of the checkpoint.
      like: (params, model_state) with the structure and shapes to restore.
      device: the device to put them on.

    Raises:
      UserError: the checkpoint is missing or damaged, or is of another model.
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
    with _damage_named(folder, step):
        with ocp.CheckpointManager(folder.resolve(), options=options) as manager:
            restored = manager.restore(step, args=args)
    restored = restored["params"]["model"], restored["model_state"]
    if jax.tree.map(jnp.shape, restored) != jax.tree.map(jnp.shape, like):
        raise UserError(f"{folder / str(step)}: is the checkpoint of another model")
    return restored


class _Kept:
    """A policy of orbax that keeps some steps besides the latest."""

    steps: Collection[int | None] = ()

    def should_preserve(self, checkpoints, *, context):
        del context
        return [checkpoint.step in self.steps for checkpoint in checkpoints]


@contextlib.contextmanager
def _damage_named(folder, step):
    try:
        yield
    except Exception as error:  # orbax raises many kinds for a damaged file
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise UserError(f"{folder / str(step)}: {reason}") from error
