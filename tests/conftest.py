"""Strict JAX for every test: four CPU devices, no silent rank promotion, float64 where asked for."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
