"""Section 3.4 and Eq. 12 in numbers: what the theory states, and what the algorithm does.

All of it is computed by `reweight_jax.reweight`, on problems of seconds.
"""

import jax
import jax.numpy as jnp
import numpy as np

from reweight_jax.reweight import epsilon_gradient, normalize_weights

# --- Lemma 1: the clean loss never rises ----------------------------------------------------------


def logistic_losses(theta: jax.Array, batch: tuple) -> tuple[jax.Array, None]:
    """Per-example losses of logistic regression: inputs [n, d], labels 0 or 1 [n], theta [d]."""
    logits = batch[0] @ theta
    return jnp.logaddexp(0.0, logits) - batch[1] * logits, None


def lemma_bounds(n: int, inputs: jax.Array, clean_inputs: jax.Array) -> tuple[float, float]:
    """Returns the largest step size that Lemma 1 states, and the one that is sound.

    The lemma's is 2n / (L sigma^2). Its proof (Eq. 36) bounds |sum_i a_i|^2 by sum_i |a_i|^2, for
    which n times as much is needed; with that, the bound is 2 / (L sigma^2) for any n.
    For logistic regression sigma^2 is the largest |x|^2, and L the largest eigenvalue of the clean
    examples' mean of x x^T / 4.
    """
    smoothness = np.linalg.eigvalsh(clean_inputs.T @ clean_inputs / len(clean_inputs))[-1] / 4
    sound = 2 / (smoothness * np.max(np.sum(np.square(inputs), axis=1)))
    return float(n * sound), float(sound)


def lemma_step(theta, batch, clean, alpha):
    """Returns the parameters after Eq. 30, the update of the proofs, and G before it.

    theta - alpha / n * sum_i max(<grad G, grad f_i>, 0) grad f_i: the weights are not normalised.
    """
    epsilon = epsilon_gradient(logistic_losses, theta, batch, clean, method="jvp")
    useful = jnp.maximum(-epsilon, 0)
    gradient = jax.grad(lambda theta: jnp.mean(useful * logistic_losses(theta, batch)[0]))(theta)
    return theta - alpha * gradient, jnp.mean(logistic_losses(theta, clean)[0])


def rise_of_copies(alphas: np.ndarray, n: int) -> np.ndarray:
    """Returns G after one step from theta = -5 minus G before it, for each step size.

    The clean examples are x = 1 labelled 0 and 1, the batch n copies of the second. L = 1/4 and
    sigma = 1: the sound bound is 8, the lemma's 8n.
    """
    theta, batch = np.float32([-5]), (np.ones((n, 1), np.float32), np.ones(n, np.float32))
    clean = np.ones((2, 1), np.float32), np.array([0, 1], np.float32)

    def rise(alpha):
        after, before = lemma_step(theta, batch, clean, alpha)
        return jnp.mean(logistic_losses(after, clean)[0]) - before

    return np.asarray(jax.jit(jax.vmap(rise))(jnp.asarray(alphas, jnp.float32)))


def lemma_run(n: int, *, sound: bool, seed: int) -> np.ndarray:
    """Returns G before each of 200 steps on random batches of n examples, 45% labelled wrongly.

    The step size is 0.99 of the sound bound, or of the lemma's.
    """
    rng = np.random.default_rng(seed)
    inputs = np.c_[np.ones(400), rng.normal(size=(400, 3))].astype(np.float32)
    logits = inputs @ np.array([0.0, 1.0, -2.0, 0.5])
    labels = (rng.random(400) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    clean = inputs[:40], labels[:40].copy()
    wrong = rng.permutation(400)[:180]
    labels[wrong] = 1 - labels[wrong]
    alpha = 0.99 * lemma_bounds(n, inputs, clean[0])[sound]
    rows = rng.integers(400, size=(200, n))
    theta = (2 * rng.normal(size=4)).astype(np.float32)

    def step(theta, rows):
        return lemma_step(theta, (inputs[rows], labels[rows]), clean, alpha)

    inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)
    return np.asarray(jax.lax.scan(step, jnp.asarray(theta), jnp.asarray(rows))[1])


# --- Theorem 2: the rate --------------------------------------------------------------------------


def mlp_losses(weights: list, batch: tuple) -> tuple[jax.Array, None]:
    """Per-example cross entropies of an MLP with tanh and without biases, as in section 3.2.

    `batch`: inputs [n, d], labels int [n].
    """
    x, labels = batch
    for matrix in weights[:-1]:
        x = jnp.tanh(x @ matrix)
    log_p = jax.nn.log_softmax(x @ weights[-1])
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0], None


def init_mlp(sizes: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Returns matrices [d, d'] of normal numbers with variance 1 / d."""
    rng = np.random.default_rng(seed)
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return [(rng.normal(size=pair) / np.sqrt(pair[0])).astype(np.float32) for pair in pairs]


def noisy_digits(num_clean: int, seed: int) -> tuple[tuple, tuple]:
    """Returns (training set, clean set) of scikit-learn's digits; 40% of the training labels wrong.

    The clean set is a part of the training set, as the proofs have it.
    """
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(seed)
    rows = rng.permutation(len(digits.data))
    inputs = (digits.data[rows] / 16 - 0.5).astype(np.float32)
    labels = digits.target[rows].astype(np.int32)
    clean = inputs[:num_clean], labels[:num_clean].copy()
    wrong = num_clean + rng.permutation(len(rows) - num_clean)[: int(0.4 * len(rows))]
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return (inputs, labels), clean


def gradient_norms(
    *, normalized: bool, alpha: float, num_steps: int, num_seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns |grad G|^2 and G before each step, float [num_seeds, num_steps].

    An MLP on digits, batches of 50, the whole clean set in each step (m = M), plain gradient steps
    of a constant size. If `normalized`, weights are those of Eq. 9; if not, the update is Eq. 30,
    the proofs'.
    """
    (inputs, labels), clean = noisy_digits(100, seed=0)
    inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)

    def clean_loss(weights):
        return jnp.mean(mlp_losses(weights, clean)[0])

    def step(weights, key):
        rows = jax.random.randint(key, (50,), 0, len(labels))
        batch = inputs[rows], labels[rows]
        loss, gradient = jax.value_and_grad(clean_loss)(weights)
        norm = sum(jnp.sum(g**2) for g in gradient)
        epsilon = epsilon_gradient(mlp_losses, weights, batch, clean, method="jvp")
        useful = normalize_weights(epsilon) if normalized else jnp.maximum(-epsilon, 0) / 50
        update = jax.grad(lambda weights: jnp.sum(useful * mlp_losses(weights, batch)[0]))(weights)
        return jax.tree.map(lambda p, g: p - alpha * g, weights, update), (norm, loss)

    def run(weights, key):
        return jax.lax.scan(step, weights, jax.random.split(key, num_steps))[1]

    starts = [init_mlp((64, 32, 10), seed) for seed in range(num_seeds)]
    starts = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
    norms, losses = jax.jit(jax.vmap(run))(starts, jax.random.split(jax.random.key(0), num_seeds))
    return np.asarray(norms), np.asarray(losses)


def slope(values: np.ndarray, first: int) -> float:
    """Returns the slope of log(values[T]) against log(T), T = 1, 2, ..., from T = `first` on."""
    steps = np.arange(1, len(values) + 1)[first - 1 :]
    chosen = np.unique(np.geomspace(1, len(steps), 200).astype(int)) - 1
    return float(np.polyfit(np.log(steps[chosen]), np.log(values[first - 1 :][chosen]), 1)[0])


# --- Eq. 12: activations times deltas -------------------------------------------------------------


def equation_12(weights: list, batch: tuple, clean: tuple) -> np.ndarray:
    """Returns -mean_j sum_l (z_j . z_i)(g_j . g_i), float64 [n], by hand in numpy.

    z: what goes into a layer; g: the gradient of the loss by what comes out of it, before tanh.
    """
    of_batch, of_clean = _by_hand(weights, *batch), _by_hand(weights, *clean)
    layers = zip(of_batch, of_clean, strict=True)
    products = [(z @ clean_z.T) * (g @ clean_g.T) for (z, g), (clean_z, clean_g) in layers]
    return -np.mean(sum(products), axis=1)


def _by_hand(weights, inputs, labels):
    """Per layer (inputs [n, d], deltas [n, d']), by backpropagation."""
    weights = [np.asarray(matrix, np.float64) for matrix in weights]
    activations = [np.asarray(inputs, np.float64)]
    for matrix in weights[:-1]:
        activations.append(np.tanh(activations[-1] @ matrix))
    logits = activations[-1] @ weights[-1]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    deltas = [p / p.sum(axis=1, keepdims=True) - np.eye(logits.shape[1])[labels]]
    for matrix, activation in zip(weights[:0:-1], activations[:0:-1], strict=True):
        deltas.insert(0, (deltas[0] @ matrix.T) * (1 - activation**2))
    return list(zip(activations, deltas, strict=True))
