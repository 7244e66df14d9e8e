"""Methods by name, each one function or file and one line in METHODS.

METHODS is an ordinary dict. An entry of your own (`METHODS["mine"] = Method(...)`) can be named in
`config.method`, and in sweeps and tables, like the ones below; the tests run over all of them.
"""

from reweight_jax.methods.base import Context, Method
from reweight_jax.methods.bootstrap import REED_HARD, REED_SOFT
from reweight_jax.methods.classes import HARD_MINING, PROPORTION, RESAMPLE, WEIGHTED
from reweight_jax.methods.mentornet import MENTORNET
from reweight_jax.methods.simple import BASELINE, CLEAN_ONLY, RANDOM, REWEIGHT
from reweight_jax.methods.transition import S_MODEL, S_MODEL_CONF

__all__ = ["METHODS", "Context", "Method"]

METHODS = {
    "baseline": BASELINE,
    "proportion": PROPORTION,
    "resample": RESAMPLE,
    "hard_mining": HARD_MINING,
    "random": RANDOM,
    "weighted": WEIGHTED,
    "reed_soft": REED_SOFT,
    "reed_hard": REED_HARD,
    "s_model": S_MODEL,
    "s_model_conf": S_MODEL_CONF,
    "mentornet": MENTORNET,
    "clean_only": CLEAN_ONLY,
    "reweight": REWEIGHT,
}
BUILT_IN = dict(METHODS)  # without entries of the user's own
