"""The derivative of per-example losses, layer by layer: exact, and cheaper without BatchNorm.

If the loss of an example depends on that example alone, one backward pass with ones as cotangents
gives d f_i / d(output of a layer) for all examples and layers. The directional derivative of f_i is
then the sum over the layers of the inner product of this and the layer's own tangent, its input
being constant: one product a layer, where forward mode through the network needs two. The weighted
gradient needs no other backward pass either: its cotangents are those, times the weights.
Goodfellow ("Efficient per-example gradient computations", 2015) has the idea for gradient norms.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class _Layer(NamedTuple):
    """One call of a linen module that owns parameters: what is the same in every trace.

    Attributes:
      module: unbound.
      method: name of the method called.
      where: {name of a parameter: its position among those that are differentiated}.
      constants: {name: array} of its other parameters.
      structure: of its arguments.
      static: leaves of the arguments; None in the place of the arrays.
    """

    module: nn.Module
    method: str
    where: dict[str, int]
    constants: dict[str, jax.Array]
    structure: Any
    static: list

    def own(self, values: list[jax.Array]) -> dict[str, jax.Array]:
        return {name: values[i] for name, i in self.where.items()}

    def outputs(self, own: dict[str, jax.Array], arrays: list):
        leaves = [a if s is None else s for a, s in zip(arrays, self.static, strict=True)]
        args, kwargs = jax.tree.unflatten(self.structure, leaves)
        params = self.constants | own
        return self.module.apply({"params": params}, *args, **kwargs, method=self.method)


def layerwise(loss_fn, params, batch):
    """Returns (losses, jvp, vjp, aux) of a batch: what `reweight_jax.linearize_losses` computes.

    Args:
      loss_fn: (params, batch) -> (losses [n], aux), which applies Flax linen modules.
      params: pytree of floating-point arrays, all of which belong to layers: linen modules that
        have no other modules inside, and whose inputs and outputs begin with the n examples.
      batch: of n examples.

    Raises:
      ValueError: a parameter that belongs to no such layer (of an nnx module, for example, or of a
        module with others inside), BatchNorm, or a layer whose outputs do not begin with n
        examples.
    """
    leaves, structure = jax.tree.flatten(params)
    position = {id(leaf): i for i, leaf in enumerate(leaves)}

    def run(probes):
        """The losses, with a probe added to the outputs of each layer, and the layers."""
        layers, inputs, outputs, inside = [], [], [], []

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
            layers.append(_Layer(*names, where, constants, tree, static))
            inputs.append(arrays)
            inside.append(True)
            outputs.append(call(*args, **kwargs))
            inside.pop()
            if probes is None:
                return outputs[-1]
            return jax.tree.map(jnp.add, outputs[-1], probes[len(layers) - 1])

        with nn.intercept_methods(intercept):
            losses, aux = loss_fn(params, batch)
        return losses, (aux, inputs, outputs), layers

    found = []  # `eval_shape` and `vjp` return arrays only

    def arrays_of(probes):
        losses, rest, found[:] = run(probes)
        return losses, rest

    losses, (_, _, shapes) = jax.eval_shape(lambda: arrays_of(None))
    layers = list(found)
    _check(losses, shapes, layers, params)
    probes = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    losses, backward, (aux, inputs, _) = jax.vjp(arrays_of, probes, has_aux=True)
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

    return losses, jvp, vjp, aux


def _own_parameters(module):
    """The parameters that a bound module owns itself; {} if others inside own some too."""
    if module.scope is None:
        return {}
    params = module.variables.get("params", {})
    return {} if any(isinstance(value, dict) for value in params.values()) else params


def _scale(weights, delta):
    return delta * weights.astype(delta.dtype).reshape(-1, *[1] * (delta.ndim - 1))


def _check(losses, shapes, layers, params):
    """Raises ValueError if the layers do not add up to the derivative of each loss."""
    found = {i for layer in layers for i in layer.where.values()}
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    missing = [path for i, path in enumerate(paths) if i not in found]
    if missing:
        raise ValueError(
            f"layerwise: {', '.join(missing[:3])}: not in a linen module of its own; use 'jvp'"
        )
    for layer, outputs in zip(layers, shapes, strict=True):
        name = type(layer.module).__name__
        for output in jax.tree.leaves(outputs):
            if output.shape[:1] != losses.shape[:1]:
                raise ValueError(
                    f"layerwise: {name} returns {list(output.shape)}, which does not begin with "
                    f"the {losses.shape[0]} examples; use 'jvp'"
                )
