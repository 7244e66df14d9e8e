"""What changes from step to step: arrays only, so that it can be donated, mapped and saved."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from reweight_jax.approximate import initial_clean_gradient
from reweight_jax.history import WeightHistory, empty_history


@flax.struct.dataclass
class TrainState:
    """The whole state of a run.

    Attributes:
      params: {"model": the model's parameters, "method": those of a `trainable` method, or ()}, all
        float32.
      model_state: the model's other collections (batch statistics), {} where it has none.
      opt_state: optax state.
      method_state: the method's own pytree, () where it is `trainable`.
      clean_gradient: of an earlier step, where `config.clean_gradient_every` keeps it, else ().
      step: int32 [], steps taken.
      key: typed PRNG key of the run, never advanced: a step folds its number into it.
      history: how each training example was weighed.
    """

    params: Any
    model_state: Any
    opt_state: Any
    method_state: Any
    clean_gradient: Any
    step: jax.Array
    key: jax.Array
    history: WeightHistory


def create_optimizer(config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum (0: plain) and weight decay on kernels, from the fields of `config`.

    The decay, as an L2 term in the update alone, is no part of the lookahead or the clean loss.
    The learning rate follows `schedule`; optimisers of different schedules share one state.
    """

    def kernels(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: getattr(path[-1], "key", None) == "kernel", params
        )

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
        optax.sgd(schedule, momentum=config.momentum or None),
    )


def learning_rate_schedule(config) -> optax.Schedule:
    """`config.learning_rate`, falling to a tenth at each of `config.lr_drop_steps`."""
    return optax.piecewise_constant_schedule(
        config.learning_rate, dict.fromkeys(config.lr_drop_steps, 0.1)
    )


def create_train_state(key, model, tx, method, config, train, num_classes) -> TrainState:
    """Initialises a run from its key: `train` is the training set, whose shapes it takes."""
    init_key, method_key, run_key = jax.random.split(key, 3)
    image = jnp.zeros((1, *train.image.shape[1:]), jnp.float32)
    # The draws of a deep network are a program that runs once, and that LLVM optimises for half a
    # minute on a CPU (ResNet-32, jax 0.12: 26 s instead of 2.7). It runs on the default device,
    # whichever ones the run is placed on later.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    initialize = jax.jit(lambda k: model.init(k, image, train=False), compiler_options=options)
    variables = initialize(init_key)
    method_state = method.init(method_key, config, train, num_classes)
    trained, kept = (method_state, ()) if method.trainable else ((), method_state)
    params = {"model": variables.pop("params"), "method": trained}
    return TrainState(
        params=params,
        model_state=variables,
        opt_state=tx.init(params),
        method_state=kept,
        clean_gradient=initial_clean_gradient(params, config) if method.needs_clean else (),
        step=jnp.zeros((), jnp.int32),
        key=run_key,
        history=empty_history(len(train.label)),
    )
