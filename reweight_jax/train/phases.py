"""The phases of a run: how it is trained, for how many steps, and from which state."""

import math
from typing import NamedTuple

import optax

from reweight_jax.labels.quality import JUDGED
from reweight_jax.methods import METHODS, Method

FINETUNE_FROM = {"none": (), "last": ("last",), "best": ("best",), "both": ("last", "best")}
FINETUNE_FROM |= {"retrained": ()}  # it comes after all others
RETRAIN = ("none", "drop", "relabel")
# config.lr_schedule -> config -> a schedule that begins with config.learning_rate.
LR_SCHEDULES = {
    "drops": lambda config: optax.piecewise_constant_schedule(
        config.learning_rate, dict.fromkeys(config.lr_drop_steps, 0.1)
    ),
    "cosine": lambda config: optax.cosine_decay_schedule(config.learning_rate, config.num_steps),
}
BUILT_IN = dict(LR_SCHEDULES)  # without entries of the user's own


def its_end_again(config) -> optax.Schedule:
    """Returns the rates of the last steps of the training, for as many steps of the judge."""
    schedule, steps = LR_SCHEDULES[config.lr_schedule](config), judge_steps(config)
    return lambda count: schedule(count - steps)


def judge_steps(config) -> int:
    """Returns for how many steps a judge is trained."""
    return max(1, round(config.judge_for * config.num_steps))


# `Phase.schedule` -> config -> learning rates by the steps since the phases began afresh.
SCHEDULES = {
    "training": lambda config: LR_SCHEDULES[config.lr_schedule](config),
    "judge": its_end_again,
    "finetuning": lambda config: optax.constant_schedule(config.finetune_learning_rate),
}


class Phase(NamedTuple):
    """Steps `start` to `stop` of a run, with one method and one learning rate schedule."""

    name: str  # of its scores in result.json
    start: int
    stop: int
    method: Method
    schedule: str = "training"  # of the learning rate: a name in SCHEDULES
    # The state that it starts from. "before": the end of the previous phase; a step: the end of an
    # earlier one; "best": the best step on held-out data; "afresh": the initialisation.
    begin: str | int = "before"
    examples: str = "train"  # a name in `selection.SELECTIONS`: what it trains on
    # A name in `selection.REVIEWS`: whether the model at its end passes all labels in review, and
    # from then on judges them, "alone" or "with_others": by the mean of what it says and of what
    # was known; or whether it decides if the run settles. "never": neither.
    reviews: str = "never"
    remembers: bool = False  # whether its steps add to what is remembered of each example

    @property
    def rate(self) -> str:
        """The field of the config that has its learning rate."""
        return "finetune_learning_rate" if self.schedule == "finetuning" else "learning_rate"

    @property
    def title(self) -> str:
        """Its name in plots and in the progress bar."""
        if self.name == "last" and self.examples == "believed":
            return "settled"
        if self.name in ("unsettled", "last"):
            return "reweighting" if self.method.needs_clean else "training"
        return self.name.replace("_", " ")


def phases_of(config, num_examples: int = 0, settles: bool = True) -> list[Phase]:
    """Returns the training with `config.method`, then the others that `config` asks for.

    The training is the phase "last". If the method has a clean gradient, there may be two before
    it: plain steps, "warm_up", and those with the method, "unsettled", if the run is to settle.
    Unless the run settles, there may be a "judge", and another one of what is retrained: the model
    then trains on the clean examples alone, with the learning rates of the last steps. Settling and
    judging are not for a task of the user's own, whose margins may mean anything. Only the steps
    with the method add to what is remembered, also those of a run that does not settle.

    Args:
      config: the run's.
      num_examples: of the training set. 0 if that is not known yet: then without a warm-up, which
        changes no step at which the others end.
      settles: whether the run settles, if it is to. That is decided at the end of "unsettled"; a
        run that does not goes on with the method.
    """
    method, plain = METHODS[config.method], METHODS["baseline"]
    clean_only = METHODS["clean_only"]
    examples = "clean" if method.trains_on_clean else "train"
    end = config.num_steps
    settle, one_pass = max(1, round(config.settle_at * end)), num_examples / config.batch_size
    judges = method.needs_clean and config.task in JUDGED
    to_settle = judges and settle < end
    stop = settle if to_settle else end
    # Afterwards at least half of the steps, and a whole pass: what was in no batch is not judged.
    most = max(0, min(stop // 2, stop - math.ceil(one_pass)))
    start = min(round(config.warm_up * one_pass), most) if method.needs_clean else 0
    main = Phase("last", start, end, method, examples=examples, remembers=True)
    phases = [Phase("warm_up", 0, start, plain)] if start else []
    if to_settle:
        phases.append(main._replace(name="unsettled", stop=settle, reviews="to_settle"))
        main = main._replace(start=settle)
    settled = Phase("last", settle, end, plain, examples="believed", reviews="alone")
    settles &= to_settle
    phases.append(settled if settles else main)

    def add(name, steps, *rest):
        start = phases[-1].stop
        phases.append(Phase(name, start, start + steps, *rest))

    judge = judge_steps(config), clean_only, "judge", "before", "clean", "alone"
    has_judge = judges and config.judge_for and not settles
    if has_judge:
        add("judge", *judge)
    tuning = config.finetune_steps, clean_only, "finetuning"
    for name in FINETUNE_FROM[config.finetune_from]:
        add(f"finetuned_{name}", *tuning, end if name == "last" else name, "clean")
    afresh = config.num_steps, plain, "training", "afresh"
    if config.compare_plain:
        add("plain", *afresh, "all")
    if config.retrain != "none":
        # A training on the clean examples has said nothing of the others.
        reviews = "alone" if method.trains_on_clean else "with_others"
        add("retrained", *afresh, config.retrain, "never" if has_judge else reviews)
        retrained = phases[-1].stop
        if has_judge:
            add("judge_retrained", *judge)
        if config.finetune_from == "retrained":
            add("finetuned_retrained", *tuning, retrained, "clean")
    return phases
