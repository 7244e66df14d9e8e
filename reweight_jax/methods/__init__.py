"""Methods: one function or file and one line below for each; the tests run over METHODS."""

from reweight_jax.methods.base import Context, Method
from reweight_jax.methods.imbalance import HARD_MINING, PROPORTION, RESAMPLE
from reweight_jax.methods.learned import REWEIGHT
from reweight_jax.methods.plain import BASELINE, RANDOM

__all__ = ["METHODS", "Context", "Method"]

METHODS = {
    "baseline": BASELINE,
    "proportion": PROPORTION,
    "resample": RESAMPLE,
    "hard_mining": HARD_MINING,
    "random": RANDOM,
    "reweight": REWEIGHT,
}
