"""A first run of a minute: handwritten digits, four in ten of whose labels are of one class.

    python -m reweight_jax.main --config=configs/digits.py

100 labels are trusted: 50 decide the weights, and 50, which no gradient sees, calibrate the list of
suspects. It ends with the test errors of plain training (45.74%), of reweighting (3.51%; with JAX
0.12 instead of 0.10 3.34%) and of training again with other labels in place of those not believed
(3.34%; 3.17%); with how many labels are called suspect (426; 425) and how many of these are wrong
(423 of 439), which is known here; and with a page with the pictures,
runs/digits-reweight-seed0/label_report.html. Seed 0 on a CPU.
"""

from reweight_jax.configs import own_data


def get_config():
    config = own_data.get_config()
    config.name, config.variant, config.data.name = "digits", "", "digits"
    config.num_steps = 1_000
    config.compare_plain, config.retrain = True, "relabel"
    config.data.noise, config.data.noise_ratio = "background_flip", 0.4
    config.data.background_class = 0
    config.data.num_clean, config.data.num_calibration = 100, 50
    return config
