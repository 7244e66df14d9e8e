"""Learning to Reweight Examples for Robust Deep Learning (Ren et al., ICML 2018) in JAX."""

import signal
import sys

if sys.argv[:1] == ["-m"] and any(name.startswith("reweight_jax.") for name in sys.orig_argv):
    # Ctrl-C ends a command without a traceback while it imports JAX; `cli.run` takes over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from reweight_jax.errors import UserError
from reweight_jax.history import History, add_visits, alignment, empty_history, history_means
from reweight_jax.reweight import (
    ReweightState,
    apply_weights,
    epsilon_gradient,
    example_weights,
    linearize_losses,
    normalize_weights,
    reweight_step,
)

__version__ = "0.2.0"

__all__ = [
    "Fitted",
    "History",
    "Model",
    "ReweightState",
    "UserError",
    "add_visits",
    "alignment",
    "apply_weights",
    "empty_history",
    "epsilon_gradient",
    "example_weights",
    "fit",
    "history_means",
    "linearize_losses",
    "load",
    "normalize_weights",
    "reweight_step",
]
_LATER = {"fit": "api", "load": "api", "Fitted": "api", "Model": "models"}


def __getattr__(name):
    """Imports what drives whole runs only when it is used: a loop of your own needs none of it."""
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(f"reweight_jax.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
