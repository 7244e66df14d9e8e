"""The phases of a run: how it is trained, for how many steps, and from which state."""

from typing import NamedTuple

import optax

from reweight_jax.methods import METHODS, Method

FINETUNE_FROM = {"none": (), "last": ("last",), "best": ("best",), "both": ("last", "best")}


class Phase(NamedTuple):
    """Steps `start` to `stop` of a run, with one method and one learning rate schedule.

    Attributes:
      name: of its scores in result.json.
      start, stop: steps of the run.
      method: how it trains.
      schedule: of the learning rate, a function of the run's step.
      begin: the state that it starts from: the "last" of the previous phase, or the one of the
        first phase that was "best" on held-out data.
    """

    name: str
    start: int
    stop: int
    method: Method
    schedule: optax.Schedule
    begin: str = "last"


def phases_of(config) -> list[Phase]:
    """Returns the training with `config.method`, then the fine-tuning that `config` asks for."""
    schedule = learning_rate_schedule(config)
    phases = [Phase("last", 0, config.num_steps, METHODS[config.method], schedule)]
    constant = optax.constant_schedule(config.finetune_learning_rate)
    for begin in FINETUNE_FROM[config.finetune_from]:
        start = phases[-1].stop
        stop, clean_only = start + config.finetune_steps, METHODS["clean_only"]
        phases.append(Phase(f"finetuned_{begin}", start, stop, clean_only, constant, begin))
    return phases


def learning_rate_schedule(config) -> optax.Schedule:
    """Returns the schedule `config.lr_schedule`, which begins with `config.learning_rate`."""
    return LR_SCHEDULES[config.lr_schedule](config)


LR_SCHEDULES = {
    "drops": lambda config: optax.piecewise_constant_schedule(
        config.learning_rate, dict.fromkeys(config.lr_drop_steps, 0.1)
    ),
    "cosine": lambda config: optax.cosine_decay_schedule(config.learning_rate, config.num_steps),
}
