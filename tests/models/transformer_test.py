"""The transformer: sizes by hand, attention by numpy, and padding that changes nothing."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reweight_jax.models import as_model
from reweight_jax.models.transformer import PADDING, Transformer

VOCABULARY, LENGTH, FEATURES, HEADS, K = 11, 9, 8, 2, 3


def tokens_of(lengths, seed=0):
    """Random sequences of these lengths, padded to LENGTH."""
    tokens = np.random.default_rng(seed).integers(1, VOCABULARY, size=(len(lengths), LENGTH))
    return np.where(np.arange(LENGTH) < np.array(lengths)[:, None], tokens, PADDING).astype(
        np.int32
    )


def build(**settings):
    fields = {"num_layers": 2, "num_heads": HEADS, "features": FEATURES} | settings
    return as_model(Transformer(K, VOCABULARY, **fields), num_outputs=K)


@pytest.fixture(scope="module")
def params():
    """Larger than at the start, so that positions and attention matter."""
    params, state = jax.jit(build().init)(jax.random.key(0), tokens_of([LENGTH]))
    assert state == {}
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), params)


@functools.cache
def compiled(train=False, **settings):
    """(params, tokens, key or None) -> outputs."""
    model = build(**settings)
    return jax.jit(lambda p, tokens, key=None: model.apply(p, {}, tokens, train=train, key=key)[0])


def outputs_of(params, tokens, **settings):
    return np.asarray(compiled(**settings)(params, tokens))


def test_size(params):
    f = FEATURES
    layer = 4 * (f * f + f) + 2 * (2 * f) + (f * 4 * f + 4 * f) + (4 * f * f + f)
    expected = VOCABULARY * f + LENGTH * f + 2 * layer + 2 * f + f * K + K
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def by_numpy(params, tokens):
    """One sequence without padding, in float64: pre-norm attention and dense layers, twice."""
    params = jax.tree.map(np.float64, params)

    def norm(x, p):
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
        return x * p["scale"] + p["bias"]

    def dense(x, p):
        return x @ p["kernel"] + p["bias"]

    x = params["Embed_0"]["embedding"][tokens] + params["positions"]["position"][: len(tokens)]
    for layer in range(2):
        y = norm(x, params[f"LayerNorm_{2 * layer}"])
        attention = params[f"MultiHeadDotProductAttention_{layer}"]
        merged = 0
        for head in range(HEADS):
            query, key, value = (
                y @ attention[name]["kernel"][:, head] + attention[name]["bias"][head]
                for name in ("query", "key", "value")
            )
            scores = np.exp(query @ key.T / np.sqrt(FEATURES / HEADS))
            scores /= scores.sum(axis=1, keepdims=True)
            merged = merged + scores @ value @ attention["out"]["kernel"][head]
        x = x + merged + attention["out"]["bias"]
        y = dense(norm(x, params[f"LayerNorm_{2 * layer + 1}"]), params[f"Dense_{2 * layer}"])
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + dense(y, params[f"Dense_{2 * layer + 1}"])
    return dense(norm(x, params["LayerNorm_4"]).mean(axis=0), params["Dense_4"])


def test_outputs_and_padding_by_numpy(params):
    """The numpy network never sees the padding: it computes each sequence at its own length."""
    lengths = [LENGTH, 5, 1, 3]
    tokens = tokens_of(lengths)
    expected = [by_numpy(params, row[:n]) for row, n in zip(tokens, lengths, strict=True)]
    np.testing.assert_allclose(outputs_of(params, tokens), expected, rtol=1e-4, atol=1e-4)


def test_padding_at_the_front_or_between_is_not_seen(params):
    """Which embedding the padding has changes nothing, wherever it is."""
    tokens = tokens_of([LENGTH] * 3)
    tokens[0, :4] = tokens[1, 3:6] = tokens[2, ::2] = PADDING
    embedding = params["Embed_0"]["embedding"]
    changed = params | {"Embed_0": {"embedding": embedding.at[PADDING].multiply(-5.0)}}
    np.testing.assert_allclose(
        outputs_of(changed, tokens), outputs_of(params, tokens), rtol=1e-5, atol=1e-5
    )
    # Not a constant, which LayerNorm takes away.
    position = params["positions"]["position"].at[:4].multiply(-5.0)
    moved = outputs_of(params | {"positions": {"position": position}}, tokens) - outputs_of(
        params, tokens
    )
    np.testing.assert_allclose(moved[0], 0, atol=1e-5)
    assert np.abs(moved[1:]).max() > 0.01


def test_order_matters_and_only_by_the_positions(params):
    tokens = tokens_of([LENGTH])
    reversed_tokens = tokens[:, ::-1]
    outputs = outputs_of(params, tokens)
    assert np.abs(outputs_of(params, reversed_tokens) - outputs).max() > 0.01
    reversed_params = params | {"positions": {"position": params["positions"]["position"][::-1]}}
    np.testing.assert_allclose(
        outputs_of(reversed_params, reversed_tokens), outputs, rtol=1e-4, atol=1e-5
    )


def test_an_empty_sequence_is_finite_with_its_gradient(params):
    tokens = tokens_of([0, 4])

    np.testing.assert_allclose(outputs_of(params, tokens)[0], params["Dense_4"]["bias"], rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(compiled()(p, tokens) ** 2)))(params)
    chex.assert_tree_all_finite(gradient)


def test_bfloat16_and_dropout(params):
    tokens = tokens_of([LENGTH, 4])
    full, half = outputs_of(params, tokens), outputs_of(params, tokens, dtype=jnp.bfloat16)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.15 * np.abs(full).max())
    assert not np.array_equal(half, full)
    train = compiled(train=True, dropout=0.3)
    trained = [train(params, tokens, jax.random.key(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert np.abs(trained[0] - trained[2]).max() > 0.01
    np.testing.assert_allclose(outputs_of(params, tokens, dropout=0.3), full)
