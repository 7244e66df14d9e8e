"""Tables 1 and 2 from finished runs: what goes where, and the paper's numbers beside it."""

import json

import pytest

from configs import cifar_background_flip, cifar_uniform_flip
from reweight_jax.paper import noise, tables
from reweight_jax.paper.grid import CLEAN_ONLY_STEPS, grid, run_all


def finished(folder, config, seed, before=False, **accuracies):
    """Writes what the tables read of a finished run; or of one `before` weights had means."""
    workdir = folder / f"{config.name}-{config.variant}" / "ratio0.4" / config.method
    workdir /= f"seed{seed}"
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(config.to_json())
    statistics = {"auc": 0.9, "wrong_mass": 0.1, "zero_right": 0.2, "zero_wrong": 0.8}
    if not before:
        statistics |= {"mean_auc": 0.95, "alignment_auc": 0.97}
    result = {
        "method": config.method,
        "variant": config.variant,
        "num_steps": config.num_steps,
        "weights": statistics if config.method == "reweight" else {},
        "steps_per_second": 10.0,
        "device": "1 x test",
    }
    result |= {name: {"test_accuracy": accuracy} for name, accuracy in accuracies.items()}
    (workdir / "result.json").write_text(json.dumps(result))


def test_rows_of_a_table(tmp_path):
    config = cifar_background_flip.get_config("cifar10")
    for seed, accuracy in enumerate((0.85, 0.87, 0.86)):
        config.method = "reweight"
        finished(tmp_path, config, seed, last=accuracy, best=0.8)
    config.method = "baseline"
    finished(tmp_path, config, 0, last=0.6, best=0.65, finetuned_last=0.8, finetuned_best=0.85)
    short = cifar_background_flip.get_config("cifar10-short")
    short.method = "baseline"
    finished(tmp_path, short, 0, last=0.66, best=0.67, finetuned_last=0.81)
    rows = noise.collect(tmp_path, "cifar_background_flip")
    found = {(r["method"], r["choice"]): (r["test_accuracy"], r["seeds"]) for r in rows}
    assert found == {
        ("baseline", ""): (0.6, 1),
        ("baseline", "+ES"): (0.65, 1),
        ("baseline", "+ES, short schedule"): (0.66, 1),
        ("baseline", "+FT"): (0.8, 1),
        ("baseline", "+ES+FT"): (0.85, 1),
        ("baseline", "+ES+FT, short schedule"): (0.81, 1),
        ("reweight", ""): (pytest.approx(0.86), 3),
        ("reweight", "+ES"): (pytest.approx(0.8), 3),
    }
    lines = noise.to_markdown(rows).splitlines()
    # t(0.975, 2) * 0.01 / sqrt(3) = 4.3027 * 0.005774
    assert "| reweight | 86.00 ± 2.48 (3 x 80,000 steps) | 86.73 ± 0.48 |" in lines
    assert "| baseline +ES | 65.00 (1 x 80,000 steps) | 64.96 ± 1.19 |" in lines
    assert "| baseline +ES, short schedule | 66.00 (1 x 60,000 steps) | 64.96 ± 1.19 |" in lines
    assert "| reweight +ES | 80.00 ± 0.00 (3 x 80,000 steps) |  |" in lines
    # Noisy data alone first, then what uses clean data; ours last.
    names = [line.split(" | ")[0][2:] for line in lines if line.startswith(("| base", "| rew"))]
    assert names.index("baseline +ES, short schedule") < names.index("baseline +FT")
    assert names.index("baseline +ES+FT") < names.index("reweight")
    assert "| 0.900 | 0.950 | 0.970 | 10.0% | 20.0% | 80.0% |" in lines[-1]
    header, *cells = tables.to_csv(rows).splitlines()
    assert header.startswith(
        "noise,dataset,noise_ratio,imbalance_factor,model,num_clean,num_train,method,choice,num_steps,seeds,"
    )
    baseline = next(line for line in cells if ",baseline,+ES," in line)
    assert baseline.startswith(
        "background_flip,cifar10,0.4,0,resnet-32-1,100,0,baseline,+ES,80000,1,0.65,"
    )
    assert ",0.6496,0.0119,,,,,,,10,1 x test" in baseline  # one seed: no interval; no weights


def test_statistics_of_weights_that_some_runs_lack(tmp_path):
    config = cifar_background_flip.get_config("cifar10")
    config.method = "reweight"
    finished(tmp_path, config, 0, last=0.85, best=0.8)
    finished(tmp_path, config, 1, before=True, last=0.85, best=0.8)
    text = noise.to_markdown(noise.collect(tmp_path, "cifar_background_flip"))
    assert text.splitlines()[-1].endswith("| 0.900 |  |  | 10.0% | 20.0% | 80.0% |")


def test_the_papers_numbers_are_only_beside_the_papers_setting(tmp_path):
    for field, value in (
        ("model.depth", 8),
        ("data.noise_ratio", 0.2),
        ("data.imbalance_factor", 10.0),
        ("data.num_clean", 100),
        ("data.num_train", 5_000),
    ):
        config = cifar_background_flip.get_config("cifar100")
        config.update_from_flattened_dict({field: value, "method": "reweight"})
        finished(tmp_path / field, config, 0, last=0.5, best=0.5)
        rows = noise.collect(tmp_path / field, "cifar_background_flip")
        assert "paper" not in noise.to_markdown(rows)
    config = cifar_uniform_flip.get_config("cifar100")
    config.method = "reweight"
    finished(tmp_path, config, 0, last=0.5, best=0.5)
    text = noise.to_markdown(noise.collect(tmp_path, "cifar_uniform_flip"))
    assert "| 50.00 (1 x 60,000 steps) | 61.34 ± 2.06 |" in text


def test_columns_are_data_sets(tmp_path):
    for variant in ("cifar10", "cifar100"):
        config = cifar_uniform_flip.get_config(variant)
        config.method = "baseline"
        finished(tmp_path, config, 0, last=0.5, best=0.5)
    text = noise.to_markdown(noise.collect(tmp_path, "cifar_uniform_flip"))
    assert "67.97 ± 0.62" in text and "50.66 ± 0.24" in text
    assert text.splitlines()[2].count("|") == 6


def test_a_grid_of_noise(tmp_path):
    config = cifar_background_flip.get_config("cifar10")
    config.finetune_from = "both"
    methods = ["baseline", "s_model_conf", "clean_only"]
    runs = {run.config.method: run for run in grid(config, tmp_path, methods, [0.2], [3])}
    assert runs["baseline"].workdir == tmp_path / "ratio0.2" / "baseline" / "seed3"
    assert runs["s_model_conf"].config.confusion_from == str(runs["baseline"].workdir)
    assert runs["clean_only"].config.num_steps == CLEAN_ONLY_STEPS
    assert runs["clean_only"].config.finetune_from == "none"
    for run in runs.values():
        assert run.config.seed == run.config.trial == 3
        assert run.config.data.noise_ratio == 0.2
    assert config.seed == 0 and config.data.noise_ratio == 0.4


def test_workers_run_what_depends_on_others_last(tmp_path):
    config = cifar_background_flip.get_config("digits")
    config.num_steps, config.batch_size = 2, 20
    config.log_every_steps = config.eval_every_steps = 2
    config.checkpoint_every_steps = 2
    runs = grid(config, tmp_path, ["s_model_conf", "baseline", "random"], [0.4], [0])
    run_all(runs, workers=2)
    assert all((run.workdir / "result.json").exists() for run in runs)


def test_runs_that_differ_are_not_averaged(tmp_path):
    """clean_only of other lengths, and a run without noise in the folder of a noisy config."""
    config = cifar_uniform_flip.get_config("cifar10")
    config.method = "clean_only"
    for seed, config.num_steps in enumerate((2_000, 10)):
        finished(tmp_path, config, seed, last=0.5, best=0.5)
    config.method, config.data.noise = "baseline", "none"
    finished(tmp_path, config, 0, last=0.9, best=0.9)
    rows = noise.collect(tmp_path, "cifar_uniform_flip")
    assert [(r["num_steps"], r["seeds"], r["choice"]) for r in rows] == [
        (10, 1, ""),
        (2_000, 1, ""),
        (10, 1, "+ES"),
        (2_000, 1, "+ES"),
    ]


def test_a_folder_is_run_once(tmp_path):
    config = cifar_background_flip.get_config("digits")
    config.num_steps, config.batch_size = 2, 20
    config.log_every_steps = config.eval_every_steps = config.checkpoint_every_steps = 2
    run_all(grid(config, tmp_path, ["baseline"], [0.4], [0, 0]), workers=2)
    assert (tmp_path / "ratio0.4" / "baseline" / "seed0" / "result.json").exists()
