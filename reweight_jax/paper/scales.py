"""The sizes of the paper's experiments, and the runs that each one is made of.

"digits": minutes of two CPU cores. "small": real MNIST, and CIFAR-10 with a ResNet-8; days of two
CPU cores. "full": the paper's own networks and steps, for an accelerator.
"""

import pathlib
from typing import NamedTuple

from reweight_jax.configs import cifar_background_flip, cifar_uniform_flip, mnist_imbalance
from reweight_jax.paper import published
from reweight_jax.paper.grid import Run, grid

# Kind of noise -> its config, and what it sets.
NOISES = {
    "uniform": (cifar_uniform_flip, {}),
    "background": (cifar_background_flip, {}),
    "asymmetric": (cifar_background_flip, {"data.noise": "asymmetric_flip"}),
}


class Scale(NamedTuple):
    """Sizes of the experiments.

    Attributes:
      imbalance: variant of configs/mnist_imbalance.py.
      ratios: of the two classes, those to be run first coming first.
      seeds: of every run with imbalanced classes.
      most_seeds: of five methods at the first of the ratios.
      noisy: variants of configs/cifar_*_flip.py; figures are of the first one.
      short: variants of the background config with the shorter schedule of the paper's +ES.
      trials: seeds of every run with wrong labels.
      num_clean: sizes of the clean set, for Figure 4.
      noise_ratios: for Figure 5.
      tails: how many times larger the first class is than the last one.
    """

    imbalance: str
    ratios: tuple[float, ...]
    seeds: int
    most_seeds: int
    noisy: tuple[str, ...]
    short: tuple[str, ...]
    trials: int
    num_clean: tuple[int, ...]
    noise_ratios: tuple[float, ...]
    tails: tuple[float, ...]


MOST_SEEDS = ("reweight", "proportion", "baseline", "resample", "hard_mining")
SCALES = {
    "digits": Scale(
        imbalance="digits",
        ratios=(20.0, 10.0, 5.0),
        seeds=5,
        most_seeds=5,
        noisy=("digits",),
        short=(),
        trials=3,
        num_clean=(10, 20, 50, 100, 200),
        noise_ratios=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
        tails=(10.0,),
    ),
    "small": Scale(
        imbalance="mnist",
        ratios=tuple(reversed(published.IMBALANCE_RATIOS)),
        seeds=3,
        most_seeds=10,
        noisy=("cifar10-small",),
        short=(),
        trials=3,
        num_clean=(10, 20, 100, 1_000, 5_000),
        noise_ratios=(0.0, 0.2, 0.4, 0.5),
        tails=(10.0, 50.0, 100.0),
    ),
    "full": Scale(
        imbalance="mnist",
        ratios=tuple(reversed(published.IMBALANCE_RATIOS)),
        seeds=10,
        most_seeds=10,
        noisy=("cifar10", "cifar100"),
        short=("cifar10-short", "cifar100-short"),
        trials=5,
        num_clean=(10, 20, 50, 100, 500, 1_000, 5_000),
        noise_ratios=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
        tails=(10.0, 50.0, 100.0),
    ),
}


def imbalance_runs(scale: Scale, root: pathlib.Path) -> list[Run]:
    """Returns the runs of Figure 2, in the order in which they say most."""
    config = mnist_imbalance.get_config(scale.imbalance)
    folder, methods = root / f"{config.name}-{config.variant}", published.IMBALANCE_METHODS
    first, *others = scale.ratios
    runs = grid(config, folder, methods[::-1], [first], range(scale.seeds))
    runs += grid(config, folder, MOST_SEEDS, [first], range(scale.seeds, scale.most_seeds))
    for ratio in others:
        runs += grid(config, folder, methods[::-1], [ratio], range(scale.seeds))
    return runs


def noisy_runs(
    scale: Scale,
    root: pathlib.Path,
    noise: str,
    methods,
    *,
    ratios=(published.NOISE_RATIO,),
    variants: tuple[str, ...] | None = None,
    name: str = "",
    **fields,
) -> list[Run]:
    """Returns runs with wrong labels.

    Args:
      scale: one of SCALES.
      root: folder of all runs.
      noise: a name in NOISES.
      methods: their names. s_model_conf needs baseline beside it.
      ratios: shares of wrong labels.
      variants: of the config; None: the scale's first one.
      name: of the setting that `fields` make, in the folder's name.
      **fields: of the config, nested ones as data__num_clean; finetune_from is "both" if not given.
    """
    module, of_noise = NOISES[noise]
    fields = {field.replace("__", "."): value for field, value in fields.items()}
    name = "-".join(filter(None, ("asymmetric" if noise == "asymmetric" else "", name)))
    runs = []
    for variant in scale.noisy[:1] if variants is None else variants:
        config = module.get_config(variant)
        config.update_from_flattened_dict({"finetune_from": "both"} | of_noise | fields)
        folder = root / "-".join(filter(None, (config.name, variant, name)))
        runs += grid(config, folder, methods, ratios, range(scale.trials))
    return runs


def retrained_runs(scale: Scale, root: pathlib.Path, noise: str, **options) -> list[Run]:
    """Returns runs of reweight that give half of the clean set to calibration, and retrain.

    `options`: of `noisy_runs`.
    """
    module, _ = NOISES[noise]
    num_clean = module.get_config(scale.noisy[0]).data.num_clean
    options["name"] = "-".join(filter(None, (options.get("name", ""), "retrain")))
    fields = {"retrain": "relabel", "data__num_calibration": num_clean // 2}
    return noisy_runs(scale, root, noise, ["reweight"], finetune_from="none", **fields, **options)
