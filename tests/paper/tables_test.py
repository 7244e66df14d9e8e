"""Tables from finished runs: what is averaged, what goes where, the paper's numbers beside it."""

import json
import math

import numpy as np
import pytest

from reweight_jax.configs import cifar_background_flip, cifar_uniform_flip, mnist_imbalance
from reweight_jax.errors import UserError
from reweight_jax.paper import figures, imbalance, noise, tables
from reweight_jax.sealed import seal

WEIGHTS = {"mean_auc": 0.95, "alignment_auc": 0.97, "margin_auc": 0.8}
WEIGHTS |= {"wrong_mass": 0.1, "zero_right": 0.2, "zero_wrong": 0.75}


def finished(folder, config, seed, weights=None, **accuracies):
    """Writes what the tables read of a finished run, into `folder`/<config>-<variant>."""
    config.seed = seed
    workdir = folder / f"{config.name}-{config.variant}" / "ratio" / config.method / f"seed{seed}"
    workdir.mkdir(parents=True)
    content = json.loads(config.to_json()) | {"dataset": {"num_train": 900 + seed}}
    (workdir / "config.json").write_text(json.dumps(seal(content)))
    result = {
        "method": config.method,
        "variant": config.variant,
        "num_steps": config.num_steps,
        "weights": weights or {},
        "steps_per_second": 10.0 + seed,
        "device": "1 x test",
    }
    for name, accuracy in accuracies.items():
        result[name] = {"test_accuracy": accuracy, "test_error": 1 - accuracy}
    (workdir / "result.json").write_text(json.dumps(seal(result)))
    return workdir


def noisy(variant="cifar10", **fields):
    config = cifar_background_flip.get_config(variant)
    config.update_from_flattened_dict(fields)
    return config


def imbalanced(**fields):
    config = mnist_imbalance.get_config("digits")
    config.update_from_flattened_dict({"method": "reweight"} | fields)
    return config


# --- Statistics -----------------------------------------------------------------------------------


def test_mean_and_interval():
    # Mean 4, standard deviation 2, n = 3: half width t(0.975, 2) * 2 / sqrt(3) = 4.3027 * 1.1547.
    mean, interval = tables.mean_and_interval([2.0, 4.0, 6.0])
    assert mean == 4.0 and interval == pytest.approx(4.302653 * 1.154701, rel=1e-5)
    assert math.isnan(tables.mean_and_interval([2.0])[1])


# --- What is averaged -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field, value",
    [
        ("learning_rate", 0.5),
        ("batch_size", 20),
        ("epsilon_over", "Dense|Conv_2"),
        ("epsilon_method", "lookahead"),
        ("lr_drop_steps", (7,)),
        ("eval_every_steps", 50),
        ("data.crop_padding", 3),
        ("data.path", "other.npz"),
        ("model.dropout", 0.1),
    ],
)
def test_a_row_does_not_average_different_configs(tmp_path, field, value):
    """Seeds 0 and 1 of one setting, seed 2 of another: a row for each, which says what differs."""
    for seed in range(3):
        config = imbalanced(**({field: value} if seed == 2 else {}))
        finished(tmp_path / "a", config, seed, last=[0.9, 0.8, 0.5][seed], best=0.9)
        config = noisy(method="reweight", **({field: value} if seed == 2 else {}))
        finished(tmp_path / "b", config, seed, last=[0.9, 0.8, 0.5][seed], best=0.9)
    rows = imbalance.collect(tmp_path / "a" / "mnist_imbalance-digits")
    found = {row["setting"]: (row["seeds"], row["test_error"]) for row in rows}
    before = {"a": imbalanced(), "b": noisy()}
    text = {}
    for folder, config in before.items():
        for name in field.split("."):
            config = config[name]
        text[folder] = f"{field}={list(config) if isinstance(config, tuple) else config}"
    other = f"{field}={list(value) if isinstance(value, tuple) else value}"
    assert found == {
        text["a"]: (2, pytest.approx(0.15)),
        other: (1, pytest.approx(0.5)),
    }
    labels = [line.split(" | ")[0] for line in imbalance.to_markdown(rows).splitlines()[2:]]
    expected = {f"| reweight ({setting})" for setting in found}
    assert set(labels) == {label.replace("Dense|", r"Dense\|") for label in expected}

    rows = [r for r in noise.collect(tmp_path / "b", "cifar_background_flip") if not r["choice"]]
    found = {row["setting"]: (row["seeds"], row["test_accuracy"]) for row in rows}
    assert found == {
        text["b"]: (2, pytest.approx(0.85)),
        other: (1, pytest.approx(0.5)),
    }


def test_seeds_and_what_changes_no_number_are_averaged(tmp_path):
    for seed, fields in enumerate(
        (
            {},
            {"log_every_steps": 25, "checkpoint_every_steps": 25, "steps_per_dispatch": 5},
            {"data.data_dir": "elsewhere", "data.resident": False, "data.workers": 2},
            {"confusion_from": f"runs/baseline/seed{3}"},
        )
    ):
        finished(tmp_path, imbalanced(**fields), seed, last=0.9, best=0.9)
    (row,) = imbalance.collect(tmp_path / "mnist_imbalance-digits")
    assert row["seeds"] == 4 and row["setting"] == ""
    assert row["steps_per_second"] == 11.5  # the median
    # That of several kinds of devices would be of none of them.
    other = [{"steps_per_second": 1.0, "device": f"1 x {name}"} for name in ("gpu", "cpu", "gpu")]
    found = tables.speed(other)
    assert math.isnan(found["steps_per_second"]) and found["device"] == "1 x cpu, 1 x gpu"


def test_fine_tuning_does_not_separate_scores_from_before_it(tmp_path):
    finished(tmp_path, noisy(method="baseline"), 0, last=0.6, best=0.6)
    for seed in (1, 2):
        fields = {"finetune_from": ["last", "both"][seed - 1], "finetune_steps": 100 * seed}
        config = noisy(method="baseline", **fields)
        finished(tmp_path, config, seed, last=0.6, best=0.6, finetuned_last=0.7)
    rows = noise.collect(tmp_path, "cifar_background_flip")
    assert [(r["choice"], r["setting"], r["seeds"]) for r in rows] == [
        ("", "", 3),
        ("+ES", "", 3),
        ("+FT", "finetune_steps=100", 1),
        ("+FT", "finetune_steps=200", 1),
    ]


def test_other_numbers_of_steps_and_runs_without_noise_are_not_averaged(tmp_path):
    """clean_only of two lengths, and a run without noise in the folder of a noisy config."""
    config = cifar_uniform_flip.get_config("cifar10")
    config.method = "clean_only"
    for seed, config.num_steps in enumerate((2_000, 10)):
        finished(tmp_path, config, seed, last=0.5, best=0.5)
    config.method, config.data.noise = "baseline", "none"
    finished(tmp_path, config, 0, last=0.9, best=0.9)
    rows = noise.collect(tmp_path, "cifar_uniform_flip")
    assert [(r["noise"], r["num_steps"], r["seeds"], r["choice"], r["setting"]) for r in rows] == [
        ("none", 10, 1, "", ""),
        ("none", 10, 1, "+ES", ""),
        ("uniform_flip", 10, 1, "", ""),
        ("uniform_flip", 2_000, 1, "", ""),
        ("uniform_flip", 10, 1, "+ES", ""),
        ("uniform_flip", 2_000, 1, "+ES", ""),
    ]
    assert "labels as they are: test accuracy, %\n\n| method |" in noise.to_markdown(rows)


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    workdir = finished(tmp_path, imbalanced(), 0, last=0.9, best=0.9)
    (workdir / name).write_text('{"half": ')
    with pytest.raises(UserError, match=f"seed0/{name}: is damaged.*; the command of its run"):
        imbalance.collect(tmp_path / "mnist_imbalance-digits")


# --- Figure 2 -------------------------------------------------------------------------------------


def test_the_table_of_imbalance(tmp_path):
    for seed, accuracy in enumerate([0.98, 0.96, 0.94]):
        config = imbalanced(**{"num_steps": 8_000, "data.imbalance_ratio": 200.0})
        finished(tmp_path, config, seed, last=accuracy, best=accuracy)
    folder = tmp_path / "mnist_imbalance-digits"
    rows = imbalance.collect(folder)
    assert tables.to_csv(rows).splitlines() == [
        "imbalance_ratio,method,num_steps,setting,seeds,test_error,ci95,best_test_error,best_ci95,"
        "steps_per_second,device",
        "200,reweight,8000,,3,0.04,0.0496828,0.04,0.0496828,11,1 x test",
    ]
    cell = "4.00 ± 4.97 (3 seeds, 8,000 steps)"
    assert imbalance.to_markdown(rows).splitlines()[2] == f"| reweight | {cell} |"
    for method in ("random", "mine", "baseline"):  # the paper's order; others come first
        for ratio in (10.0, 200.0):
            fields = {"method": method, "num_steps": 8_000, "data.imbalance_ratio": ratio}
            finished(tmp_path, imbalanced(**fields), int(ratio), last=0.9, best=0.9)
    rows = imbalance.collect(folder)
    lines = imbalance.to_markdown(rows).splitlines()
    assert lines[0] == "| method | 10:1 | 200:1 |"
    one = "10.00 (1 seed, 8,000 steps)"
    assert lines[2:] == [
        *(f"| {method} | {one} | {one} |" for method in ("mine", "baseline", "random")),
        f"| reweight |  | {cell} |",
    ]


def test_figure_2_has_a_line_for_each_method_and_setting(tmp_path, monkeypatch):
    for ratio, error in ((5.0, 0.1), (10.0, 0.2)):
        for rate, steps, seed in ((0.1, 400, 0), (0.2, 400, 1), (0.2, 200, 2)):
            fields = {"learning_rate": rate, "num_steps": steps, "data.imbalance_ratio": ratio}
            accuracy = 1 - error * (1 + seed)
            config = imbalanced(**fields)
            finished(tmp_path, config, int(10 * ratio) + seed, last=accuracy, best=accuracy)
    rows = imbalance.collect(tmp_path / "mnist_imbalance-digits")
    drawn = []
    monkeypatch.setattr(figures.plots, "save", lambda figure, path: drawn.append(figure))
    figures.draw_imbalance(rows, tmp_path / "figure.png")
    (axes,) = drawn[0].axes
    found = {bars.get_label(): bars.lines[0].get_xydata() for bars in axes.containers}
    expected = {  # runs of fewer steps are not comparable
        "reweight (learning_rate=0.1)": [(5, 10), (10, 20)],
        "reweight (learning_rate=0.2)": [(5, 20), (10, 40)],
    }
    assert found.keys() == expected.keys()
    for label, points in expected.items():
        np.testing.assert_allclose(found[label], points, rtol=0.03)  # moved aside a little
    monkeypatch.undo()
    figures.draw_imbalance(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


# --- Tables 1 and 2 -------------------------------------------------------------------------------


def test_the_table_of_noise(tmp_path):
    for seed, accuracy in enumerate((0.85, 0.87, 0.86)):
        finished(tmp_path, noisy(method="reweight"), seed, WEIGHTS, last=accuracy, best=0.8)
    scores = {"last": 0.6, "best": 0.65, "finetuned_last": 0.8, "finetuned_best": 0.85}
    finished(tmp_path, noisy(method="baseline"), 0, **scores)
    short = noisy("cifar10-short", method="baseline")
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
    # Methods that use only the noisy data first, then those that use clean data; ours last.
    names = [line.split(" | ")[0][2:] for line in lines if line.startswith(("| base", "| rew"))]
    assert names.index("baseline +ES, short schedule") < names.index("baseline +FT")
    assert names.index("baseline +ES+FT") < names.index("reweight")
    assert lines[-3].startswith("| method | AUC of the mean weight | AUC of the mean alignment |")
    label = "reweight (cifar10, 40% noise, resnet-32-1, 100 clean)"
    assert lines[-1] == f"| {label} | 0.950 | 0.970 | 0.800 | 10.0% | 20.0% | 75.0% |"
    header, *cells = tables.to_csv(rows).splitlines()
    assert header == (
        "noise,dataset,noise_ratio,imbalance_factor,model,num_clean,num_train,method,choice,"
        "num_steps,setting,seeds,test_accuracy,ci95,paper,paper_ci95,mean_auc,alignment_auc,"
        "margin_auc,wrong_mass,zero_right,zero_wrong,steps_per_second,device"
    )
    assert cells[1] == (  # one seed: no interval; no statistics of weights
        "background_flip,cifar10,0.4,0,resnet-32-1,100,0,baseline,+ES,80000,,1,0.65,,0.6496,"
        "0.0119,,,,,,,10,1 x test"
    )


def test_statistics_of_weights_that_a_method_lacks(tmp_path):
    """The baseline has no alignment; a run whose weights say nothing (clean_only) has no line."""
    weights = {name: value for name, value in WEIGHTS.items() if name != "alignment_auc"}
    finished(tmp_path, noisy(method="baseline"), 0, weights, last=0.85, best=0.8)
    finished(tmp_path, noisy(method="clean_only"), 0, last=0.85, best=0.8)
    text = noise.to_markdown(noise.collect(tmp_path, "cifar_background_flip"))
    assert text.splitlines()[-1].endswith("| 0.950 |  | 0.800 | 10.0% | 20.0% | 75.0% |")
    assert text.splitlines()[-2].startswith("|---")


def test_the_papers_numbers_are_only_beside_the_papers_setting(tmp_path):
    for field, value in (
        ("model.depth", 8),
        ("data.noise_ratio", 0.2),
        ("data.imbalance_factor", 10.0),
        ("data.num_clean", 100),
        ("data.num_train", 5_000),
    ):
        config = noisy("cifar100", method="reweight", **{field: value})
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


def test_the_papers_numbers_beside_those_of_another_data_set(tmp_path):
    for method in ("baseline", "mentornet"):
        finished(tmp_path, noisy("digits", method=method), 0, last=0.6, best=0.7)
    rows = noise.collect(tmp_path, "cifar_background_flip")
    text = noise.to_markdown(rows, beside=True)
    assert "| the paper's: cifar10, resnet-32-1, 100 clean |\n" in text
    assert "| baseline | 60.00 (1 x 1,000 steps) | 59.54 ± 2.16 |\n" in text
    assert "| baseline +ES | 70.00 (1 x 1,000 steps) | 64.96 ± 1.19 |\n" in text
    assert "| mentornet | 60.00 (1 x 1,000 steps) |  |\n" in text
    assert "the paper's" not in noise.to_markdown(rows)
