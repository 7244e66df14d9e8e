"""Many seeds in one program: each is the run of it alone."""

import json

import chex
import jax
import numpy as np
import pytest
from whole_runs import saved, without_times

from configs import cifar_background_flip
from reweight_jax import train
from reweight_jax.data.splits import Examples, check_sizes, stack
from reweight_jax.errors import UserError
from reweight_jax.paper.grid import grid, run_all
from reweight_jax.records.report import read_metrics
from reweight_jax.train import devices as parallel
from reweight_jax.train.loop import train_and_evaluate

DEVICES = jax.local_devices()
SEEDS = (3, 4, 5)
LAST = 8  # six steps and two of fine-tuning
RUN = {"finetune_from": "best", "finetune_steps": 2, "num_steps": 6, "checkpoint_every_steps": 2}
RUN["clean_gradient_every"] = 3  # a run resumed at step 4 goes on with that of step 3


@pytest.fixture(scope="module")
def alone(digits_config, tmp_path_factory):
    """The folders of single runs."""
    folders = []
    for seed in SEEDS:
        folders.append(tmp_path_factory.mktemp(f"alone{seed}"))
        config = digits_config(method="reweight", seed=seed, **RUN)
        train_and_evaluate(config, folders[-1], DEVICES[:1])
    return folders


def check_alike(actual, expected):
    """Records with names and numbers, these to rounding."""
    for mine, own in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert mine == (own if isinstance(own, str) else pytest.approx(own, rel=1e-3, abs=1e-6))


def check_like_alone(alone, workdir, summary, rtol):
    *arrays, together = (
        (tree := saved(folder, LAST)) | {"key": jax.random.key_data(tree["key"])}
        for folder in (*alone, workdir)
    )
    for i, own in enumerate(arrays):
        mine = jax.tree.map(lambda leaf: leaf[i], together)  # noqa: B023
        chex.assert_trees_all_close(mine, own, rtol=rtol, atol=rtol)
    errors = []
    for seed, folder in zip(SEEDS, alone, strict=True):
        own = workdir / f"seed{seed}"
        assert (own / "plots" / "weights.png").exists()
        expected, actual = (json.loads((f / "result.json").read_text()) for f in (folder, own))
        assert actual.pop("device")[1:] == expected.pop("device")[1:]  # on as many as it had
        check_alike(without_times(actual), without_times(expected))
        errors.append(expected["last"]["test_error"])
        for one, other in zip(read_metrics(folder), read_metrics(own), strict=True):
            check_alike(without_times(other), without_times(one))
        assert json.loads((own / "config.json").read_text())["seed"] == seed
    assert summary["last"]["test_error"] == pytest.approx(np.mean(errors))
    half = 4.302653 * np.std(errors, ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
    assert summary["intervals"]["last"]["test_error"] == pytest.approx(half, rel=1e-5)
    assert summary["seeds"] == list(SEEDS)
    assert json.loads((workdir / "result.json").read_text()) == summary


def test_three_seeds_stopped_and_resumed_are_three_runs(
    alone, digits_config, tmp_path, monkeypatch
):
    config = digits_config(method="reweight", seed=3, num_seeds=3, **RUN)

    def stop_at_four(state, seeds):
        assert seeds == list(SEEDS)
        if state.step.tolist() == [4, 4, 4]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train, "check_finite", stop_at_four)
        train_and_evaluate(config, tmp_path, DEVICES[:1])
    summary = train_and_evaluate(config, tmp_path, DEVICES[:1])
    check_like_alone(alone, tmp_path, summary, rtol=1e-5)


@pytest.mark.parametrize("num_devices", [1, 2])
def test_vmapped_as_on_accelerators(alone, digits_config, tmp_path, monkeypatch, num_devices):
    monkeypatch.setattr(parallel, "_is_cpu", lambda device: False)
    config = digits_config(method="reweight", seed=3, num_seeds=3, **RUN)
    summary = train_and_evaluate(config, tmp_path, DEVICES[:num_devices])
    check_like_alone(alone, tmp_path, summary, rtol=1e-4)


def test_sets_of_other_sizes_and_streams_are_refused(digits_config, tmp_path):
    def examples(size):
        return Examples(np.zeros((size, 2, 2, 1), np.uint8), *[np.zeros(size, np.int32)] * 3)

    chex.assert_shape(stack([examples(3), examples(3)]).image, (2, 3, 2, 2, 1))
    with pytest.raises(UserError, match=r"config.num_seeds: .* sets of \[3, 4\] images"):
        check_sizes([examples(4), examples(3)])
    config = digits_config(num_seeds=2)
    config.data.resident = False
    with pytest.raises(UserError, match="config.num_seeds: 2; a set that is streamed"):
        train_and_evaluate(config, tmp_path)


def test_a_grid_of_seeds_together(tmp_path):
    config = cifar_background_flip.get_config("digits")
    config.num_steps, config.batch_size = 2, 20
    config.log_every_steps = config.eval_every_steps = config.checkpoint_every_steps = 2
    arguments = (config, tmp_path, ["s_model_conf", "baseline"], [0.4], [0, 1])
    together, alone = grid(*arguments, together=True), grid(*arguments)
    run_all(together)
    paths = [run.workdir / "result.json" for run in alone]
    times = [path.stat().st_mtime_ns for path in paths]
    run_all(alone)  # finished, so left alone
    assert times == [path.stat().st_mtime_ns for path in paths]
    with pytest.raises(UserError, match="--together: seeds .0, 2.; they must follow each other"):
        grid(config, tmp_path, ["baseline"], [0.4], [0, 2], together=True)
