"""The derivative of per-example losses, layer by layer: exact, and cheaper without BatchNorm.

Let the loss of each example depend on that example alone. One backward pass, with ones as
cotangents, then gives the derivative of each loss by the outputs of every layer. Its inner product
with a layer's own tangent, the input of the layer being constant, is this layer's share of the
directional derivative. That is one product for each layer; forward mode through the network needs
two. The weighted gradient takes the same derivatives, times the weights.
Goodfellow ("Efficient per-example gradient computations", 2015) has the idea for gradient norms.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from reweight_jax.errors import one_line
from reweight_jax.reweight import (
    LinearizedLosses,
    LossFn,
    Params,
    check_losses,
    linearize_losses,
)
from reweight_jax.trees import by_path

# Of `verify`, relative to a parameter's gradient: LeNet in bfloat16 is off by 0.011; an embedding
# that is read outside its module by 0.77.
TOLERANCE = 0.05
NOISE = 1e-3  # relative to the whole gradient: some parameters have none, such as a bias of keys


class _Layer(NamedTuple):
    """One call of a linen module that owns parameters, without the arrays among its arguments."""

    module: nn.Module  # unbound
    method: str  # name of the method called
    where: dict[str, int]  # name of a parameter -> its position among those differentiated
    constants: dict[str, jax.Array]  # its other parameters
    structure: Any  # of its arguments
    static: list  # leaves of the arguments; None in the place of the arrays
    precision: str | None  # of matrix products where it was called; None: JAX's default

    def own(self, values: list[jax.Array]) -> dict[str, jax.Array]:
        return {name: values[i] for name, i in self.where.items()}

    def outputs(self, own: dict[str, jax.Array], arrays: list):
        leaves = [a if s is None else s for a, s in zip(arrays, self.static, strict=True)]
        args, kwargs = jax.tree.unflatten(self.structure, leaves)
        params = {"params": self.constants | own}
        with jax.default_matmul_precision(self.precision):
            return self.module.apply(params, *args, **kwargs, method=self.method)


def layerwise(loss_fn: LossFn, params: Params, batch: Any) -> LinearizedLosses:
    """Returns what `reweight_jax.linearize_losses` does, for a model whose examples do not mix.

    Not every model that it is wrong for is an error: call `verify` once on some rows before. It is
    wrong if the loss of an example depends on other examples (a normalisation over the batch), or
    if a parameter is also read outside the module that owns it (`h @ embed.embedding.T`; the
    method `embed.attend` is right).

    Args:
      loss_fn: (params, batch) -> (losses [n], aux), which applies Flax linen modules.
      params: pytree of floating-point arrays, all of which belong to layers: linen modules that
        have no other modules inside, and whose inputs and outputs begin with the n examples.
      batch: of n examples.

    Raises:
      ValueError: a parameter that belongs to no such layer (of an nnx module, for example, or of a
        module with others inside), BatchNorm, or a layer whose outputs do not begin with n
        examples. Errors of Flax and JAX for a layer that draws random numbers, keeps other
        variables, or is inside `jax.lax.scan` or `jax.vmap`.
    """
    leaves, structure = jax.tree.flatten(params)
    position = {id(leaf): i for i, leaf in enumerate(leaves)}

    layers: list[_Layer] = []  # of the last trace

    def run(probes):
        """The losses, with a probe added to the outputs of each layer."""
        layers.clear()
        inputs, outputs, inside = [], [], []

        def intercept(call, args, kwargs, context):
            if isinstance(context.module, nn.BatchNorm):
                raise ValueError("layerwise: BatchNorm couples the examples; use 'jvp'")
            own = _own_parameters(context.module)
            if context.method_name == "setup" or not own or inside:
                return call(*args, **kwargs)
            flat, tree = jax.tree.flatten((args, kwargs))
            arrays = [leaf if hasattr(leaf, "dtype") else None for leaf in flat]
            static = [None if hasattr(leaf, "dtype") else leaf for leaf in flat]
            where = {name: position[id(leaf)] for name, leaf in own.items() if id(leaf) in position}
            constants = {name: leaf for name, leaf in own.items() if name not in where}
            names = context.module.clone(parent=None), context.method_name
            precision = jax.config.jax_default_matmul_precision
            layers.append(_Layer(*names, where, constants, tree, static, precision))
            inputs.append(arrays)
            inside.append(True)
            outputs.append(call(*args, **kwargs))
            inside.pop()
            if probes is None:
                return outputs[-1]
            return jax.tree.map(jnp.add, outputs[-1], probes[len(layers) - 1])

        with nn.intercept_methods(intercept):
            losses, aux = loss_fn(params, batch)
        return losses, (aux, inputs, outputs)

    losses, (_, _, shapes) = jax.eval_shape(lambda: run(None))
    _check(losses, shapes, layers, params)
    probes = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    losses, backward, (aux, inputs, _) = jax.vjp(run, probes, has_aux=True)
    (deltas,) = backward(jnp.ones_like(losses))
    calls = list(zip(layers, inputs, deltas, strict=True))

    def jvp(tangent):
        tangents, total = jax.tree.leaves(tangent), jnp.zeros_like(losses)
        for layer, arrays, delta in calls:
            outputs = functools.partial(layer.outputs, arrays=arrays)
            _, change = jax.jvp(outputs, (layer.own(leaves),), (layer.own(tangents),))
            for d, c in zip(jax.tree.leaves(delta), jax.tree.leaves(change), strict=True):
                product = d.astype(losses.dtype) * c.astype(losses.dtype)
                total += jnp.sum(product.reshape(len(losses), -1), axis=1)
        return total

    def vjp(weights):
        gradient = [jnp.zeros_like(leaf) for leaf in leaves]
        for layer, arrays, delta in calls:
            outputs = functools.partial(layer.outputs, arrays=arrays)
            _, pull_back = jax.vjp(outputs, layer.own(leaves))
            (of_layer,) = pull_back(jax.tree.map(functools.partial(_scale, weights), delta))
            for name, value in of_layer.items():
                gradient[layer.where[name]] += value
        return jax.tree.unflatten(structure, gradient)

    return LinearizedLosses(losses, aux, jvp, vjp)


def check_traceable(loss_fn: LossFn, params: Params, batch: Any) -> None:
    """Raises ValueError if `layerwise` cannot take a model apart; computes nothing.

    `params` and `batch` may have a `jax.ShapeDtypeStruct` in place of each array.
    """
    try:
        derivatives = functools.partial(_derivatives, layerwise, loss_fn)
        jax.eval_shape(derivatives, params, params, batch)
    except ValueError:
        raise
    except Exception as error:  # of Flax or JAX, in a model of the user's
        raise ValueError(f"layerwise: {one_line(error)}; use 'jvp'") from error


def verify(loss_fn: LossFn, params: Params, batch: Any) -> None:
    """Raises ValueError if `layerwise` does not compute the derivatives of this model.

    Compares with `linearize_losses` at parameters near `params`, on arrays, not under `jax.jit`.
    Take at least three rows, of another number than any other dimension has.
    """
    check_traceable(loss_fn, params, batch)

    @jax.jit
    def draw(params):
        # All at once: a drawing for each leaf takes seconds to compile.
        flat, unravel = ravel_pytree(params)
        drawn = jax.random.normal(jax.random.key(0), (2, flat.size), flat.dtype)
        noise, tangent = (unravel(each) for each in drawn)
        near = jax.tree.map(lambda leaf, noise: leaf + 0.1 * noise, params, noise)
        return near, tangent  # zeros would hide much

    params, tangent = draw(params)
    derivatives = jax.jit(_derivatives, static_argnums=(0, 1))
    try:
        found, expected = (
            jax.device_get(derivatives(linearize, loss_fn, params, tangent, batch))
            for linearize in (layerwise, linearize_losses)
        )
    except jax.errors.UnexpectedTracerError as error:  # JAX 0.12 finds a loop only here
        raise ValueError(f"layerwise: {one_line(error)}; use 'jvp'") from error
    for ours, theirs in zip(found, expected, strict=True):  # products, and gradients
        whole = _norm(theirs)
        for got, right in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            if not _norm(got - right) <= TOLERANCE * _norm(right) + NOISE * whole:
                raise ValueError(
                    "layerwise: its derivatives are wrong for this model: its examples depend on "
                    "each other, or it reads parameters outside their modules; use 'jvp'"
                )


def _derivatives(linearize, loss_fn, params, tangent, batch):
    of = linearize(loss_fn, params, batch)
    weights = jnp.linspace(0.5, 2.0, len(of.losses), dtype=of.losses.dtype)
    return of.jvp(tangent), of.vjp(weights)


def _norm(tree):
    leaves = jax.tree.leaves(tree)
    return np.linalg.norm([np.linalg.norm(np.asarray(leaf, np.float32)) for leaf in leaves])


def _own_parameters(module):
    """The parameters that a bound module owns itself; {} if others inside own some too."""
    if module.scope is None:
        return {}
    params = module.variables.get("params", {})
    return {} if any(isinstance(value, Mapping) for value in params.values()) else params


def _scale(weights, delta):
    return delta * weights.astype(delta.dtype).reshape(-1, *[1] * (delta.ndim - 1))


def _check(losses, shapes, layers, params):
    """Raises ValueError if the layers do not add up to the derivative of each loss."""
    check_losses(losses)
    found = {i for layer in layers for i in layer.where.values()}
    missing = [path for i, path in enumerate(by_path(params)) if i not in found]
    if missing:
        raise ValueError(
            f"layerwise: {', '.join(missing[:3])}: not in a linen module of its own; use 'jvp'"
        )
    for layer, outputs in zip(layers, shapes, strict=True):
        name = type(layer.module).__name__
        for output in jax.tree.leaves(outputs):
            if not jnp.issubdtype(output.dtype, jnp.inexact):
                raise ValueError(f"layerwise: {name} returns {output.dtype}; use 'jvp'")
            if output.shape[:1] != losses.shape[:1]:
                raise ValueError(
                    f"layerwise: {name} returns {list(output.shape)}, which does not begin with "
                    f"the {losses.shape[0]} examples; use 'jvp'"
                )
