"""Every field of a config, once, with its unit or its reason. Other configs override, never add.

The command line sets any field: --config.method=baseline --config.data.imbalance_ratio=100.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "default"  # of the config file; result.json and the default workdir bear it
    config.variant = ""  # what stood behind the colon in --config=FILE:VARIANT

    config.method = "reweight"  # a name in reweight_jax.methods.METHODS
    # "jvp" or "lookahead": two ways to the same weights (reweight_jax.epsilon_gradient). Forward
    # mode costs less: 1.5 times a plain LeNet step on two CPU cores, against 2.0 for lookahead.
    config.epsilon_method = "jvp"
    # Cheaper and not exact (scripts/benchmarks/approximations.py measures what they cost):
    # weights from the parameters alone whose path, as model/Conv_0/kernel, has a match of this
    # regular expression ("": from all); and a clean gradient that is used for so many steps.
    config.epsilon_params = ""
    config.clean_gradient_every = 1
    config.seed = 0  # draws the split, the label noise, the initialisation and the batches
    # Seeds trained at once in one program, from `seed` on; each as a run of it alone, in a folder
    # seed<seed> of the run's, which has their means and intervals. For accelerators.
    config.num_seeds = 1
    # Another name for the seed, the paper's: its trial t is seed t, and with background_flip the
    # t-th of its background classes.
    config.trial = config.get_ref("seed")

    config.num_steps = 8_000
    config.batch_size = 100  # n, over all devices
    config.clean_batch_size = 10  # m; the whole clean set where it is smaller
    config.learning_rate = 1e-3
    config.lr_drop_steps = ()  # at each of these steps the learning rate falls to a tenth
    config.momentum = 0.9  # 0 is plain SGD
    config.weight_decay = 0.0  # L2 coefficient on kernels, in the update alone

    # More steps of plain training, on the clean set alone: "none"; from the "last" step (the
    # paper's +FT); from the one "best" on hyper_val (+ES+FT); or from "both", one after the other.
    config.finetune_from = "none"
    config.finetune_steps = 5_000
    config.finetune_learning_rate = 1e-3

    # s_model_conf: the --workdir of a finished baseline run, whose confusion matrix it starts from;
    # "{seed}" in it stands for the seed.
    config.confusion_from = ""
    # mentornet: the percentile of the losses at and below which an example weighs in full.
    config.mentor_percentile = 70.0

    config.log_every_steps = 100  # one line in metrics.jsonl, averaged over the interval
    config.eval_every_steps = 500  # a multiple of log_every_steps, like the next one
    config.checkpoint_every_steps = 1_000
    # Steps in one dispatch to the device, a divisor of num_steps, finetune_steps and these three.
    config.steps_per_dispatch = 0  # 0: 1 on a CPU, elsewhere the largest divisor up to 25

    config.model = ConfigDict()
    config.model.name = "lenet"  # a name in reweight_jax.models.MODELS
    config.model.depth = 32  # layers: "resnet" 6b + 2, "wide_resnet" 6b + 4
    config.model.width = 1  # times 16, 32 and 64 features: "resnet", "wide_resnet"
    config.model.dropout = 0.0  # rate between a block's convolutions: "wide_resnet"
    config.model.dtype = "float32"  # of the computation, or "bfloat16"; parameters are float32

    config.data = ConfigDict()
    config.data.name = "mnist"  # a name in reweight_jax.data.DATASETS
    config.data.path = ""  # npz file, for name = "npz"
    config.data.data_dir = ""  # TFDS sets; empty: TFDS_DATA_DIR, else ~/tensorflow_datasets
    # Whether images are read once, into memory and onto every device. If not, they stay on the disk
    # and are streamed, the same batches in the same order; only labels and clean images are kept.
    config.data.resident = True
    # Processes that read a streamed set; 0: threads of this process. Each takes seconds to start.
    config.data.workers = 0
    config.data.num_classes = 0  # K of the set as it is on disk; 0: from the training labels
    config.data.classes = ()  # keep these labels alone, renumbered from 0 in this order; (): all
    config.data.num_train = 0  # training images, clean ones included; 0: all that are left over
    config.data.num_clean = 10  # trusted images, equally many of each class, out of num_train
    config.data.num_hyper_val = 500  # images as corrupted as the training set, to choose a step by
    # Whether the clean images stand in the training set too: "never"; "baselines" (where the method
    # makes no other use of them, so that none trains on more data); or "always".
    config.data.clean_in_train = "baselines"
    # Examples of dominant_class for each one of any other class; 0 leaves the classes as they are.
    config.data.imbalance_ratio = 0.0
    config.data.dominant_class = 0  # label as it is on disk
    # Long tail: class 0 has this many times as many examples as class K - 1; 0 leaves them.
    config.data.imbalance_factor = 0.0
    config.data.balanced_test = False  # cut the test set down to equally many of each class
    config.data.noise = "none"  # or "uniform_flip", "background_flip": wrong labels in training
    # Fraction of the training and hyper_val labels made wrong, 0..1; background_flip stops where
    # all labels are the background's.
    config.data.noise_ratio = 0.0
    # To which class background_flip goes, renumbered; -1: the paper's for this trial (10 and 100
    # classes: [0, 1, 3, 5, 7] and [7, 12, 41, 62, 85]).
    config.data.background_class = -1
    config.data.crop_padding = 0  # pixels: training images are padded by it and cropped at random
    config.data.flip = False  # mirror half of the training images left to right
    return config
