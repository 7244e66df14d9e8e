"""scripts/sweep.py: its answers to mistakes, and the tables of a sweep in this process."""

import pathlib
import sys

import pytest
from absl import flags

from reweight_jax.configs import cifar_background_flip
from reweight_jax.errors import UserError
from reweight_jax.paper import grid as grids
from reweight_jax.sealed import seal

# Of absl and ml_collections, which load the config file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
FOLDER = pathlib.Path(cifar_background_flip.__file__).parent
CONFIGS = (f"{FOLDER}/mnist_imbalance.py:digits", f"{FOLDER}/cifar_background_flip.py:digits")


@pytest.fixture
def sweep(load_script, tmp_path, monkeypatch):
    """(arguments) -> the lines printed, with nothing trained: every test error is 25%."""
    module = load_script("sweep")

    def train(config, workdir, progress):
        scores = {"test_error": 0.25, "test_accuracy": 0.75}
        result = {"method": config.method, "variant": config.variant, "weights": {}}
        result |= {"num_steps": config.num_steps, "steps_per_second": 1.0, "device": "1 x test"}
        result |= {"last": scores, "best": scores}
        if config.finetune_from == "both":
            result |= {"finetuned_last": scores, "finetuned_best": scores}
        workdir.mkdir(parents=True)
        (workdir / "config.json").write_text(
            grids.json.dumps(seal(grids.json.loads(config.to_json())))
        )
        (workdir / "result.json").write_text(grids.json.dumps(seal(result)))
        return result

    monkeypatch.setattr(grids, "load_experiment", lambda config: config)
    monkeypatch.setattr(grids, "train", train)

    def run(*arguments):
        folders = [f"--workdir={tmp_path}/runs", f"--results={tmp_path}/results"]
        argv = ["sweep.py", *folders, *arguments]
        monkeypatch.setattr(sys, "argv", argv)  # config_flags reads overrides from it
        flags.FLAGS.unparse_flags()
        for name in ("also", "methods", "ratios", "seeds", "finetune_from", "workers"):
            flags.FLAGS[name].unparse()
        flags.FLAGS(argv)
        module.main()

    yield run
    flags.FLAGS.unparse_flags()


def test_a_sweep_of_two_configs(sweep, tmp_path):
    arguments = ["--seeds=0,1", "--methods=baseline,reweight", "--config.momentum=0.5"]
    sweep(f"--config={CONFIGS[0]}", f"--also={CONFIGS[1]}", *arguments)
    runs = sorted(path.parent for path in (tmp_path / "runs").glob("*/*/*/*/result.json"))
    # Two methods and two seeds; the ratios that digits allow, and the noise ratio of the config.
    assert len(runs) == 2 * 2 * (3 + 1)
    assert {run.parts[-4] for run in runs} == {
        "mnist_imbalance-digits",
        "cifar_background_flip-digits",
    }
    for run in runs:
        assert '"momentum": 0.5' in (run / "config.json").read_text()
    files = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert files == [
        *(f"cifar_background_flip.{kind}" for kind in ("csv", "md")),
        *(f"mnist_imbalance-digits.{kind}" for kind in ("csv", "md", "png")),
    ]
    text = (tmp_path / "results" / "mnist_imbalance-digits.md").read_text()
    cells = " | ".join(["25.00 ± 0.00 (2 seeds, 400 steps)"] * 3)
    assert text.splitlines() == [
        "| method | 5:1 | 10:1 | 20:1 |",
        "|---" * 4 + "|",
        f"| baseline | {cells} |",
        f"| reweight | {cells} |",
    ]
    text = (tmp_path / "results" / "cifar_background_flip.md").read_text()
    num_steps = cifar_background_flip.get_config("digits").num_steps
    for choice in ("", " +ES", " +FT", " +ES+FT"):  # fine-tuning is the default with noise
        assert f"| reweight{choice} | 75.00 ± 0.00 (2 x {num_steps:,} steps) |" in text


def test_the_ratios_and_the_fine_tuning_of_the_flags(sweep, tmp_path):
    arguments = ["--seeds=0", "--methods=baseline", "--ratios=0.2,0.3", "--finetune_from=none"]
    sweep(f"--config={CONFIGS[1]}", *arguments)
    runs = {path.parts[-4] for path in (tmp_path / "runs").glob("*/*/*/*/result.json")}
    assert runs == {"ratio0.2", "ratio0.3"}
    assert "+FT" not in (tmp_path / "results" / "cifar_background_flip.md").read_text()


def test_own_data_are_a_table_of_methods(sweep, tmp_path, capsys):
    sweep(f"--config={FOLDER}/own_data.py:npz", "--methods=reweight,baseline", "--seeds=0,1")
    assert len(list(tmp_path.glob("runs/own_data-npz/ratio0/*/seed[01]"))) == 4
    out = capsys.readouterr().out
    assert "labels as they are: test accuracy, %\n\n| method | npz, auto |" in out
    assert "+ES" in out and "+FT" not in out
    assert "75.00" in (tmp_path / "results" / "own_data.md").read_text()


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--methods=baseline,magic", "--methods: unknown name 'magic'; valid: baseline, "),
        ("--ratios=ten", "--ratios takes numbers and --seeds integers .*'ten'"),
        ("--seeds=", "--seeds: name at least one"),
        (f"--also={CONFIGS[1]} --ratios=0.2,2", "config.data.noise_ratio: '2'; must be in 0..1"),
        ("--also=none.py", "--also=none.py: .*No such file"),
        (f"--also={CONFIGS[0]}-svhn", "--also=.*no variant 'digits-svhn'; valid: mnist"),
    ],
)
def test_a_mistake_is_one_line(sweep, argument, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        sweep(f"--config={CONFIGS[0]}", *argument.split())
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("runs/*"))
