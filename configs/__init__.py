"""The configs, installed as reweight_jax.configs: default.py has every field, the others override."""
