"""What is wrong with a config or with a state, said before it does harm."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from reweight_jax.errors import UserError, choose
from reweight_jax.methods import METHODS

EPSILON_METHODS = ("lookahead", "jvp")
FINETUNE_FROM = {"none": (), "last": ("last",), "best": ("best",), "both": ("last", "best")}
# Whether the clean images stand in the training set too, for each method.
CLEAN_IN_TRAIN = {
    "never": lambda method: False,
    "baselines": lambda method: not method.needs_clean,
    "always": lambda method: True,
}


def check_config(config) -> None:
    """Raises UserError for what no single field's type can rule out."""
    choose("config.method", config.method, METHODS)
    choose("config.epsilon_method", config.epsilon_method, dict.fromkeys(EPSILON_METHODS))
    if config.clean_gradient_every > 1 and config.epsilon_method != "jvp":
        raise UserError(
            f"config.clean_gradient_every: {config.clean_gradient_every}; only the epsilon_method "
            "jvp has a clean gradient to keep"
        )
    try:
        re.compile(config.epsilon_params)
    except re.error as error:
        raise UserError(f"config.epsilon_params: {config.epsilon_params!r}; {error}") from None
    choose("config.finetune_from", config.finetune_from, FINETUNE_FROM)
    choose("config.data.clean_in_train", config.data.clean_in_train, CLEAN_IN_TRAIN)
    intervals = ("log_every_steps", "eval_every_steps", "checkpoint_every_steps")
    positive = ("num_steps", "finetune_steps", "batch_size", "clean_batch_size", *intervals)
    positive += ("clean_gradient_every", "num_seeds")
    least = dict.fromkeys((*positive, "data.num_clean", "data.num_hyper_val"), 1)
    least |= dict.fromkeys(("momentum", "weight_decay"), 0)
    least |= dict.fromkeys(("data.num_train", "data.crop_padding", "data.workers"), 0)
    below = {"momentum": 1}
    for field in ("learning_rate", "finetune_learning_rate"):
        if not 0 < config[field] < math.inf:
            raise UserError(f"config.{field}: {config[field]:g}; must be above 0")
    flat = config.to_dict() | {f"data.{name}": value for name, value in config.data.items()}
    for field, smallest in least.items():
        if not smallest <= flat[field] < below.get(field, math.inf):
            limit = f" and below {below[field]:g}" if field in below else ""
            raise UserError(
                f"config.{field}: {flat[field]:g}; must be at least {smallest:g}{limit}"
            )
    for field in intervals[1:]:
        if config[field] % config.log_every_steps:
            raise UserError(
                f"config.{field}: {config[field]}; must be a multiple of log_every_steps "
                f"({config.log_every_steps})"
            )
    if config.num_seeds > 1 and not config.data.resident:
        raise UserError(f"config.num_seeds: {config.num_seeds}; a set that is streamed trains one")
    if not 0 <= config.seed <= (1 << 32) - config.num_seeds:
        raise UserError(f"config.seed: {config.seed}; must be in 0..2**32 - {config.num_seeds}")
    for field, values in (
        ("data.classes", config.data.classes),
        ("lr_drop_steps", config.lr_drop_steps),
    ):
        if not all(isinstance(value, int) for value in values):
            raise UserError(f"config.{field}: {values}; must be integers")
    if min(config.lr_drop_steps, default=1) < 1:
        raise UserError(f"config.lr_drop_steps: {config.lr_drop_steps}; must be at least 1")


def check_finite(state, seeds: list[int]) -> None:
    """Raises UserError where an update has left the numbers: such a state is no checkpoint.

    `state` is that of one seed, or of many with a leading axis of `seeds`.
    """
    leaves = jax.tree.leaves(state.params)
    of_each = [jnp.isfinite(leaf).reshape(len(seeds), -1).all(1) for leaf in leaves]
    finite = np.all(jax.device_get(of_each), axis=0)
    if not finite.all():
        raise UserError(
            f"the parameters of seed {seeds[finite.argmin()]} after step {np.max(state.step)} are "
            "not finite; the last checkpoint before it is kept. Lower config.learning_rate, or "
            "look for bad values in the data"
        )
