"""Grids of runs: which runs there are, which are finished, in which order they are run."""

import json

import jax
import pytest
from commands import assert_killed_alone

from reweight_jax.configs import cifar_background_flip
from reweight_jax.errors import UserError
from reweight_jax.paper import grid as grids
from reweight_jax.paper.grid import CLEAN_ONLY_STEPS, Run, grid, is_finished, run_all
from reweight_jax.sealed import seal
from reweight_jax.train import devices as on_devices

METHODS = ["s_model_conf", "baseline", "random", "clean_only"]


def short_noisy_config():
    config = cifar_background_flip.get_config("digits")
    config.num_steps, config.batch_size = 2, 20
    config.log_every_steps = config.eval_every_steps = config.checkpoint_every_steps = 2
    config.model.name, config.model.hidden = "mlp", (8,)  # no run here is about its network
    return config


def finish(run, **result):
    """Writes what says that a run is finished."""
    run.workdir.mkdir(parents=True)
    content = json.loads(run.config.to_json()) | {"dataset": {"num_train": 7}}
    (run.workdir / "config.json").write_text(json.dumps(seal(content)))
    scores = {"last": {"test_error": 0.5}, "num_steps": run.config.num_steps}
    (run.workdir / "result.json").write_text(json.dumps(seal(scores | result)))


@pytest.fixture
def started(monkeypatch):
    """Replaces training; -> the folders of the runs that were started."""
    workdirs = []

    def train(config, workdir, progress):
        workdirs.append(workdir)
        finish(Run(config, workdir))
        return {"last": {"test_error": 0.5}}

    monkeypatch.setattr(grids, "load_experiment", lambda config: config)
    monkeypatch.setattr(grids, "train", train)
    return workdirs


def test_a_run_of_before_a_field_was_new_is_finished(tmp_path):
    run = grid(short_noisy_config(), tmp_path, ["baseline"], [0.2], [3])[0]
    finish(run)
    assert is_finished(run)
    content = json.loads((run.workdir / "config.json").read_text())
    content.pop("checksum", None)
    del content["model"]["matmul_precision"]
    (run.workdir / "config.json").write_text(json.dumps(seal(content)))
    assert is_finished(run)
    run.config.model.matmul_precision = "highest"
    assert not is_finished(run)


def test_the_runs_of_a_grid(tmp_path):
    config = cifar_background_flip.get_config("cifar10")
    config.finetune_from = "both"
    runs = {run.config.method: run for run in grid(config, tmp_path, METHODS, [0.2], [3])}
    assert runs["baseline"].workdir == tmp_path / "ratio0.2" / "baseline" / "seed3"
    assert runs["s_model_conf"].config.confusion_from == str(runs["baseline"].workdir)
    assert [method for method, run in runs.items() if run.config.confusion_from] == METHODS[:1]
    assert runs["clean_only"].config.num_steps == CLEAN_ONLY_STEPS
    assert runs["clean_only"].config.finetune_from == "none"
    for run in runs.values():
        assert run.config.seed == run.config.trial == 3
        assert run.config.data.noise_ratio == 0.2
    assert config.seed == 0 and config.data.noise_ratio == 0.4
    config.confusion_from = "elsewhere/seed{seed}"
    paths = [
        run.config.confusion_from for run in grid(config, tmp_path, METHODS[:1], [0.2], [3, 4])
    ]
    assert paths == ["elsewhere/seed3", "elsewhere/seed4"]


def test_a_run_that_starts_from_another_is_run_after_it(started, tmp_path):
    runs = grid(short_noisy_config(), tmp_path, METHODS, [0.4], [0, 1, 0])  # a seed given twice
    run_all(runs)
    assert [(path.parent.name, path.name) for path in started] == [
        *((method, "seed0") for method in METHODS[1:]),
        *((method, "seed1") for method in METHODS[1:]),
        ("s_model_conf", "seed0"),
        ("s_model_conf", "seed1"),
    ]


def test_a_finished_run_is_not_run_again(started, tmp_path):
    config = short_noisy_config()
    runs = grid(config, tmp_path, METHODS, [0.4], [0])
    run_all(runs)
    started.clear()
    run_all(runs)
    assert started == []
    (runs[1].workdir / "result.json").unlink()
    unfinished = [run.workdir for run in runs if not is_finished(run)]
    assert unfinished == [runs[1].workdir]


@pytest.mark.parametrize(
    "fields, result, expected",
    [
        ({}, {}, True),
        ({"log_every_steps": 1, "steps_per_dispatch": 1}, {}, True),
        ({"data.workers": 3, "data.data_dir": "moved"}, {}, True),
        ({"momentum": 0.5}, {}, False),
        ({"seed": 1}, {}, False),
        ({"data.num_clean": 40}, {}, False),
        ({"num_steps": 4}, {}, False),
        ({"finetune_from": "last"}, {}, False),
        ({}, {"num_steps": 1}, False),  # that of a shorter run, which is now continued
    ],
)
def test_what_is_finished(tmp_path, fields, result, expected):
    before = Run(short_noisy_config(), tmp_path / "run")
    finish(before, **result)
    config = short_noisy_config()
    config.update_from_flattened_dict(fields)
    assert is_finished(Run(config, tmp_path / "run")) == expected


def test_fine_tuning_is_finished_if_its_scores_are_there(tmp_path):
    config = short_noisy_config()
    config.finetune_from = "both"
    run = Run(config, tmp_path / "run")
    finish(run, finetuned_last={})
    assert not is_finished(run)
    phases = ("last", "finetuned_last", "finetuned_best")
    (tmp_path / "run" / "result.json").write_text(
        json.dumps(seal({"num_steps": 2} | dict.fromkeys(phases, {})))
    )
    assert is_finished(run)


@pytest.mark.parametrize(("settled", "expected"), [(True, True), (False, False)])
def test_a_run_that_did_not_settle_is_finished_by_its_judge(settled, expected, tmp_path):
    config = short_noisy_config()
    config.settle_at, config.judge_for = 0.5, 0.5
    without, judged = (Run(config, tmp_path / name) for name in ("without", "judged"))
    finish(without, unsettled={}, last={}, settled=settled)
    assert is_finished(without) == expected
    finish(judged, unsettled={}, last={}, judge={}, settled=settled)
    assert is_finished(judged)


def test_asking_what_is_finished_writes_nothing(tmp_path):
    run = Run(short_noisy_config(), tmp_path / "run" / "seed0")
    assert not is_finished(run)
    assert list(tmp_path.iterdir()) == []
    finish(run)
    (run.workdir / "result.json").write_text('{"num_steps": ')  # a damaged file
    assert not is_finished(run)
    (run.workdir / "config.json").unlink()
    assert not is_finished(run)
    assert [path.name for path in run.workdir.iterdir()] == ["result.json"]


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_worker():
    code = (
        "import os, signal, threading, time\n"
        "from reweight_jax.paper.grid import side_by_side\n"
        "def kill():\n"
        "    time.sleep(3)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=kill).start()\n"
        "    list(side_by_side(time.sleep, [(300,), (300,)], 2))\n"
    )
    assert_killed_alone(code)


# --- Whole runs -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_goes_on_and_names_the_run_of_another_config(digits_config, tmp_path, monkeypatch):
    monkeypatch.setattr(on_devices, "all_devices", lambda: jax.devices()[:1])
    config = digits_config(num_steps=2)
    arguments = (tmp_path, ["baseline"], [10.0], [0])
    (run,) = grid(config, *arguments)
    run_all([run])
    path = run.workdir / "result.json"
    before = json.loads(path.read_text())
    assert is_finished(run)
    path.unlink()
    run_all([run])
    assert json.loads(path.read_text())["last"] == before["last"]
    config.momentum = 0.5
    with pytest.raises(UserError, match="ratio10/baseline/seed0: .*holds .* config.momentum"):
        run_all(grid(config, *arguments))


@pytest.mark.slow
def test_workers_run_what_depends_on_others_last(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # two steps do not make up for them
    runs = grid(short_noisy_config(), tmp_path, METHODS[:3], [0.4], [0])
    run_all(runs, workers=2)
    assert all(is_finished(run) for run in runs)
