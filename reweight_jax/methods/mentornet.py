"""MentorNet with a predefined curriculum: a small network that has learned self-paced learning.

Jiang et al., "MentorNet: Learning Data-Driven Curriculum for Very Deep Neural Networks on Corrupted
Labels" (ICML 2018). The inputs of the mentor are an example's loss, its distance to a moving
percentile of the losses, its label and the epoch (in hundredths of the run). Before the run it is
trained on random inputs to give the self-paced weights (Kumar et al., 2010).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from reweight_jax.methods.base import CLASSIFICATION, Context, Method, normalize

BURN_IN = 0.2  # fraction of the run in which all weights are equal; then the mentor's are used
PERCENTILE_DECAY = 0.9  # of the moving percentile, per step
LARGEST_LOSS = 10.0  # that the mentor is trained on; larger losses are clipped to it
NUM_EPOCHS = 100
MENTOR_STEPS, MENTOR_BATCH = 1_500, 512


class Mentor(nn.Module):
    """(loss [n], loss - percentile [n], label [n], epoch 0..99 [n]) -> logits [n] of the weights.

    A bidirectional LSTM reads the two losses. Its last states and embeddings of label and epoch are
    the inputs of a layer with 20 units.
    """

    num_classes: int

    @nn.compact
    def __call__(self, losses, differences, labels, epochs):
        sequence = jnp.stack([losses, differences], axis=1)[..., None]
        forward, backward = (nn.RNN(nn.OptimizedLSTMCell(8), unroll=2) for _ in range(2))
        read = nn.Bidirectional(forward, backward)(sequence)
        embedded = nn.Embed(self.num_classes, 2)(labels), nn.Embed(NUM_EPOCHS, 5)(epochs)
        features = jnp.concatenate([read[:, -1, :8], read[:, 0, 8:], *embedded], axis=1)
        hidden = nn.tanh(nn.Dense(20)(features))
        return nn.Dense(1)(hidden)[:, 0]


def self_paced_weights(differences: jax.Array) -> jax.Array:
    """Returns the v in 0..1 that minimise v * (loss - percentile): one up to it, zero above."""
    return (differences <= 0).astype(jnp.float32)


def train_mentor(key: jax.Array, num_classes: int):
    """Returns the parameters of a `Mentor` trained to give self-paced weights."""
    mentor = Mentor(num_classes)
    tx = optax.adam(optax.cosine_decay_schedule(0.02, MENTOR_STEPS))
    init_key, data_key = jax.random.split(key)
    params = mentor.init(init_key, *draw_inputs(data_key, num_classes))

    def loss_fn(params, inputs):
        logits = mentor.apply(params, *inputs)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, self_paced_weights(inputs[1])))

    def body(carry, step):
        params, opt_state = carry
        inputs = draw_inputs(jax.random.fold_in(data_key, step), num_classes)
        updates, opt_state = tx.update(jax.grad(loss_fn)(params, inputs), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    run = jax.jit(lambda carry: jax.lax.scan(body, carry, jnp.arange(MENTOR_STEPS))[0])
    return run((params, tx.init(params)))[0]


def draw_inputs(key: jax.Array, num_classes: int):
    """Returns a batch of random mentor inputs: half of the losses near the percentile."""
    keys, shape = jax.random.split(key, 6), (MENTOR_BATCH,)
    percentile = LARGEST_LOSS * jax.random.uniform(keys[0], shape) ** 3  # mostly small
    near = percentile + 0.3 * jax.random.normal(keys[1], shape)
    anywhere = LARGEST_LOSS * jax.random.uniform(keys[2], shape)
    losses = jnp.where(jax.random.bernoulli(keys[3], 0.5, shape), near, anywhere)
    losses = jnp.clip(losses, 0, LARGEST_LOSS)
    labels = jax.random.randint(keys[4], shape, 0, num_classes)
    epochs = jax.random.randint(keys[5], shape, 0, NUM_EPOCHS)
    return losses, losses - percentile, labels, epochs


def _init(key, config, train, num_outputs, host_input=None):
    """Trains the mentor; returns it with the settings and the moving percentile."""
    return {
        "mentor": train_mentor(key, num_outputs),
        "moving_percentile": jnp.zeros(()),
        "percentile": jnp.asarray(config.mentor_percentile, jnp.float32),
        "num_steps": jnp.asarray(config.num_steps, jnp.int32),
    }


def _mentored(context: Context):
    """MENTORNET: weights proportional to the mentor's, after a burn-in of equal weights."""
    state = context.method_state
    num_classes = len(state["mentor"]["params"]["Embed_0"]["embedding"])
    now = jnp.percentile(context.losses, state["percentile"])
    before = jnp.where(context.step == 0, now, state["moving_percentile"])
    moving = PERCENTILE_DECAY * before + (1 - PERCENTILE_DECAY) * now
    progress = context.step / state["num_steps"]
    epoch = jnp.clip(NUM_EPOCHS * progress, 0, NUM_EPOCHS - 1).astype(jnp.int32)
    logits = Mentor(num_classes).apply(
        state["mentor"],
        jnp.clip(context.losses, 0, LARGEST_LOSS),
        jnp.clip(context.losses - moving, -LARGEST_LOSS, LARGEST_LOSS),
        context.labels,
        jnp.full_like(context.labels, epoch),
    )
    weights = jnp.where(progress < BURN_IN, 1.0, jax.nn.sigmoid(logits))
    return normalize(weights), state | {"moving_percentile": moving}


MENTORNET = Method(init=_init, weights=_mentored, uses_num_steps=True, tasks=CLASSIFICATION)
