"""The paper's method: weights from the clean set's gradient, by `reweight_jax.reweight`."""

from reweight_jax.methods.base import Context, Method
from reweight_jax.reweight import normalize_weights


def _learned_weights(context: Context):
    """Ours: Eq. 4-9 of the paper. The epsilon gradient is of the global batch: no axis is left."""
    return normalize_weights(context.epsilon_gradient), context.method_state


REWEIGHT = Method(weights=_learned_weights, needs_clean=True)
