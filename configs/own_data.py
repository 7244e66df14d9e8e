"""Your own data: an npz file, a CSV file, or a folder of images, with a small trusted set.

npz: the arrays train_input [N, ...] and train_label [N], and, as far as you have them, clean_input
and clean_label (the trusted set), calibration_*, hyper_val_* and test_*. A dict of inputs is saved
as train_input.NAME.

    python -m reweight_jax.main --config=configs/own_data.py:npz --config.data.path=mine.npz

CSV: one row per example. The columns are numbers, or a column `file` has the paths of images.
The trusted rows are in a second file, or are marked by 1 in a column of the same file.

    python -m reweight_jax.main --config=configs/own_data.py:csv --config.data.path=train.csv \
        --config.data.label_column=label --config.data.clean_path=trusted.csv
    python -m reweight_jax.main --config=configs/own_data.py:csv --config.data.path=all.csv \
        --config.data.label_column=label --config.data.clean_column=checked

Image folder: one sub-folder for each class; its name is the name of the class.

    python -m reweight_jax.main --config=configs/own_data.py:image_folder \
        --config.data.path=photos/train --config.data.clean_path=photos/trusted \
        --config.data.test_path=photos/test --config.data.image_size=32

Regression needs --config.task=regression. Several tags per example need --config.task=multi_label:
labels [N, K] of 0 and 1 in an npz file, or one column for each tag in a CSV file
(--config.data.label_column=cat,dog,outdoors). A tag that is unknown is -1, or an empty cell.

The model is chosen by the inputs: an MLP for rows of floats, a small CNN for images, a transformer
for rows of token ids; --config.model.name=resnet chooses another one. Without a trusted set, only
methods that need none can run, such as --config.method=baseline.
"""

from reweight_jax.configs import default

VARIANTS = ("npz", "csv", "image_folder")


def get_config(variant: str = "npz"):
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; valid: {', '.join(VARIANTS)}")
    config = default.get_config()
    config.name, config.variant = "own_data", variant
    config.num_steps = 2_000
    config.batch_size = 100
    config.clean_batch_size = 100
    # Adam follows the scale of the inputs and of the model; SGD at a fixed rate does not.
    config.optimizer, config.learning_rate, config.lr_schedule = "adam", 1e-3, "cosine"
    config.weight_decay = -1.0  # a small table is memorised, wrong labels too
    config.warm_up, config.settle_at, config.judge_for = 1.0, 0.5, 0.2
    config.eval_every_steps = 200
    config.checkpoint_every_steps = 200
    config.model.name = "auto"
    config.data.name = variant
    config.data.standardize = True
    config.data.num_hyper_val = 0
    return config
