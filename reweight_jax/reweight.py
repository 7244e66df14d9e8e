"""Learning to reweight examples: Algorithm 1 of Ren et al. (ICML 2018) as pure functions.

Every equation and algorithm line named below is the paper's (https://arxiv.org/abs/1803.09050).
The only thing these functions know of a model is its per-example loss:

    loss_fn(params, batch) -> (losses [n], aux)

`params` and `batch` are any pytrees, `losses` holds one floating-point loss per example (float32:
products of scaled halves overflow, and count as not finite), and `aux` is anything else the forward
pass makes (new batch statistics, logits) or None. What changes from step to step besides the
parameters (batch statistics, a dropout key) is closed over by `loss_fn`.

Nothing here jits: wrap the whole step in one `jax.jit`; with sharded arguments the compiler adds
the collectives. Under `jax.pmap` (or `jax.shard_map(..., check_vma=False)`) give `axis_name`:
batches are then the device's equal share, `params` are the same on every device, and sums over
examples are over all devices.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from reweight_jax.bad_rows import bad_rows, replace_rows
from reweight_jax.trees import check_params, select_params

Params = Any
LossFn = Callable[[Params, Any], tuple[jax.Array, Any]]


class ReweightState(NamedTuple):
    """What `reweight_step` needs; any NamedTuple or dataclass with these fields can replace it.

    Attributes:
      params: pytree of floating-point arrays.
      opt_state: `tx.init(params)`.
    """

    params: Params
    opt_state: optax.OptState


class LinearizedLosses(NamedTuple):
    """The losses of one batch and their derivative, from a single forward pass.

    Attributes:
      losses: [n], f_i(params).
      aux: what the loss function returned besides the losses.
      jvp: tangent (like params) -> [n], the directional derivatives <grad f_i, tangent>.
      vjp: weights [n] -> gradient (like params) of sum_i weights_i f_i.
    """

    losses: jax.Array
    aux: Any
    jvp: Callable[[Params], jax.Array]
    vjp: Callable[[jax.Array], Params]


def linearize_losses(loss_fn: LossFn, params: Params, batch: Any) -> LinearizedLosses:
    """Returns the losses (Algorithm 1, line 4) and their derivative from one forward pass."""
    losses, jvp, aux = jax.linearize(lambda p: loss_fn(p, batch), params, has_aux=True)
    check_losses(losses)
    transpose = jax.linear_transpose(jvp, params)
    return LinearizedLosses(losses, aux, jvp, lambda weights: transpose(weights)[0])


def epsilon_gradient(
    loss_fn: LossFn,
    params: Params,
    batch: Any,
    clean_batch: Any,
    *,
    method: str = "lookahead",
    lookahead_lr: float = 1.0,
    over: str = "",
    axis_name: str | None = None,
    linearized: LinearizedLosses | None = None,
) -> jax.Array:
    """Returns how the clean loss after a lookahead step changes with each example's weight.

    The gradient over epsilon, at epsilon = 0, of the mean clean loss at
    params - lookahead_lr * grad(sum_i epsilon_i f_i)  (Eq. 4-7 without the factor -eta). If an
    entry is below zero, a gradient step on its example lowers the clean loss.

    Args:
      loss_fn: (params, batch) -> (losses [n], aux); see the module's docstring.
      params: pytree of floating-point arrays, theta_t.
      batch: training batch of n examples, in any form that `loss_fn` takes.
      clean_batch: trusted batch of m examples, in the same form.
      method: "lookahead" is Algorithm 1 to the letter: `jax.grad` of a `jax.grad`-based lookahead.
        "jvp" is the same in forward mode: entry i is -lookahead_lr * <grad f_i, grad clean loss>,
        and all n are one Jacobian-vector product. Cheaper, and exact for any network (BatchNorm
        too) without a `jax.custom_vjp`. Forward mode: jax-influence (2022), EMLC (ICCV 2023).
      lookahead_lr: alpha of Eq. 5. It scales the result and cancels in `normalize_weights`.
      over: regular expression. If given, the inner products run only over the parameters whose path
        (such as "Conv_0/kernel") it matches; the others are constants. Cheaper, and not exact.
      axis_name: device axis over which the batches are split, or None on one device.
      linearized: `linearize_losses` of the batch, if the caller has it; it has no bad rows then.

    Returns:
      [n], this device's share if `axis_name` is given. NaN for an example of no finite loss.

    Raises:
      ValueError: unknown method, an `over` that matches nothing, not one loss per example of
        either batch, or parameters that are not real floating-point numbers.
    """
    if over:
        params, join = select_params(params, over)
        whole_loss_fn, whole = loss_fn, linearized

        def loss_fn(part, examples):
            return whole_loss_fn(join(part), examples)

        if whole is not None:  # its losses tell which rows were bad and are copies now
            linearized = linearize_losses(loss_fn, params, batch)._replace(losses=whole.losses)
    if linearized is None:
        linearized, batch = _linearize_good_rows(loss_fn, params, batch, axis_name)
    losses = linearized.losses
    if method == "lookahead":
        result = _lookahead(loss_fn, params, batch, clean_batch, losses, lookahead_lr, axis_name)
    elif method == "jvp":
        # d/d(eps_i) at 0 = -alpha <grad f_i, g>: one forward-mode product gives all n of them.
        gradient = jax.grad(_clean_loss, argnums=1)(loss_fn, params, clean_batch, axis_name)
        # A border saves a CPU 4% of ResNet-32's time; it would cost a GPU 2% more bytes.
        border = {"cpu": jax.lax.optimization_barrier, "default": lambda g: g}
        gradient = jax.lax.platform_dependent(_psum(gradient, axis_name), **border)
        result = -lookahead_lr * linearized.jvp(gradient)
    else:
        raise ValueError(f"unknown method {method!r}; valid: 'lookahead', 'jvp'")
    return jnp.where(jnp.isfinite(losses), result, jnp.nan)


def normalize_weights(epsilon_gradient: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Returns the weights w = max(-eg, 0) / sum over the global batch (Eq. 8-9).

    Args:
      epsilon_gradient: [n], as `epsilon_gradient` returns it. An entry that is not finite (its
        example has a non-finite loss) gets weight zero.
      axis_name: device axis over which the batch is split, or None.

    Returns:
      w [n] >= 0 whose sum over all devices is one, or all zero if no example is helpful.
    """
    wide = jnp.promote_types(epsilon_gradient.dtype, jnp.float32)  # a sum of halves may overflow
    helpful = jnp.isfinite(epsilon_gradient) & (epsilon_gradient < 0)
    rectified = jnp.where(helpful, -epsilon_gradient, 0).astype(wide)
    total = _psum(jnp.sum(rectified), axis_name)
    weights = rectified / jnp.where(total == 0, jnp.ones_like(total), total)  # delta(.) of Eq. 9
    return weights.astype(epsilon_gradient.dtype)


def example_weights(
    loss_fn: LossFn, params: Params, batch: Any, clean_batch: Any, **settings
) -> jax.Array:
    """Returns the weights w [n] of a batch (Eq. 4-9) without taking a step.

    Arguments and errors as in `epsilon_gradient`.
    """
    gradient = epsilon_gradient(loss_fn, params, batch, clean_batch, **settings)
    return normalize_weights(gradient, axis_name=settings.get("axis_name"))


def reweight_step(
    state: Any,
    batch: Any,
    clean_batch: Any,
    *,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    method: str = "lookahead",
    lookahead_lr: float = 1.0,
    over: str = "",
    axis_name: str | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Takes one step of Algorithm 1: weights the batch by its use to the clean set, then updates.

    Args:
      state: `ReweightState`, or any NamedTuple or dataclass that has `params` and `opt_state`; its
        other fields are kept, and not advanced.
      batch: training batch of n examples.
      clean_batch: trusted batch of m examples.
      loss_fn: (params, batch) -> (losses [n], aux); see the module's docstring.
      tx: any optax optimiser that needs no more than gradients and parameters; the lookahead is
        always the plain gradient step of Eq. 5.
      method, lookahead_lr, over, axis_name: as in `epsilon_gradient`.

    Returns:
      The new state, and metrics: "loss" [] the weighted loss over the global batch, NaN if no entry
      of the epsilon gradient is finite (a clean loss is not); "losses" [n] before the update,
      "weights" [n] (sum one over the global batch, or all zero), "epsilon_gradient" [n], "aux" what
      `loss_fn` returned for the training batch.

      A training example that contains NaN or infinity, and so has no finite loss, gets weight 0. A
      copy of another example replaces it; its loss and "epsilon_gradient" are NaN. If only the loss
      is not finite, the weight is 0 too, but the update may become NaN.

    Raises:
      ValueError: as `epsilon_gradient`.
    """
    linearized, batch = _linearize_good_rows(loss_fn, state.params, batch, axis_name)  # line 4
    options = {"method": method, "lookahead_lr": lookahead_lr, "over": over}
    options |= {"axis_name": axis_name, "linearized": linearized}
    gradient = epsilon_gradient(loss_fn, state.params, batch, clean_batch, **options)  # lines 5-10
    weights = normalize_weights(gradient, axis_name=axis_name)  # line 11
    state, loss = apply_weights(state, linearized, weights, tx=tx, axis_name=axis_name)  # 12-14
    is_told = _psum(jnp.sum(jnp.isfinite(gradient)), axis_name) > 0  # not so if a clean loss is NaN
    return state, {
        "loss": jnp.where(is_told, loss, jnp.nan),
        "losses": linearized.losses,
        "weights": weights,
        "epsilon_gradient": gradient,
        "aux": linearized.aux,
    }


def apply_weights(
    state: Any,
    linearized: LinearizedLosses,
    weights: jax.Array,
    *,
    tx: optax.GradientTransformation,
    axis_name: str | None = None,
) -> tuple[Any, jax.Array]:
    """Updates on sum_i w_i f_i, the weights taken as constants (Algorithm 1, lines 12-14).

    Args:
      state, tx, axis_name: as in `reweight_step`.
      linearized: the batch's losses at `state.params`.
      weights: [n], of this device's share of the batch.

    Returns:
      The new state, and the weighted loss [] over the global batch.
    """
    gradient = _psum(linearized.vjp(weights.astype(linearized.losses.dtype)), axis_name)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    replace = getattr(state, "_replace", None) or getattr(state, "replace", None)
    replace = replace or functools.partial(dataclasses.replace, state)
    state = replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)
    losses = jnp.where(weights == 0, 0, linearized.losses)  # 0 * NaN is NaN
    return state, _psum(jnp.sum(weights * losses), axis_name)


def check_losses(losses: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Returns `losses`; ValueError if not one for each example, or if `shard_map` sums them."""
    if losses.ndim != 1 or not losses.size:
        raise ValueError(
            "loss_fn must return (losses, aux), and as losses one loss per example, [n], not "
            f"{losses.shape}"
        )
    axes = getattr(jax.typeof(losses), "manual_axis_type", None)
    if axis_name and axes and axes.varying:  # gradients would be summed over devices twice
        raise ValueError("axis_name: give jax.shard_map check_vma=False")
    return losses


def _linearize_good_rows(loss_fn, params, batch, axis_name):
    """`linearize_losses` of the batch with its bad rows replaced, their loss NaN; that batch."""
    check_params(params)
    is_bad = bad_rows(
        lambda b: check_losses(loss_fn(params, b)[0], axis_name), batch, axis_name=axis_name
    )
    batch = replace_rows(batch, is_bad, axis_name=axis_name)
    linearized = linearize_losses(loss_fn, params, batch)
    losses = jnp.where(is_bad, jnp.nan, linearized.losses)
    return linearized._replace(losses=losses), batch


def _lookahead(loss_fn, params, batch, clean_batch, losses, lookahead_lr, axis_name):
    """Lines 5-10 of Algorithm 1: `jax.grad` of a `jax.grad`-based lookahead."""

    def weighted_loss(theta, epsilon):  # line 5
        return jnp.sum(epsilon * loss_fn(theta, batch)[0])

    def clean_loss_after_lookahead(epsilon):
        gradient = _psum(jax.grad(weighted_loss)(params, epsilon), axis_name)  # line 6
        theta_hat = jax.tree.map(lambda p, g: p - lookahead_lr * g, params, gradient)  # line 7
        return _clean_loss(loss_fn, theta_hat, clean_batch, axis_name)  # lines 8-9

    return jax.grad(clean_loss_after_lookahead)(jnp.zeros_like(losses))  # line 10


def _clean_loss(loss_fn, params, clean_batch, axis_name):
    """This device's share of the mean clean loss: the shares add up to the mean over all devices.

    A `psum` here would be differentiated into a second sum. Right for equal shards and for copies.
    """
    losses = check_losses(loss_fn(params, clean_batch)[0])
    return jnp.mean(losses) / (1 if axis_name is None else jax.lax.psum(1, axis_name))


def _psum(tree, axis_name):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
