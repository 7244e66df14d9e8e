"""Checkpoints of a TrainState by orbax, and what to do with a damaged one."""

import pathlib
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from reweight_jax.errors import UserError
from reweight_jax.train import hosts as processes

KEEP = 3  # the last one, and two to fall back on; the best one beside them


class Checkpoints:
    """The checkpoints/ folder of a run. Use as a context manager: leaving waits for the last save.

    A save is written beside and renamed when it is whole, so a killed run leaves none that is half.
    Of several processes the first alone saves and restores; elsewhere nothing is done or found.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder.resolve()
        self._best = _Best()
        self._manager = self._open() if processes.is_first() else None

    def _open(self):
        kept = policy.AnyPreservationPolicy([policy.LatestN(n=KEEP), self._best])
        # Orbax is to wait for no other process: it would have each of them write and read.
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept, create=False, multiprocessing_options=alone
        )
        return ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._manager:
            self._manager.close()

    def keep(self, steps: set[int]) -> None:
        """From now on keeps the checkpoints of `steps`, however old, in the place of others."""
        self._best.steps = steps

    def save(self, state) -> None:
        """Saves `state` under its step, in the background, and drops what is not kept."""
        if not self._manager:
            return
        # A copy, because the next step donates these buffers while the writer still reads them.
        state = jax.tree.map(jnp.copy, state)
        if processes.count() > 1:  # orbax takes no arrays there that are on one host's devices
            state = jax.device_get(state.replace(key=jax.random.key_data(state.key)))
        self._manager.save(int(np.max(state.step)), args=ocp.args.StandardSave(state))

    def restore(self, step: int, like):
        """Returns the state saved at `step`; raises UserError where it cannot be read."""
        if not self._manager:
            return like
        self._manager.wait_until_finished()
        try:
            return self._restore(step, like)
        except Exception as error:  # orbax raises many kinds for a damaged file
            raise UserError(f"{self._folder / str(step)}: {_reason(error)}") from error

    def _restore(self, step, like):
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        if not jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key):  # several hosts saved it
            impl = jax.random.key_impl(like.key)
            state = state.replace(key=jax.random.wrap_key_data(state.key, impl=impl))
        return state

    def restore_latest(self, like):
        """Returns the newest readable state, or None where there is no checkpoint.

        Args:
          like: a state with the structure, shapes and placement to restore to.

        A damaged checkpoint is named in a warning, set aside as <step>.damaged, and the one before
        it is used. Where none can be read, nothing is set aside and UserError says why: the data or
        the program may have changed, and starting anew would lose the run.
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
            shutil.rmtree(aside, ignore_errors=True)  # of an earlier time at the same step
            path.rename(aside)
        if reasons:
            self._manager.close()
            self._manager = self._open()


class _Best:
    """The policy of orbax that keeps some steps beside the latest."""

    steps: set[int] = frozenset()

    def should_preserve(self, checkpoints, *, context):
        del context
        return [checkpoint.step in self.steps for checkpoint in checkpoints]


def _reason(error):
    return " ".join((str(error) or type(error).__name__).split())[:200]
