"""Configs, installed as reweight_jax.configs: default.py has every field, others override."""
