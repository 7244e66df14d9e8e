"""A small transformer encoder that classifies sequences of tokens."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from reweight_jax.errors import UserError

PADDING = 0  # the token that fills short sequences up: it is neither attended to nor counted


class Transformer(nn.Module):
    """A pre-norm encoder with learned positions, and a dense layer on the mean over the positions.

    Vaswani et al., 2017; LayerNorm before each sublayer: Xiong et al., 2020. It has no BatchNorm.
    """

    num_outputs: int  # K
    vocabulary: int  # number of token ids, padding included. A larger id makes the outputs NaN.
    num_layers: int = 2  # of self-attention and two dense layers each
    num_heads: int = 4
    features: int = 128  # of a token, a multiple of num_heads; the inner dense layer has 4x as many
    dropout: float = 0.0  # rate at the end of each sublayer, only in training
    dtype: Any = jnp.float32  # of the computation; parameters and outputs are float32

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns outputs [N, K] of tokens int [N, T]; T is the length it was initialised with."""
        known = tokens != PADDING
        x = nn.Embed(self.vocabulary, self.features, dtype=self.dtype)(tokens)
        x = _Positions(name="positions")(x)
        dropout = functools.partial(nn.Dropout, self.dropout, deterministic=not train)
        mask = known[:, None, None]  # [N, heads, queries, keys]
        for _ in range(self.num_layers):
            y = nn.LayerNorm(dtype=self.dtype)(x)
            y = nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype)(y, mask=mask)
            x = x + dropout()(y)
            y = nn.LayerNorm(dtype=self.dtype)(x)
            y = nn.gelu(nn.Dense(4 * self.features, dtype=self.dtype)(y))
            y = nn.Dense(self.features, dtype=self.dtype)(y)
            x = x + dropout()(y)
        x = nn.LayerNorm(dtype=self.dtype)(x)
        count = jnp.maximum(jnp.sum(known, axis=1, keepdims=True), 1)  # a sequence may be empty
        x = jnp.sum(jnp.where(known[..., None], x, 0), axis=1) / count.astype(self.dtype)
        return nn.Dense(self.num_outputs, dtype=self.dtype)(x).astype(jnp.float32)


class _Positions(nn.Module):
    """Adds a learned vector for each position. A layer, as `reweight_jax.layerwise` wants them."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        position = self.param("position", nn.initializers.normal(0.02), x.shape[1:])
        return x + position.astype(x.dtype)[None]


def transformer(config, num_outputs, dtype, on_cpu) -> Transformer:
    """Returns the transformer of `config`; raises UserError for impossible sizes."""
    if config.vocabulary < 1:
        raise UserError(f"config.model.vocabulary: {config.vocabulary}; must be at least 1")
    if config.features % config.num_heads:
        features = f"{config.features}; must be a multiple of num_heads"
        raise UserError(f"config.model.features: {features}")
    sizes = config.vocabulary, config.num_layers, config.num_heads, config.features
    return Transformer(num_outputs, *sizes, config.dropout, dtype)
