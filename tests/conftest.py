"""Strict JAX for every test: four CPU devices, and no silent rank promotion."""

import importlib.util
import json
import os
import pathlib
import sys
import tempfile

import jax
import pytest
from absl import flags

from reweight_jax.configs import mnist_imbalance, own_data
from reweight_jax.methods import mentornet
from reweight_jax.sealed import seal

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "scripts" / "benchmarks")]  # they lie beside the package

os.environ.setdefault("NPROC", "8")  # XLA's threads; see startup.give_devices_threads
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the time here is XLA's, compiling: less optimised, the suite runs twice as fast.
jax.config.update("jax_disable_most_optimizations", True)
# It also helps to have one LLVM module a program, no source lines in programs and, before jax 0.11,
# no fusion emitters.
jax.config.update("jax_traceback_in_locations_limit", 0)
XLA_FLAGS = ["--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):
    XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
XLA_FLAGS.append(os.environ.get("XLA_FLAGS", ""))  # the last of several holds
os.environ["XLA_FLAGS"] = " ".join(XLA_FLAGS).strip()


def pytest_configure(config):
    """One cache of compiled programs for all workers and the processes that tests start."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")  # the controller's, or of many sessions
    if not folder:
        made = tempfile.TemporaryDirectory(prefix="reweight_jax_tests_", ignore_cleanup_errors=True)
        config.add_cleanup(made.cleanup)
        folder = made.name
    for name, value in {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture
def x64():
    """Arrays of float64, for tests of derivatives: a wrong term shows, however small it is."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def digits_config():
    """() -> the digits variant, shrunk: 6 steps of a small MLP in place of LeNet."""

    def make(**fields):
        config = mnist_imbalance.get_config("digits")
        config.model.name, config.model.hidden = "mlp", (8,)  # which compiles in a second
        config.num_steps = 6
        config.batch_size = 12
        config.log_every_steps = config.eval_every_steps = 2
        config.checkpoint_every_steps = 2
        config.update_from_flattened_dict(fields)
        return config

    return make


@pytest.fixture(scope="session")
def confusion_run(tmp_path_factory):
    """K -> the folder of a finished run, as far as s_model_conf reads it."""

    def make(num_classes):
        folder = tmp_path_factory.mktemp("baseline")
        matrix = [[7 if i == j else 1 for j in range(num_classes)] for i in range(num_classes)]
        result = {"confusion": {"best": {"hyper_val": matrix}}}
        (folder / "result.json").write_text(json.dumps(seal(result)))
        return str(folder)

    return make


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    from commands import kill_started  # which keeps the environment that is set above

    kill_started()


@pytest.fixture
def short_mentor(monkeypatch):
    """Mentors that are hardly trained, where what they say does not matter."""
    monkeypatch.setattr(mentornet, "MENTOR_STEPS", 10)


@pytest.fixture(scope="session")
def load_script():
    """name -> the module scripts/<name>.py. Its flags are there until another one is loaded."""
    loaded, defined = {}, set()

    def load(name):
        if name not in loaded:
            flags.FLAGS.remove_flag_values(defined)  # two scripts may have a flag of one name
            defined.clear()
            loaded.clear()
            before = set(flags.FLAGS)
            spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
            loaded[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded[name])
            defined.update(set(flags.FLAGS) - before)
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory):
    """A finished fit that separates the classes of the toy data. It is only read."""
    from toy_fits import quick, toy  # jax.devices: only after jax_num_cpu_devices

    folder = tmp_path_factory.mktemp("toy") / "run"
    default = own_data.get_config()  # as `fit` trains by itself
    phases = {name: default[name] for name in ("warm_up", "settle_at", "judge_for")}
    return quick(workdir=folder, num_steps=100, learning_rate=0.1, test=toy()[1], **phases)
