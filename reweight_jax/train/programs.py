"""Compiled programs, which the phases of a run share, and the runs of one kind in a process.

So other seeds, and most folds of a cross-validation, compile nothing again: sets of nearly one size
are padded to one, see `resident.shared_size`. Two runs are of one kind if all that their programs
are made of is equal and of this package. A function of the user's own may read what he changes
between two runs, and a program that is there would not see it.
"""

import json
import threading
from collections.abc import Callable
from typing import Any

import jax

from reweight_jax import methods, models, tasks
from reweight_jax.train import phases, state

MOST_KEPT = 16  # programs; a run has up to 13, which take 70 MB for a ResNet-8 on a CPU
_kept: dict[tuple, Any] = {}  # the last one used is the last
_lock = threading.Lock()
# Field of the config -> the table that it names an entry of, and what is built in.
_TABLES = {
    "model": (models.MODELS, models.BUILT_IN),
    "task": (tasks.TASKS, tasks.BUILT_IN),
    "method": (methods.METHODS, methods.BUILT_IN),
    "optimizer": (state.OPTIMIZERS, state.BUILT_IN),
    "lr_schedule": (phases.LR_SCHEDULES, phases.BUILT_IN),
}
# No program depends on these fields, but for the shapes of its arguments.
_OUTSIDE = ("name", "variant", "seed", "trial", "batch_size", "clean_batch_size", "labels")
_OUTSIDE += ("warm_up", "settle_at", "finetune_from", "finetune_steps", "compare_plain", "retrain")
_OUTSIDE += ("confusion_from", "observe_alignment", "remember_megabytes", "steps_per_dispatch")
_OUTSIDE += ("log_every_steps", "eval_every_steps", "checkpoint_every_steps")
_OF_DATA = ("standardize", "crop_padding", "flip")  # the fields of config.data on which some do


class Programs:
    """The programs of a run, and those of its kind, if it has one."""

    def __init__(self, kind: tuple | None = None):
        """`kind`: as `kind_of` returns it."""
        self._kind, self._own = kind, {}

    def once(self, make: Callable[[], Any], *key) -> Any:
        """Returns make(), or what it returned before for this key."""
        programs, key = _kept if self._kind else self._own, (self._kind, *key)
        with _lock:
            program = programs.pop(key, None) or make()
            programs[key] = program
            if len(programs) > MOST_KEPT:
                del programs[next(iter(programs))]
        return program


def kind_of(config, facts: dict, devices, model: Any = None) -> tuple | None:
    """Returns all that the programs of a run depend on; None if some of it is the user's own.

    Args:
      config: the run's.
      facts: `reweight_jax.train.config.facts_of` its data.
      devices: of the run.
      model: the user's own; None: the one that `config.model` names.
    """
    fields = json.loads(config.to_json())
    names = fields | {"model": fields["model"]["name"]}
    if model is not None:
        return None
    for field, (table, built_in) in _TABLES.items():
        if names[field] not in (*built_in, "auto"):
            return None
        if any(table.get(name) is not entry for name, entry in built_in.items()):
            return None
    inside = {name: value for name, value in fields.items() if name not in _OUTSIDE}
    inside["data"] = {name: fields["data"][name] for name in _OF_DATA}
    inside |= {name: facts[name] for name in ("inputs", "num_outputs", "vocabulary")}
    if config.task == "regression":  # its programs have the mean and the deviation of the labels
        inside["train"] = facts["fingerprint"]["train"]
    inside["random"] = jax.config.jax_default_prng_impl  # jax.jit does not ask for it
    return json.dumps(inside), *devices
