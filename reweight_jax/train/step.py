"""One training step and one evaluation step: pure functions of arrays."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from reweight_jax.approximate import approximate_epsilon_gradient
from reweight_jax.history import add_visits
from reweight_jax.methods.base import Context, Method
from reweight_jax.reweight import weighted_step
from reweight_jax.train.state import TrainState


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    clean_batch: dict[str, jax.Array] | None,
    *,
    model,
    method: Method,
    tx,
    epsilon_method: str,
    epsilon_params: str = "",
    fresh: bool | jax.Array = True,
    augment: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step of `method`.

    Args:
      state: the state before, the same on every device.
      batch: this device's share: image uint8 [n, H, W, C], label int32 [n], row int32 [n] in the
        set trained on, place int32 [n] in the batch over all devices.
      clean_batch: likewise, m examples of the clean set; None where the method needs none.
      model: a Flax linen module.
      method: what chooses loss and weights.
      tx: optax optimiser.
      epsilon_method: "lookahead" or "jvp"; see `reweight_jax.epsilon_gradient`.
      epsilon_params, fresh: `pattern` and `fresh` of `reweight_jax.approximate`.
      augment: what happens to the images of both batches; see `augmentation`.
      axis_name: device axis, or None on one device.

    Returns:
      The state after, and scalar metrics of the global batch (class_mass is [K]): loss (weighted),
      plain_loss (mean), error (before the update), zero_weights (fraction), effective_sample_size
      (1 / sum w^2), class_mass (sum of weights by label), no_helpful (1 where all weights are 0).
    """
    step_key = jax.random.fold_in(state.key, state.step)
    method_key, dropout_key, train_key, clean_key = jax.random.split(step_key, 4)
    batch = batch | {"image": augment(train_key, batch["image"], batch["place"])}
    if clean_batch is not None:
        image = augment(clean_key, clean_batch["image"], clean_batch["place"])
        clean_batch = clean_batch | {"image": image}

    def loss_fn(params, examples):
        logits, model_state = model.apply(
            {"params": params["model"], **state.model_state},
            to_float(examples["image"]),
            train=True,
            mutable=list(state.model_state),
            rngs={"dropout": dropout_key},
        )
        method_state = params["method"] if method.trainable else state.method_state
        losses = method.loss(logits, examples["label"], method_state)
        return losses, (logits, dict(model_state))

    labels = _gather(batch["label"], axis_name)
    method_state, clean_gradient = state.method_state, state.clean_gradient
    epsilon_gradient = None

    def weigh(linearized):
        nonlocal method_state, clean_gradient, epsilon_gradient
        losses = _gather(linearized.losses, axis_name)
        if method.needs_clean:
            gradient, clean_gradient = approximate_epsilon_gradient(
                loss_fn,
                state.params,
                batch,
                clean_batch,
                linearized,
                method=epsilon_method,
                pattern=epsilon_params,
                fresh=fresh,
                kept=state.clean_gradient,
                axis_name=axis_name,
            )
            epsilon_gradient = _gather(gradient, axis_name)
        weights, method_state = method.weights(
            Context(losses, labels, method_key, state.step, state.method_state, epsilon_gradient)
        )
        return _own_share(weights, linearized.losses, axis_name)

    new_state, step_metrics = weighted_step(
        state, batch, weigh, loss_fn=loss_fn, tx=tx, axis_name=axis_name
    )
    logits, model_state = step_metrics["aux"]
    weights = _gather(step_metrics["weights"], axis_name)
    rows = _gather(batch["row"], axis_name)
    wrong = jnp.argmax(logits, axis=-1) != batch["label"]
    square_sum = jnp.sum(weights**2)
    metrics = {
        "loss": step_metrics["loss"],
        "plain_loss": jnp.mean(_gather(step_metrics["losses"], axis_name)),
        "error": jnp.mean(_gather(wrong.astype(jnp.float32), axis_name)),
        "zero_weights": jnp.mean((weights == 0).astype(jnp.float32)),
        "effective_sample_size": jnp.where(square_sum == 0, 0.0, 1 / square_sum),
        "class_mass": jnp.zeros(logits.shape[-1]).at[labels].add(weights),
        "no_helpful": (square_sum == 0).astype(jnp.float32),
    }
    history = state.history
    if not method.trains_on_clean:  # whose rows are not the training set's
        history = add_visits(history, rows, weights, epsilon_gradient)
    new_state = new_state.replace(
        model_state=model_state,
        method_state=method_state,
        clean_gradient=clean_gradient,
        step=state.step + 1,
        history=history,
    )
    return new_state, metrics


def eval_step(params, model_state, image, *, model) -> jax.Array:
    """Returns the logits [n, K] of images uint8 [n, H, W, C], in evaluation mode."""
    return model.apply({"params": params, **model_state}, to_float(image), train=False)


def augmentation(crop_padding: int, flip: bool):
    """Returns augment(key, image uint8 [n, H, W, C], place int32 [n]) -> image, alike.

    Each image is padded with `crop_padding` black pixels a side and cropped at random, and half of
    them are mirrored. What happens to an example depends on the key and on its place in the batch
    over all devices, and so not on their number.
    """

    def augment_one(key, image):
        offset_key, flip_key = jax.random.split(key)
        if crop_padding:
            pad = [(crop_padding, crop_padding)] * 2 + [(0, 0)]
            offset = jax.random.randint(offset_key, (2,), 0, 2 * crop_padding + 1)
            start = (offset[0], offset[1], 0)
            image = jax.lax.dynamic_slice(jnp.pad(image, pad), start, image.shape)
        if flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return image

    def augment(key, image, place):
        if not (crop_padding or flip):
            return image
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, place)
        return jax.vmap(augment_one)(keys, image)

    return augment


def to_float(image: jax.Array) -> jax.Array:
    """uint8 0..255 -> float32 0..1."""
    return image.astype(jnp.float32) / 255


def _gather(local, axis_name):
    """This device's rows -> the rows of all devices, in order."""
    return local if axis_name is None else jax.lax.all_gather(local, axis_name, tiled=True)


def _own_share(everywhere, local, axis_name):
    """The rows of all devices -> the rows that belong to this one."""
    if axis_name is None:
        return everywhere
    start = jax.lax.axis_index(axis_name) * len(local)
    return jax.lax.dynamic_slice_in_dim(everywhere, start, len(local))
