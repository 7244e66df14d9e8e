"""The phases of a run: how it is trained, for how many steps, and from which state."""

from typing import NamedTuple

import optax

from reweight_jax.labels.quality import JUDGED
from reweight_jax.methods import METHODS, Method

FINETUNE_FROM = {"none": (), "last": ("last",), "best": ("best",), "both": ("last", "best")}
RETRAIN = ("none", "drop", "relabel")
# config.lr_schedule -> config -> a schedule that begins with config.learning_rate.
LR_SCHEDULES = {
    "drops": lambda config: optax.piecewise_constant_schedule(
        config.learning_rate, dict.fromkeys(config.lr_drop_steps, 0.1)
    ),
    "cosine": lambda config: optax.cosine_decay_schedule(config.learning_rate, config.num_steps),
}


class Phase(NamedTuple):
    """Steps `start` to `stop` of a run, with one method and one learning rate schedule.

    Attributes:
      name: of its scores in result.json.
      start, stop: steps of the run.
      method: how it trains.
      schedule: of the learning rate, a function of the steps since the phases began afresh.
      begin: the state that it starts from: the "last" of the previous phase, the one of the
        training that was "best" on held-out data, or "afresh", the initial one.
      examples: a name in `reweight_jax.train.selection.SELECTIONS`: what it trains on.
      reviews: a name in `reweight_jax.train.selection.REVIEWS`: whether the model at its end passes
        all labels in review, and so judges them from then on, or decides whether the run settles.
        "never": neither.
      remembers: whether its steps add to what is remembered of each example.
    """

    name: str
    start: int
    stop: int
    method: Method
    schedule: optax.Schedule
    begin: str = "last"
    examples: str = "train"
    reviews: str = "never"
    remembers: bool = False

    @property
    def title(self) -> str:
        """Its name in plots and in the progress bar."""
        if self.name == "last":
            settles = self.examples == "believed"
            return ("settled" if settles else "not settled") if self.start else "training"
        return self.name.replace("_", " ")

    def decided(self, first: "Phase", settles: bool) -> "Phase":
        """Returns the phase; one that was to settle goes on as the `first` one if it does not."""
        if self.examples != "believed" or settles:
            return self
        return first._replace(name=self.name, start=self.start, stop=self.stop, reviews="never")


def phases_of(config) -> list[Phase]:
    """Returns the training with `config.method`, then the others that `config` asks for.

    The training is one phase, "last", or two: "unsettled" and "last", if `config.settle_at` is
    below 1, the method has a clean gradient, and the task is not one of the user's own, whose
    margins may mean anything. Only the first phase of a run adds to what is remembered, and the
    second one if it goes on reweighting because the run does not settle.
    """
    schedule = LR_SCHEDULES[config.lr_schedule](config)
    method, plain = METHODS[config.method], METHODS["baseline"]
    examples = "clean" if method.trains_on_clean else "train"
    end, settle = config.num_steps, max(1, round(config.settle_at * config.num_steps))
    phases = [Phase("last", 0, end, method, schedule, examples=examples, remembers=True)]
    if settle < end and method.needs_clean and config.task in JUDGED:
        phases = [
            phases[0]._replace(name="unsettled", stop=settle, reviews="to_settle"),
            Phase("last", settle, end, plain, schedule, examples="believed", reviews="always"),
        ]
    constant = optax.constant_schedule(config.finetune_learning_rate)
    for begin in FINETUNE_FROM[config.finetune_from]:
        stop, clean_only = end + config.finetune_steps, METHODS["clean_only"]
        phases.append(Phase(f"finetuned_{begin}", end, stop, clean_only, constant, begin, "clean"))
        end = stop
    again = {"plain": "all"} if config.compare_plain else {}
    again |= {"retrained": config.retrain} if config.retrain != "none" else {}
    for name, examples in again.items():
        stop = end + config.num_steps
        reviews = "always" if name == "retrained" else "never"
        phases.append(Phase(name, end, stop, plain, schedule, "afresh", examples, reviews))
        end = stop
    return phases
