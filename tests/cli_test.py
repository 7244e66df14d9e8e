"""The command line's answers to mistakes: one line, status 1, no traceback."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT, assert_one_line, command

from reweight_jax import cli, configs
from reweight_jax.errors import UserError

CONFIG = "--config=configs/mnist_imbalance.py:digits"
MAIN = ("-m", "reweight_jax.main")


def test_an_output_file_is_one_that_can_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.output_file("--json", "~/new/a.json") == tmp_path / "new" / "a.json"
    assert (tmp_path / "new").is_dir()
    assert cli.output_file("--json", None) is None
    with pytest.raises(UserError, match="--json .*/new: is a folder"):
        cli.output_file("--json", "~/new")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--json .*/file: cannot be used"):
        cli.output_file("--json", "~/file/a.json")


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ([], ["--config is missing"]),
        (["--config=configs/none.py"], ["configs/none.py"]),
        (["--config=configs/mnist_imbalance.py:svhn"], ["no variant 'svhn'", "mnist, digits"]),
        ([CONFIG, "--config.metod=x"], ["--config: no field metod", "did you mean method?"]),
        ([CONFIG, "--config.data.nam=x"], ["--config: no field nam", "did you mean name?"]),
        ([CONFIG, "--config.batch_size=many"], ["config.batch_size", "'many'"]),
        ([CONFIG, "--config.method=magic"], ["config.method", "'magic'", "hard_mining, "]),
        ([CONFIG, "--config.task=magic"], ["config.task", "'magic'", "multi_label, regression"]),
        ([CONFIG, "--config.task=regression"], ["config.data.classes"]),
        ([CONFIG, "--config.optimizer=lion"], ["config.optimizer", "adam, sgd"]),
        ([CONFIG, "--config.model.name=vgg"], ["config.model.name", "'vgg'", "lenet"]),
        ([CONFIG, "--config.model.dtype=int8"], ["config.model.dtype", "bfloat16, float32"]),
        (
            [CONFIG, "--config.epsilon_method=x"],
            ["config.epsilon_method", "jvp, layerwise, lookahead"],
        ),
        (
            [CONFIG, "--config.epsilon_method=layerwise", "--config.model.name=resnet"],
            ["config.epsilon_method: layerwise: BatchNorm couples the examples; use 'jvp'"],
        ),
        (
            [CONFIG, "--config.epsilon_method=layerwise", "--config.epsilon_over=Dense"],
            ["config.epsilon_over: layerwise takes all parameters"],
        ),
        ([CONFIG, "--config.epsilon_over=("], ["config.epsilon_over: '('"]),
        ([CONFIG, "--config.epsilon_over=no"], ["config.epsilon_over: 'no' matches none", "/bias"]),
        (
            [
                CONFIG,
                "--config.epsilon_over=no",
                "--config.method=baseline",
                "--config.observe_alignment",
            ],
            ["config.epsilon_over: 'no' matches none"],
        ),
        ([CONFIG, "--config.data.clean_in_train=x"], ["clean_in_train", "always, baselines"]),
        ([CONFIG, "--config.data.name=svhn"], ["config.data.name", "'svhn'", "digits"]),
        ([CONFIG, "--config.data.num_clean=60"], ["config.data.num_clean", "class"]),
        ([CONFIG, "--config.data.num_clean=0"], ["no trusted set"]),
        ([CONFIG, "--config.data.noise=x"], ["config.data.noise", "uniform_flip"]),
        ([CONFIG, "--config.data.noise_ratio=0.4"], ["noise_ratio: 0.4", "noise is none"]),
        ([CONFIG, "--config.method=s_model_conf"], ["config.confusion_from: empty"]),
        ([CONFIG, "--config.confusion_from=x", "--config.method=s_model_conf"], ["x/result.json"]),
        ([CONFIG, "--config.finetune_from=x"], ["config.finetune_from", "best, both, last"]),
        ([CONFIG, "--config.finetune_steps=0"], ["config.finetune_steps: 0"]),
        ([CONFIG, "--config.learning_rate=nan"], ["config.learning_rate: 'nan'"]),
        ([CONFIG, "--config.momentum=1.5"], ["config.momentum: '1.5'", "below 1"]),
        ([CONFIG, "--config.lr_drop_steps=(-5,)"], ["config.lr_drop_steps: (-5,)"]),
        ([CONFIG, "--config.lr_drop_steps=('a',)"], ["config.lr_drop_steps: ('a',)"]),
        ([CONFIG, "--config.lr_drop_steps=(True,)"], ["config.lr_drop_steps: (True,)"]),
        ([CONFIG, "--config.model.name=resnet", "--config.model.depth=9"], ["model.depth: 9"]),
        ([CONFIG, "--config.num_steps=0"], ["config.num_steps: 0"]),
        ([CONFIG, "--config.seed=-1"], ["config.seed: -1", "at least 0"]),
        ([CONFIG, "--config.data.imbalance_ratio=nan"], ["imbalance_ratio", "nan"]),
        ([CONFIG, "--config.data.classes=(4.0,9)"], ["config.data.classes"]),
        ([CONFIG, "--config.data.workers=-1"], ["config.data.workers: -1"]),
        ([CONFIG, "--config.eval_every_steps=150"], ["eval_every_steps: 150", "log_every_steps"]),
        ([CONFIG, "--config.steps_per_dispatch=-7"], ["config.steps_per_dispatch: -7"]),
        ([CONFIG, "--workdir=/dev/null/run"], ["--workdir /dev/null/run"]),
        ([CONFIG, "--process_id=1"], ["--coordinator_address: missing"]),
        ([CONFIG, "stray"], ["'stray'"]),
        ([CONFIG, "--speed=9"], ["'speed'"]),
    ],
    ids=lambda value: " ".join(value).replace(CONFIG, "").strip() if value else "none",
)
def test_a_mistake_is_one_line(arguments, parts, tmp_path):
    workdir = [] if any("workdir" in each for each in arguments) else [f"--workdir={tmp_path}/run"]
    assert_one_line(command(*MAIN, *arguments, *workdir), *parts)
    assert not (tmp_path / "run").exists()


def test_batch_size_and_devices(tmp_path):
    finished = command(*MAIN, CONFIG, f"--workdir={tmp_path}", JAX_NUM_CPU_DEVICES="3")
    assert_one_line(finished, "config.batch_size: 50", "3 devices")


def test_a_missing_data_set(tmp_path):
    mnist = "--config=configs/mnist_imbalance.py"
    finished = command(*MAIN, mnist, TFDS_DATA_DIR=str(tmp_path))
    assert_one_line(finished, f"mnist is not prepared in {tmp_path}")
    for arguments, parts in (
        (["svhn"], ["'svhn'", "cifar10, cifar100, mnist"]),
        ([], ["mnist cifar10 cifar100"]),
        (["cifar100", f"--data_dir={tmp_path}"], [f"cifar100 is not prepared in {tmp_path}"]),
    ):
        assert_one_line(command("scripts/prepare_data.py", *arguments), *parts)


def test_a_malformed_file_stops_before_anything_is_written(tmp_path):
    np.savez(tmp_path / "bad.npz", train_image=np.zeros((3, 4, 4)))
    own = ("--config=configs/own_data.py", f"--config.data.path={tmp_path / 'bad.npz'}")
    finished = command(*MAIN, *own, f"--workdir={tmp_path / 'run'}")
    assert_one_line(finished, "bad.npz", "train_label")
    assert not (tmp_path / "run").exists()


# --- Config files of the user ---------------------------------------------------------------------


def write_config(folder, line):
    path = folder / "config.py"
    path.write_text(
        "from reweight_jax.configs import mnist_imbalance\n\n\ndef get_config():\n"
        f"    config = mnist_imbalance.get_config('digits')\n    {line}\n    return config\n"
    )
    return f"--config={path}"


@pytest.mark.parametrize(
    "line, parts",
    [
        ("config.lerning_rate = 0.1", ["no field lerning_rate", "did you mean learning_rate?"]),
        ("config.data.num_claen = 3", ["no field num_claen", "did you mean num_clean?"]),
        ("config.learning_rate = 'high'", ["learning_rate"]),
        ("1 / 0", ["config.py, line 6: ZeroDivisionError: division by zero"]),
        ("import nosuchmodule", ["nosuchmodule"]),
        ("a = = 1", ["config.py"]),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line(line, parts, tmp_path):
    finished = command(*MAIN, write_config(tmp_path, line), f"--workdir={tmp_path}/run")
    assert_one_line(finished, "--config", *parts)


def test_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = pathlib.Path(configs.__file__).parent / "own_data.py"
    assert cli.find_config("configs/own_data.py:csv") == f"{packaged}:csv"
    assert cli.find_config("configs/none.py") == "configs/none.py"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "own_data.py").touch()  # a file here comes first
    assert cli.find_config("configs/own_data.py:csv") == "configs/own_data.py:csv"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.find_config("~/configs/own_data.py") == f"{tmp_path}/configs/own_data.py"


def test_a_model_of_the_users_own_from_a_folder_of_his_own(tmp_path):
    """The config imports a module beside it, and adds a model that predict finds again."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "network.py").write_text(
        "from flax import nnx\n\n\nclass Network(nnx.Module):\n"
        "    def __init__(self, num_outputs, rngs):\n"
        "        self.out = nnx.Linear(3, num_outputs, rngs=rngs)\n\n"
        "    def __call__(self, x):\n        return self.out(x)\n"
    )
    (tmp_path / "mine" / "config.py").write_text(
        "from flax import nnx\nfrom network import Network\n\n"
        "from reweight_jax.configs import own_data\nfrom reweight_jax.models import MODELS\n\n"
        "MODELS['mine'] = lambda config, num_outputs, dtype, on_cpu: Network(\n"
        "    num_outputs, nnx.Rngs(0)\n)\n\n\n"
        "def get_config():\n    config = own_data.get_config('npz')\n"
        "    config.name, config.model.name, config.num_steps = 'mine', 'mine', 40\n"
        "    config.batch_size = config.clean_batch_size = 20\n    config.learning_rate = 0.1\n"
        "    return config\n"
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    label = np.where(x[:, 0] > 0, "up", "down")
    arrays = {"train_input": x, "train_label": label, "clean_input": x[:40]}
    np.savez(tmp_path / "a.npz", clean_label=label[:40], **arrays)
    np.savez(tmp_path / "new.npz", input=x)
    config, workdir = f"--config={tmp_path}/mine/config.py", f"--workdir={tmp_path}/run"
    finished = command(*MAIN, config, workdir, f"--config.data.path={tmp_path}/a.npz")
    assert finished.returncode == 0, finished.stderr
    output = tmp_path / "predictions.csv"
    flags = (workdir, f"--input={tmp_path}/new.npz", f"--output={output}")
    assert_one_line(
        command("-m", "reweight_jax.predict", *flags), "its model mine is not in MODELS"
    )
    finished = command("-m", "reweight_jax.predict", *flags, config)
    assert finished.returncode == 0, finished.stderr
    rows = [line.split(",") for line in output.read_text().splitlines()]
    assert rows[0] == ["id", "prediction", "p(down)", "p(up)"]
    assert np.mean([row[1] for row in rows[1:]] == label) > 0.9


def test_an_interrupt_that_python_drops_comes_again():
    code = (
        "import gc, signal, time\n"
        "from reweight_jax import cli\n"
        "def callback(*_):\n"
        "    gc.callbacks.clear()\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "def main():\n"
        "    gc.callbacks.append(callback)\n"
        "    gc.collect()\n"
        "    for _ in range(600):\n"
        "        time.sleep(0.1)\n"  # one long sleep may begin after the signal has come
        "cli.run(main)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "\ninterrupted\n")


@pytest.mark.parametrize("resumes", [False, True])
def test_an_interrupt_is_one_line(resumes, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.startup, "prepare", lambda: None)  # of a process of its own
    monkeypatch.setattr(cli.app, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.run(None, resumes=resumes)
    assert ended.value.code == 130
    (line,) = capsys.readouterr().err.split("\n")[1:-1]
    assert line.startswith("interrupted") and resumes == line.endswith("from the last checkpoint")
