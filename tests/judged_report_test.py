"""Suspects and reports of a finished run: in Python and from the command line."""

import csv

import numpy as np
import pytest
from commands import assert_one_line, command

from reweight_jax import UserError, fit, load
from reweight_jax.records import judged


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two classes that a line separates, a quarter of one called the other."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2)).astype(np.float32)
    right = np.where(x[:, 0] > 0, "right", "left")
    label = right.copy()
    label[:400][(right[:400] == "right") & (rng.random(400) < 0.25)] = "left"
    folder = tmp_path_factory.mktemp("report") / "run"
    fit(
        None, (x[:400], label[:400]), clean=(x[400:], right[400:]), workdir=folder,
        data={"num_calibration": 60}, num_steps=200, batch_size=40, learning_rate=0.01,
        model_fields={"hidden": (16,)}, progress=False, plots=False,
    )  # fmt: skip
    np.save(folder / "wrong.npy", label[:400] != right[:400])
    return folder


def test_the_suspects_are_the_wrong_labels(workdir):
    run, wrong = load(workdir), np.load(workdir / "wrong.npy")
    table = run.suspects()
    worst = table["index"][: wrong.sum()]
    assert wrong[worst].mean() > 0.85
    found = np.array(table["index"])[np.array(table["is_suspect"])]
    assert wrong[found].sum() > 0.9 * wrong.sum()
    assert run.result["labels"]["num_suspects"] == len(found)
    assert {table["suggested_label"][i] for i in range(10)} == {"right"}
    strict = run.suspects(false_alarm_rate=0.02)
    assert strict["index"] == table["index"]
    assert sum(strict["is_suspect"]) <= sum(table["is_suspect"])
    with pytest.raises(UserError, match="false_alarm_rate: 0 must be"):
        run.suspects(false_alarm_rate=0.0)


def test_the_report_is_a_file(workdir, tmp_path):
    path = load(workdir).report(tmp_path / "deep" / "page.html", false_discovery_rate=0.1)
    page = path.read_text()
    assert page.lstrip().lower().startswith("<!doctype html>") and "10%" in page
    assert (workdir / "label_report.html").read_text() != page
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        load(workdir).report(tmp_path / "file" / "page.html")


def test_what_a_run_writes_is_what_its_folder_renders(workdir):
    for name, content in judged.render(workdir)[0].items():
        assert (workdir / name).read_bytes() == content


def test_the_command_writes_both_at_another_rate(workdir, tmp_path):
    program = ("-m", "reweight_jax.report")
    flags = (f"--workdir={workdir}", f"--output={tmp_path}", "--false_alarm_rate=0.02")
    finished = command(*program, *flags)
    assert finished.returncode == 0, finished.stderr
    with (tmp_path / "suspects.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = load(workdir).suspects(false_alarm_rate=0.02)
    assert [row["is_suspect"] == "True" for row in rows] == list(expected["is_suspect"])
    assert f"{sum(expected['is_suspect'])} suspects of 400 labels" in finished.stdout
    assert_one_line(command(*program, "--workdir=/nowhere"), "no finished run")
    assert_one_line(command(*program), "--workdir is missing")
    assert_one_line(command(*program, flags[0], "--false_alarm_rate=2"), "false_alarm_rate: 2")
