"""The label report of a finished run, from its folder alone."""

import json

import numpy as np
import pytest
from report_page import Page, examples_of

from reweight_jax.errors import UserError
from reweight_jax.records import judged
from reweight_jax.records.workdir import identity
from reweight_jax.sealed import seal


@pytest.fixture
def run_folder(tmp_path):
    examples, calibration = examples_of()
    np.savez(tmp_path / "examples.npz", **examples)
    np.savez(tmp_path / "calibration.npz", **calibration)
    inputs = {"input.t": np.array(["text"] * 400), "input.x": np.zeros((400, 3))}
    np.savez(tmp_path / "suspect_inputs.npz", row=np.arange(400), **inputs)
    facts = {"classes": ["a", "b", "c", "d"], "num_outputs": 4, "columns": []}
    labels = {"false_alarm_rate": 0.05, "false_discovery_rate": 0.1}
    config = {"name": "mine", "task": "classification", "labels": labels, "dataset": facts}
    config["data"] = {"corrections": "trusted/decisions.csv"}
    (tmp_path / "config.json").write_text(json.dumps(seal(config)))
    (tmp_path / "result.json").write_text(json.dumps(seal({})))
    return tmp_path


def test_a_finished_run_is_rendered_from_its_folder(run_folder):
    content, judgement = judged.render(run_folder)
    assert set(content) == {"suspects.csv", "label_report.html"}
    assert len(content["suspects.csv"].splitlines()) == 401
    parsed = Page(content["label_report.html"].decode())
    assert "--config.data.corrections=trusted/decisions.csv,decisions.csv" in parsed.text
    assert "false-discovery rate" in " ".join(parsed.text)
    assert [block["name"] for block in parsed.data["cards"][0]["inputs"]] == ["t", "x"]
    flagged = content["suspects.csv"].count(b",True,")
    assert flagged == judgement.summary["num_suspects"]
    other, _ = judged.render(run_folder, false_alarm_rate=0.3)
    assert "30% (false-alarm rate)" in " ".join(Page(other["label_report.html"].decode()).text)
    assert other["suspects.csv"].count(b",True,") > flagged
    # The decisions of one report are those of the other.
    assert Page(other["label_report.html"].decode()).data["key"] == parsed.data["key"]


def test_what_is_missing_or_damaged_is_named(run_folder):
    with pytest.raises(UserError, match="false_alarm_rate: 2"):
        judged.render(run_folder, false_alarm_rate=2.0)
    for name in ("calibration.npz", "suspect_inputs.npz"):  # as of a run that has none
        (run_folder / name).unlink()
    parsed = Page(judged.render(run_folder)[0]["label_report.html"].decode())
    assert "No calibration examples" in " ".join(parsed.text)
    assert len(parsed.data["cards"]) == 200
    (run_folder / "examples.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"examples\.npz: is damaged"):
        judged.render(run_folder)
    (run_folder / "examples.npz").unlink()
    with pytest.raises(UserError, match=r"no finished run \(examples\.npz is missing\)"):
        judged.render(run_folder)
    result = seal({"files": {"examples.npz": "0"}})
    (run_folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"examples\.npz: is damaged, .* \(it is missing\)"):
        judged.render(run_folder)
    (run_folder / "result.json").unlink()
    with pytest.raises(UserError, match=r"no finished run \(result\.json is missing\)"):
        judged.render(run_folder)


def test_files_of_two_runs_are_not_believed(run_folder):
    config = json.loads((run_folder / "config.json").read_text())
    del config["checksum"]
    result = seal({"run": identity(config)})
    (run_folder / "result.json").write_text(json.dumps(result))
    judged.judge_run(run_folder)
    config["dataset"]["classes"] = ["b", "a", "c", "d"]
    (run_folder / "config.json").write_text(json.dumps(seal(config)))
    with pytest.raises(UserError, match=r"config\.json and result\.json are of two runs"):
        judged.render(run_folder)
