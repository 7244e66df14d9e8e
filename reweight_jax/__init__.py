"""Learning to Reweight Examples for Robust Deep Learning (Ren et al., ICML 2018) in JAX."""

from reweight_jax.reweight import (
    ReweightState,
    epsilon_gradient,
    example_weights,
    normalize_weights,
    reweight_step,
)

__version__ = "0.1.0"

__all__ = [
    "ReweightState",
    "epsilon_gradient",
    "example_weights",
    "normalize_weights",
    "reweight_step",
]
