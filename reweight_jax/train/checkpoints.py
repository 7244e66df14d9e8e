"""Checkpoints of a TrainState by orbax, and what to do with a damaged one."""

import pathlib
import shutil
import warnings

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from reweight_jax.errors import UserError
from reweight_jax.train import hosts

KEEP = 3  # the last one, and two to fall back on; the best one besides


class Checkpoints:
    """The checkpoints/ folder of a run. Use as a context manager: leaving waits for the last save.

    A save is written beside and renamed when it is whole, so a killed run leaves none that is half.
    Of several processes only the first saves and restores; in the others nothing is done or found.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder.resolve()
        self._best = _Best()
        self._manager = self._open() if hosts.is_first() else None

    def _open(self):
        kept = policy.AnyPreservationPolicy([policy.LatestN(n=KEEP), self._best])
        # Orbax must not wait for other processes: it would have each of them write and read.
        only_first = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept, create=False, multiprocessing_options=only_first
        )
        return ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._manager:
            self._manager.close()

    def keep(self, step: int | None) -> None:
        """From now on keeps the checkpoint of `step`, however old, instead of an earlier best."""
        self._best.step = step

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
        try:
            return self._restore(step, like)
        except Exception as error:  # orbax raises many kinds for a damaged file
            raise UserError(f"{self._folder / str(step)}: {_reason(error)}") from error

    def _restore(self, step, like):
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def restore_latest(self, like):
        """Returns the newest readable state, or None if there is no checkpoint.

        Args:
          like: a state with the structure, shapes and placement to restore to.

        A damaged checkpoint is named in a warning, renamed to <step>.damaged, and the one before it
        is used. If none can be read, nothing is renamed and UserError says why: the data or the
        program may have changed, and a fresh start would lose the run.
        """
        if not self._manager:
            return None
        steps = sorted(self._manager.all_steps(), reverse=True)
        reasons = {}
        for step in steps:
            try:
                state = self._restore(step, like)
            except Exception as error:  # orbax raises many kinds for a damaged file
                reasons[step] = _reason(error)
                continue
            self._set_aside(reasons)
            return state
        if steps:
            newest = f"of step {steps[0]}: {reasons[steps[0]]}"
            raise UserError(f"{self._folder}: no checkpoint can be read; {newest}")
        return None

    def _set_aside(self, reasons: dict[int, str]) -> None:
        for step, reason in reasons.items():
            path = self._folder / str(step)
            warnings.warn(f"checkpoint {path} is damaged, set aside: {reason}", stacklevel=3)
            aside = path.with_name(f"{step}.damaged")
            shutil.rmtree(aside, ignore_errors=True)  # from an earlier time at the same step
            path.rename(aside)
        if reasons:
            self._manager.close()
            self._manager = self._open()


def read_model(folder: pathlib.Path, step: int, like: tuple, device) -> tuple:
    """Returns (params, model_state) of the model from the checkpoint of `step`, and nothing else.

    Args:
      folder: checkpoints/ of a run, which is only read.
      step: of the checkpoint.
      like: (params, model_state) with the structure and shapes to restore.
      device: where to put them.

    Raises:
      UserError: the checkpoint is missing or damaged, or is of another model.
    """
    sharding = jax.sharding.SingleDeviceSharding(device)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like
    )
    item = {"params": {"model": abstract[0]}, "model_state": abstract[1]}
    arguments = ocp.args.PyTreeRestore(
        item=item,
        restore_args=ocp.checkpoint_utils.construct_restore_args(item),
        partial_restore=True,
    )
    # Nothing is saved, so nothing is written; `read_only` would only add warnings.
    options = ocp.CheckpointManagerOptions(create=False)
    try:
        with ocp.CheckpointManager(folder.resolve(), options=options) as manager:
            saved = manager.restore(step, args=arguments)
    except Exception as error:  # orbax raises many kinds for a damaged file
        raise UserError(f"{folder / str(step)}: {_reason(error)}") from error
    shapes = [
        jax.tree.map(jnp.shape, tree)
        for tree in (like, (saved["params"]["model"], saved["model_state"]))
    ]
    if shapes[0] != shapes[1]:
        raise UserError(f"{folder / str(step)}: is the checkpoint of another model")
    return saved["params"]["model"], saved["model_state"]


class _Best:
    """A policy of orbax that keeps one step besides the latest."""

    step: int | None = None

    def should_preserve(self, checkpoints, *, context):
        del context
        return [checkpoint.step == self.step for checkpoint in checkpoints]


def _reason(error):
    return " ".join((str(error) or type(error).__name__).split())[:200]
