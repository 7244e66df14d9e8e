"""Every field of a config, once, with its unit or its reason. Other configs override, never add.

The command line sets any field: --config.method=baseline --config.data.imbalance_ratio=100.
The config is locked: a field that is not here is an error that names the nearest one that is.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "default"  # of the config file; in result.json and in the default workdir
    config.variant = ""  # the VARIANT part of --config=FILE:VARIANT

    config.task = "classification"  # a name in reweight_jax.tasks.TASKS
    config.method = "reweight"  # a name in reweight_jax.methods.METHODS
    # "jvp", "lookahead" or "layerwise": ways to the same weights (reweight_jax.epsilon_gradient).
    # Forward mode costs less: 1.5 times a plain LeNet step on two CPU cores, against 2.0 for
    # lookahead; layerwise costs least or as much as jvp, but is not for networks with BatchNorm.
    config.epsilon_method = "jvp"
    # Cheaper and not exact: weights from the parameters whose path, such as model/Conv_0/kernel,
    # matches this regular expression. "": from all of them.
    config.epsilon_over = ""
    config.seed = 0  # draws the split, the label noise, the initialisation and the batches
    # The paper's name for the seed: its trial t is seed t and, with background_flip, the t-th of
    # its background classes.
    config.trial = config.get_ref("seed")

    config.num_steps = 8_000
    config.batch_size = 100  # n, over all devices
    config.clean_batch_size = 10  # m; the whole clean set if that is smaller
    config.learning_rate = 1e-3
    # "drops": to a tenth at each of lr_drop_steps; "cosine": to zero over num_steps.
    config.lr_schedule = "drops"
    config.lr_drop_steps = ()
    config.optimizer = "sgd"  # or "adam"
    config.momentum = 0.9  # of sgd, 0 is plain SGD; of adam the decay rate of the first moment
    # L2 coefficient on kernels, in the update only. -1: 5 / N for an MLP on N training examples, if
    # these are passed more than 50 times; else 0.
    config.weight_decay = 0.0

    # Ours and not the paper's, which has 0 and 1; see docs/labels.md. For methods with a clean
    # gradient; others are plain all the time. First plain training, for so many passes over the
    # training set: at most half of the steps before it settles, and a whole pass is left of them.
    config.warm_up = 0.0
    # From this fraction of num_steps on, settling: plain training on the clean examples and on
    # those whose labels the model has believed so far, since the warm-up.
    config.settle_at = 1.0
    # Unless the run settles, it then trains for this fraction of num_steps only on the clean
    # examples, with the learning rates of its last steps. That model only judges the labels. After
    # retraining another one does.
    config.judge_for = 0.0
    # Whether a step takes a batch as it is if no example of it is helpful: "uniform". "keep": as in
    # the paper, such a step has no gradient; momentum and weight decay go on.
    config.on_zero_weights = "keep"

    # More steps of plain training on the clean set: "none"; from the "last" step (the paper's +FT);
    # from the one "best" on hyper_val (+ES+FT); from "both", one after the other; or, after all
    # other phases, from the "retrained" model (needs `retrain`).
    config.finetune_from = "none"
    config.finetune_steps = 5_000
    config.finetune_learning_rate = 1e-3

    # Two more trainings of num_steps each, from the initialisation: plain training on all labels,
    # to compare with; and without the labels that are then not believed: "drop" or "relabel" them.
    # Both take the clean examples too.
    config.compare_plain = False
    config.retrain = "none"

    # s_model_conf: the --workdir of a finished baseline run, whose confusion matrix it starts from;
    # in a sweep "{seed}" in it is replaced by the seed.
    config.confusion_from = ""
    # mentornet: examples whose loss is at or below this percentile have full weight.
    config.mentor_percentile = 70.0

    # Remember each example's alignment also if the method needs no clean gradient. It costs one.
    config.observe_alignment = False
    # Most memory for what the model believes of each example, twice [N, K] numbers, on each device.
    # Without it no other label is suggested. A task of several tags needs that much in any case.
    config.remember_megabytes = 256

    config.log_every_steps = 100  # one line in metrics.jsonl, averaged over the interval
    config.eval_every_steps = 500  # a multiple of log_every_steps, like the next one
    config.checkpoint_every_steps = 1_000
    # Most steps in one dispatch to the device. 0: 1 on a CPU, 25 elsewhere.
    config.steps_per_dispatch = 0

    # Which labels are called suspect: at a share of the right labels that may be called so too, or,
    # if it is above 0, at a share of the suspects that may be right.
    config.labels = ConfigDict()
    config.labels.false_alarm_rate = 0.05
    config.labels.false_discovery_rate = 0.0

    config.model = ConfigDict()
    # A name in reweight_jax.models.MODELS. "auto": mlp for float features [N, D], transformer for
    # int tokens [N, T], small_cnn for images.
    config.model.name = "lenet"
    config.model.depth = 32  # layers: "resnet" 6b + 2, "wide_resnet" 6b + 4
    config.model.width = 1  # times 16, 32 and 64 features: "resnet", "wide_resnet"
    config.model.dropout = 0.0  # rate: "wide_resnet", "mlp", "transformer"
    config.model.hidden = (256, 256)  # units of each hidden layer: "mlp"
    config.model.num_layers = 2  # "transformer", like the next three
    config.model.num_heads = 4
    config.model.features = 128  # a multiple of num_heads
    config.model.vocabulary = 0  # number of token ids; 0: the largest id in the data, plus one
    config.model.dtype = "float32"  # of the computation, or "bfloat16"; parameters are float32
    # Of products of float32: "default" is one pass in bfloat16 on a TPU and TF32 on a GPU, "high"
    # three passes in bfloat16, and TF32, "highest" float32. On a CPU all are float32.
    config.model.matmul_precision = "default"

    config.data = ConfigDict()
    config.data.name = "mnist"  # a name in reweight_jax.data.sources.DATASETS
    config.data.data_dir = ""  # TFDS sets; empty: TFDS_DATA_DIR, else ~/tensorflow_datasets
    # Your own data (configs/own_data.py): an npz file, a CSV file, or a folder of class folders.
    config.data.path = ""
    # The same kind of file or folder, for CSV and image folders: the trusted examples; those of
    # them that no gradient sees; and a test set. An npz file holds all of these itself.
    config.data.clean_path = ""
    config.data.calibration_path = ""
    config.data.test_path = ""
    # What was decided about training labels: the suspects.csv of a run, or the decisions.csv of its
    # report or of choose_trusted.py (several, separated by commas). Rows are dropped, relabelled
    # and moved to the trusted parts before anything else.
    config.data.corrections = ""
    # CSV: the column of the label (several, separated by commas: one tag a column); a column of
    # 0/1 that marks trusted rows (empty: 0); columns not to read.
    config.data.label_column = "label"
    config.data.clean_column = ""
    config.data.ignore_columns = ()
    config.data.image_size = 0  # pixels a side that image files are resized to; 0: as they are
    # Float inputs [N, D] are standardised by the training set's mean and deviation.
    config.data.standardize = False
    # Whether the training labels of your own data are known to be right, so that a clean set can be
    # drawn from them (the built-in sets' are).
    config.data.labels_are_right = False
    # Whether inputs are read once and put whole on every device. If not, they are streamed: the
    # same batches in the same order. TFDS sets and image folders then stay on the disk.
    config.data.resident = True
    # Processes that read a streamed set; 0: threads of this process. Each takes seconds to start.
    config.data.workers = 0
    config.data.num_classes = 0  # K, if labels are integers 0..K-1; 0: from the labels
    config.data.classes = ()  # keep only these labels, renumbered from 0 in this order; (): all
    config.data.num_train = 0  # training examples, clean ones included; 0: all that are left over
    # Trusted examples, equally many of each class, drawn from num_train where the data does not
    # bring its own.
    config.data.num_clean = 10
    config.data.num_calibration = 0  # trusted examples that no gradient sees, out of the clean ones
    config.data.num_hyper_val = 500  # as corrupted as the training set, to choose a step by
    # Whether the clean examples are also trained on: "never"; "baselines" (by the methods that make
    # no other use of them, so that none trains on more data); or "always".
    config.data.clean_in_train = "baselines"
    # Examples of dominant_class for each one of any other class; 0 leaves the classes as they are.
    config.data.imbalance_ratio = 0.0
    config.data.dominant_class = 0  # label as it is on disk
    # Long tail: class 0 has this many times as many examples as class K - 1; 0 leaves them.
    config.data.imbalance_factor = 0.0
    config.data.balanced_test = False  # cut the test set down to equally many of each class
    # Wrong labels in training: "none", "uniform_flip", "background_flip", or "asymmetric_flip",
    # from each source class to one target class (reweight_jax.data.corrupt.asymmetric_targets).
    config.data.noise = "none"
    # Fraction of the training and hyper_val labels made wrong, 0..1; background_flip stops when
    # all labels are the background's, and asymmetric_flip takes it of the source classes only.
    config.data.noise_ratio = 0.0
    # To which class background_flip moves labels, renumbered; -1: the paper's for this trial (10
    # and 100 classes: [0, 1, 3, 5, 7] and [7, 12, 41, 62, 85]).
    config.data.background_class = -1
    config.data.crop_padding = 0  # pixels: training images are padded by it and cropped at random
    config.data.flip = False  # mirror half of the training images left to right
    return config.lock()
