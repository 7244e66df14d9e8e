"""One training step, a pure function of arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from reweight_jax.history import add_visits, alignment
from reweight_jax.layerwise import layerwise
from reweight_jax.methods.base import Context, Method
from reweight_jax.models import Model, scale_inputs
from reweight_jax.reweight import apply_weights, epsilon_gradient, linearize_losses
from reweight_jax.tasks import Task
from reweight_jax.train.augmentation import Augment
from reweight_jax.train.state import TrainState


def train_step(
    state: TrainState,
    batch: dict[str, Any],
    clean_batch: dict[str, Any] | None,
    *,
    model: Model,
    task: Task,
    method: Method,
    tx: optax.GradientTransformation,
    epsilon_method: str = "jvp",
    epsilon_over: str = "",
    on_zero_weights: str = "keep",
    remember: bool = True,
    augment: Augment,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step of `method`: Algorithm 1 with the method's weights in line 11.

    Args:
      state: the state before, the same on every device.
      batch: this device's share of n examples: inputs, label, row int32 [n] in the set trained on,
        place int32 [n] in the batch over all devices.
      clean_batch: likewise, m examples of the clean set; None if neither the method nor the
        history needs its gradient.
      model, task, method, tx: of the run; tx is the optax optimiser.
      epsilon_method, epsilon_over: `method` and `over` of `reweight_jax.epsilon_gradient`;
        "layerwise" is "jvp" with `reweight_jax.layerwise.layerwise` for what it linearises.
      on_zero_weights: "uniform" weighs a batch without a helpful example uniformly; "keep" does not
        learn from it.
      remember: whether the batch is added to `state.history`.
      augment: `augmentation` of the inputs of both batches.
      axis_name: device axis, or None on one device.

    Returns:
      The state after, and scalar metrics of the global batch: loss (weighted), plain_loss (mean),
      error (before the update), zero_weights (fraction), effective_sample_size (1 / sum w^2),
      no_helpful (1 if all weights are 0); for classification also class_mass [K], the sum of
      weights by label.
    """
    step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    method_key, dropout_key, train_key, clean_key = jax.random.split(step_key, 4)

    def loss_fn(params, examples):
        inputs, options = scale_inputs(examples["inputs"]), {"train": True, "key": dropout_key}
        outputs, model_state = model.apply(params["model"], state.model_state, inputs, **options)
        if method.loss is None:
            losses = task.loss(outputs, examples["label"])
        else:
            method_state = params["method"] if method.trainable else state.method_state
            losses = method.loss(outputs, examples["label"], method_state)
        return losses, (outputs, model_state)

    def gather(local):  # the rows of all devices, in order
        return local if axis_name is None else jax.lax.all_gather(local, axis_name, tiled=True)

    batch = batch | {"inputs": augment(train_key, batch["inputs"], batch["place"])}
    linearize = linearize_losses
    if epsilon_method == "layerwise":  # for plain steps it saves nothing
        epsilon_method, linearize = "jvp", layerwise if method.needs_clean else linearize_losses
    linearized = linearize(loss_fn, state.params, batch)
    gradient = None
    if clean_batch is not None:
        inputs = augment(clean_key, clean_batch["inputs"], clean_batch["place"])
        batches, options = (batch, clean_batch | {"inputs": inputs}), {"over": epsilon_over}
        options |= {"method": epsilon_method, "axis_name": axis_name, "linearized": linearized}
        gradient = gather(epsilon_gradient(loss_fn, state.params, *batches, **options))
    losses, labels = gather(linearized.losses), gather(batch["label"])
    context = Context(losses, labels, method_key, state.step, state.method_state, gradient)
    weights, method_state = method.weights(context)
    no_helpful = jnp.sum(weights) == 0
    if on_zero_weights == "uniform":
        weights = jnp.where(no_helpful, 1 / len(weights), weights)
    local_weights = weights[batch["place"]]
    new_state, loss = apply_weights(state, linearized, local_weights, tx=tx, axis_name=axis_name)

    if gradient is not None:  # a bad clean batch must stop the run, not look like an unhelpful one
        loss = jnp.where(jnp.isfinite(gradient).any(), loss, jnp.nan)
    outputs, model_state = linearized.aux
    square_sum = jnp.sum(weights**2)
    metrics = {
        "loss": loss,
        "plain_loss": jnp.mean(losses),
        "error": jnp.mean(gather(task.error(outputs, batch["label"]))),
        "zero_weights": jnp.mean((weights == 0).astype(jnp.float32)),
        "effective_sample_size": jnp.where(square_sum == 0, 0.0, 1 / square_sum),
        "no_helpful": no_helpful.astype(jnp.float32),
    }
    if task.name == "classification":
        metrics["class_mass"] = jnp.zeros(task.num_outputs).at[labels].add(weights)
    history = state.history
    if remember and not method.trains_on_clean:  # its rows are not the training set's
        values = {"weight": len(weights) * weights}
        if "alignment" in history.sums:
            values["alignment"] = alignment(gradient)
        said = beliefs(task, outputs, batch["label"], history.sums)
        values |= jax.tree.map(gather, said)
        history = add_visits(history, gather(batch["row"]), values)
    new_state = new_state.replace(
        model_state=model_state, method_state=method_state, step=state.step + 1, history=history
    )
    return new_state, metrics


def observe_step(
    state: TrainState,
    batch: dict[str, Any],
    clean_batch: None = None,
    *,
    model: Model,
    task: Task,
    augment: Augment,
    axis_name: str | None = None,
    is_shared: bool = True,
) -> tuple[TrainState, dict]:
    """Adds a batch of calibration examples to `state.calibration`; nothing else changes.

    The model sees them as `train_step` shows it training examples: augmented, with dropout, with
    the batch's own statistics in BatchNorm. So the margin of a training example whose label is
    right is one more of the same kind. Arguments and result as `train_step`, without metrics.
    `is_shared`: whether each device has a share of the batch; if not, each has all of it.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    *_, dropout_key, augment_key = jax.random.split(key, 6)  # `train_step` has the first four
    inputs = scale_inputs(augment(augment_key, batch["inputs"], batch["place"]))
    options = {"train": True, "key": dropout_key}
    outputs, _ = model.apply(state.params["model"], state.model_state, inputs, **options)

    def gather(local):
        if axis_name is None:
            return local
        whole = jax.lax.all_gather(local, axis_name, tiled=True)
        return whole if is_shared else whole[: len(local)]

    said = beliefs(task, outputs, batch["label"], state.calibration.sums)
    values = jax.tree.map(gather, said)
    history = add_visits(state.calibration, gather(batch["row"]), values)
    return state.replace(calibration=history), {}


def beliefs(task: Task, outputs: jax.Array, labels: jax.Array, names) -> dict[str, jax.Array]:
    """Returns the margin and, of `names`, what else the outputs [n, K] decide: name -> [n, ...]."""
    values = {"margin": task.margin(outputs, labels)}
    return values | {name: of(outputs) for name, of in task.remembered.items() if name in names}
