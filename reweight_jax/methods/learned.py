"""The paper's method: weights from the gradient of the clean loss; see `reweight_jax.reweight`."""

from reweight_jax.methods.base import Context, Method
from reweight_jax.reweight import normalize_weights


def _learned_weights(context: Context):
    """REWEIGHT: Eq. 8-9 of the paper, over the global batch, so no device axis is reduced."""
    return normalize_weights(context.epsilon_gradient), context.method_state


REWEIGHT = Method(weights=_learned_weights, needs_clean=True)
