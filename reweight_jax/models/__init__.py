"""Models: built-in networks by name, and `as_model`, which takes a Flax module of the user."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from reweight_jax.errors import choose
from reweight_jax.models.adapters import Model as Model
from reweight_jax.models.adapters import as_model as as_model
from reweight_jax.models.adapters import mean_and_deviation as mean_and_deviation
from reweight_jax.models.adapters import scale_inputs as scale_inputs
from reweight_jax.models.adapters import standardized as standardized
from reweight_jax.models.adapters import with_matmul_precision as with_matmul_precision
from reweight_jax.models.lenet import LeNet
from reweight_jax.models.mlp import MLP
from reweight_jax.models.resnet import resnet
from reweight_jax.models.small_cnn import SmallCNN
from reweight_jax.models.transformer import transformer

# name -> factory(config.model, num_outputs, dtype of the computation, on_cpu) -> what `as_model`
# takes. Add an entry to have a model of your own by its name:
#   MODELS["mine"] = lambda config, num_outputs, dtype, on_cpu: MyModule(num_outputs)
MODELS = {
    "lenet": lambda config, k, dtype, on_cpu: LeNet(k, dtype, on_cpu),
    "small_cnn": lambda config, k, dtype, on_cpu: SmallCNN(k, dtype),
    "resnet": resnet,
    "wide_resnet": functools.partial(resnet, wide=True),
    "mlp": lambda config, k, dtype, on_cpu: MLP(k, tuple(config.hidden), config.dropout, dtype),
    "transformer": transformer,
}
BUILT_IN = dict(MODELS)  # without entries of the user's own
OF_TOKENS = ("auto", "transformer")  # names of those that take token ids, if the inputs are ints
# What built-in models take: factory -> in words, kinds of numpy's dtypes, numbers of dimensions.
TAKES = {factory: ("images [N, H, W, C]", "fiu", (4,)) for factory in MODELS.values()}
TAKES[MODELS["mlp"]] = ("numbers [N, ...]", "bfiu", range(2, 9))
TAKES[MODELS["transformer"]] = ("ints [N, T]", "iu", (2,))
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
MATMUL_PRECISIONS = ("default", "high", "highest")


def create_model(
    config, num_outputs: int, *, on_cpu: bool, axis_name=None, task="classification"
) -> Model:
    """Returns the model `config.name`; UserError for an unknown name or dtype, or wrong sizes.

    Args:
      config: the fields of config.model, each in its range (`train.checks.check_config`); `name`
        must not be "auto", see `auto_name`.
      num_outputs: K.
      on_cpu: whether the devices of the run are CPUs.
      axis_name: device axis over which a batch is split, or None; see `as_model`.
      task: name of the task; with two outputs LeNet computes one logit only for "classification".
    """
    factory = choose("config.model.name", config.name, MODELS)
    dtype = choose("config.model.dtype", config.dtype, DTYPES)
    model = factory(config, num_outputs, dtype, on_cpu)
    if isinstance(model, LeNet):
        model = model.clone(one_logit=task == "classification")
    return as_model(model, num_outputs=num_outputs, axis_name=axis_name)


def check_inputs(name: str, inputs) -> None:
    """Raises ValueError if a built-in model cannot take such inputs, as `scale_inputs` has them."""
    if MODELS.get(name) not in TAKES:  # it is the user's own
        return
    what, kinds, dims = TAKES[MODELS[name]]
    if isinstance(inputs, dict) or inputs.dtype.kind not in kinds or inputs.ndim not in dims:
        shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", inputs)
        raise ValueError(f"{name} takes {what}, one array; the inputs are {shapes}")


def auto_name(inputs) -> str:
    """Returns the name in MODELS that fits `inputs`: one array, or anything with shape and dtype.

    "mlp" for floats [N, D], "transformer" for int tokens [N, T], "small_cnn" for images
    [N, H, W, C]. uint8 inputs are scaled to floats, and are no tokens. Raises ValueError for any
    other shape or dtype.
    """
    if hasattr(inputs, "dtype"):
        is_float = inputs.dtype == np.uint8 or jnp.issubdtype(inputs.dtype, jnp.floating)
        is_int = jnp.issubdtype(inputs.dtype, jnp.integer)
        fitting = {2: "mlp", 4: "small_cnn"} if is_float else {2: "transformer"} if is_int else {}
        if len(inputs.shape) in fitting:
            return fitting[len(inputs.shape)]
    shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", inputs)
    names = ", ".join(MODELS)
    raise ValueError(f"inputs {shapes} suit no built-in model; name one of {names}, or give one")
