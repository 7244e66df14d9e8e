"""Models: Flax linen modules, called as model.apply(variables, images, train=...) -> logits."""

import flax.linen as nn
import jax.numpy as jnp

from reweight_jax.errors import UserError, choose
from reweight_jax.models.lenet import LeNet
from reweight_jax.models.resnet import resnet, wide_resnet
from reweight_jax.models.small_cnn import SmallCNN

# name -> factory(config.model, num_classes, dtype, axis_name). `axis_name` is the device axis over
# which a model with batch statistics must average them.
MODELS = {
    "lenet": lambda config, num_classes, dtype, axis_name: LeNet(num_classes, dtype),
    "small_cnn": lambda config, *arguments: SmallCNN(*arguments),
    "resnet": resnet,
    "wide_resnet": wide_resnet,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def create_model(config, num_classes: int, axis_name: str | None) -> nn.Module:
    """Builds the model `config.name`.

    Raises UserError for an unknown name or dtype, or sizes that the model cannot have.
    """
    factory = choose("config.model.name", config.name, MODELS)
    dtype = choose("config.model.dtype", config.dtype, DTYPES)
    if config.width < 1:
        raise UserError(f"config.model.width: {config.width}; must be at least 1")
    if not 0 <= config.dropout < 1:
        raise UserError(f"config.model.dropout: {config.dropout}; must be at least 0 and below 1")
    return factory(config, num_classes, dtype, axis_name)
