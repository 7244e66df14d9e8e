"""Models: Flax linen modules, called as model.apply(variables, images, train=...) -> logits."""

import flax.linen as nn
import jax.numpy as jnp

from reweight_jax.errors import choose
from reweight_jax.models.lenet import LeNet

# name -> factory(num_classes, dtype, axis_name). `axis_name` is the device axis over which a model
# with batch statistics must average them.
MODELS = {
    "lenet": lambda num_classes, dtype, axis_name: LeNet(num_classes, dtype),
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def create_model(config, num_classes: int, axis_name: str | None) -> nn.Module:
    """Builds the model `config.name`; raises UserError for an unknown name or dtype."""
    factory = choose("config.model.name", config.name, MODELS)
    dtype = choose("config.model.dtype", config.dtype, DTYPES)
    return factory(num_classes, dtype, axis_name)
