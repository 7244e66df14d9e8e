"""What changes from step to step: arrays only, so that it can be donated, mapped and saved."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from reweight_jax.errors import UserError
from reweight_jax.history import History, empty_history
from reweight_jax.train import devices as on_devices
from reweight_jax.train.resident import shared_size

OPTIMIZERS = {
    "sgd": lambda schedule, momentum: optax.sgd(schedule, momentum=momentum or None),
    "adam": lambda schedule, momentum: optax.adam(schedule, b1=momentum),
}
BUILT_IN = dict(OPTIMIZERS)  # without entries of the user's own
KEPT = ("step", "history", "calibration", "review", "settles")  # whatever a phase begins from


@flax.struct.dataclass
class TrainState:
    """The whole state of a run."""

    params: Any  # {"model": the model's parameters, "method": those of a `trainable` method, or ()}
    model_state: Any  # what else the model has (batch statistics), {} if nothing
    opt_state: Any
    method_state: Any  # the method's own pytree, () if it is `trainable`
    step: jax.Array  # int32 [], steps taken
    key: jax.Array  # uint32 key data of the run, never advanced: a step folds its number into it
    history: History  # what is remembered of each training example
    calibration: History | tuple = ()  # likewise of each calibration example; () without any
    # Of "train" and "calibration": one visit, what the phases that reviewed the labels have said;
    # none before. See `selection.REVIEWS`.
    review: dict[str, History] = flax.struct.field(default_factory=dict)
    # bool [], whether a run that is to settle does; see `selection.to_settle`.
    settles: jax.Array = flax.struct.field(default_factory=lambda: np.ones((), bool))


def create_optimizer(config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns `config.optimizer` with weight decay on the model's arrays of two or more dimensions.

    The decay, an L2 term, is in the update only, not in the lookahead or the clean loss. The state
    of the optimiser does not depend on `schedule`.
    """

    def kernels(params):
        is_kernel = jax.tree.map(lambda leaf: leaf.ndim > 1, params["model"])
        return {"model": is_kernel, "method": jax.tree.map(lambda _: False, params["method"])}

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
        OPTIMIZERS[config.optimizer](schedule, config.momentum),
    )


def create_train_state(experiment, host_input: Any = None) -> TrainState:
    """Returns the initial state of an `Experiment`.

    `host_input` is what `Method.host_input` read, the same in every process.
    """
    config, model, method = experiment.config, experiment.model, experiment.method
    init_key, method_key, run_key = jax.random.split(jax.random.key(config.seed), 3)
    device = on_devices.own(experiment.devices)[0]
    with jax.default_device(device):
        params, model_state = model.init(init_key, experiment.sample)
    train, calibration = experiment.splits.train, experiment.splits.calibration
    num_outputs, remembered = experiment.task.num_outputs, experiment.remembered
    observed = {name: s for name, s in remembered.items() if name not in ("weight", "alignment")}
    sizes = {"train": train.size} | ({"calibration": calibration.size} if calibration else {})
    sizes = {name: shared_size(size) for name, size in sizes.items()}
    method_state = method.init(method_key, config, train, num_outputs, host_input=host_input)
    trained, kept = (method_state, ()) if method.trainable else ((), method_state)
    params = {"model": params, "method": trained}

    def untrained(params):
        review = {name: empty_history(size, observed) for name, size in sizes.items()}
        return {
            "opt_state": create_optimizer(config, optax.constant_schedule(0.0)).init(params),
            "step": jnp.zeros((), jnp.int32),
            "history": empty_history(sizes["train"], remembered),
            "calibration": review.get("calibration", ()),
            "review": review,
        }

    # One program, not one for each shape of an array.
    key = ("untrained", *sizes.items(), *remembered.items())
    untrained = experiment.programs.once(functools.partial(jax.jit, untrained), *key)
    with jax.default_device(device):
        return TrainState(
            params=params,
            model_state=model_state,
            method_state=kept,
            key=jax.random.key_data(run_key),
            **untrained(params),
        )


def check_finite(state, rate: str) -> None:
    """Raises UserError if a parameter is not finite: such a state must not become a checkpoint.

    `rate`: the field of the config that has the learning rate.
    """
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params))):
        raise UserError(
            f"the parameters after step {int(state.step)} are not finite; the last checkpoint "
            f"before it is kept. Lower config.{rate}, or look for bad values in the data"
        )
