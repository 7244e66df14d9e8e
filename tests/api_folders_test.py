"""The folder of a fit: stopped, temporary, saved, loaded, of another version, damaged."""

import gc
import json
import logging
import pickle

import numpy as np
import pytest
from toy_fits import ONE, quick, toy
from whole_runs import train_undrawn

from reweight_jax import UserError, load
from reweight_jax.data.splits import load as load_data
from reweight_jax.records.metrics import MetricsWriter
from reweight_jax.records.workdir import identity
from reweight_jax.sealed import read_sealed, seal


def test_the_same_call_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    fields = dict.fromkeys(("log_every_steps", "eval_every_steps", "checkpoint_every_steps"), 2)
    whole = quick(num_steps=10, workdir=tmp_path / "whole", **fields)
    write = MetricsWriter.write

    def stop_at_7(writer, record):
        if record["step"] >= 7:
            raise KeyboardInterrupt
        write(writer, record)

    monkeypatch.setattr(MetricsWriter, "write", stop_at_7)
    with pytest.raises(KeyboardInterrupt):
        quick(num_steps=10, workdir=tmp_path / "run", **fields)
    with pytest.raises(UserError, match=r"no finished run \(result.json is missing"):
        load(tmp_path / "run")
    steps = []
    monkeypatch.setattr(
        MetricsWriter, "write", lambda *args: (steps.append(args[1]["step"]), write(*args))
    )
    run = quick(num_steps=10, workdir=tmp_path / "run", **fields)
    assert min(steps) == 8  # from the checkpoint of step 6
    x = toy()[0][0]
    np.testing.assert_array_equal(run.predict(x), whole.predict(x))
    for name, values in whole.examples.items():
        np.testing.assert_array_equal(run.examples[name], values, err_msg=name)
    with pytest.raises(UserError, match="holds a run with another config.seed"):
        quick(num_steps=10, seed=1, workdir=tmp_path / "run", **fields)


def full_disk(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_temporary_folder_lives_as_long_as_the_result(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = quick()
    folder, x = run.workdir, toy()[0][0]
    assert list(tmp_path.iterdir()) == [folder]
    expected, saved = run.predict(x), run.save(tmp_path / "saved")
    content = pickle.dumps(run)
    del run
    gc.collect()  # pytest makes the ResourceWarning of a folder that is left an error
    assert list(tmp_path.iterdir()) == [saved]
    np.testing.assert_array_equal(load(saved, devices=ONE).predict(x), expected)
    with pytest.raises(UserError, match="saved: the run cannot be saved there"):
        load(saved).save(saved)
    with monkeypatch.context() as full:
        full.setattr("shutil.copystat", full_disk)
        with pytest.raises(UserError, match=r"half: the run cannot be saved there .*No space left"):
            load(saved).save(tmp_path / "half")
    assert list(tmp_path.iterdir()) == [saved]
    unpickled = pickle.loads(content)
    np.testing.assert_array_equal(unpickled.predict(x), expected)
    with pytest.raises(UserError, match="checkpoints"):
        unpickled.predict(x, "best")


def test_a_run_that_fails_leaves_no_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UserError, match="not finite"):
        quick(optimizer="sgd", learning_rate=1e9, num_steps=20)
    assert not list(tmp_path.iterdir())


def test_loading_and_predicting_say_nothing(toy_run, caplog, capfd):
    with caplog.at_level(logging.WARNING):
        files = sorted(toy_run.workdir.rglob("*"))
        load(toy_run.workdir).predict(toy()[0][0])
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert sorted(toy_run.workdir.rglob("*")) == files


def test_a_run_of_the_command_line_can_be_loaded(digits_config, tmp_path):
    config = digits_config(**{"model.hidden": (16,), "num_steps": 30})
    result = train_undrawn(config, tmp_path, ONE)
    run = load(tmp_path)
    assert run.result == json.loads(json.dumps(result))
    test = load_data(config, config.seed).splits.test
    p = run.predict(test.inputs)
    accuracy = np.mean(p.argmax(1) == test.label)
    assert 0.5 < accuracy == pytest.approx(result["last"]["test_accuracy"])
    assert run.classes == tuple(config.data.classes)


def edit(folder, saved=None, **fields):
    saved = saved or read_sealed(folder / "config.json") | fields
    result = read_sealed(folder / "result.json") | {"run": identity(saved)}
    for name, content in (("config.json", saved), ("result.json", result)):
        (folder / name).write_text(json.dumps(seal(content)))


def test_fields_newer_than_a_run_have_their_defaults(toy_run, tmp_path):
    folder = toy_run.save(tmp_path / "run")
    saved = read_sealed(folder / "config.json")
    del saved["epsilon_over"], saved["data"]["workers"]
    edit(folder, saved)
    again = load(folder, devices=ONE)
    assert again.config.epsilon_over == ""
    assert again.config.learning_rate == 0.1
    x = toy()[0][0]
    np.testing.assert_array_equal(again.predict(x), toy_run.predict(x))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "result.json").unlink(), "no finished run (result.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: is damaged, or was edited"),
        (lambda f: edit(f, gone=1), "a run of another version"),
        (lambda f: cut(f / "examples.npz"), "examples.npz: is damaged, or was edited"),
        (lambda f: edit(f, task="mine"), "config.task: unknown name 'mine'; valid: classification"),
        (
            lambda f: edit(f, model={"name": "mine"}),
            "its model mine is not in MODELS; first load the config file that adds it",
        ),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_run_is_named(toy_run, tmp_path, damage, message):
    damage(toy_run.save(tmp_path / "run"))
    with pytest.raises(UserError) as error:
        load(tmp_path / "run")
    text = str(error.value).removeprefix(str(tmp_path / "run"))
    assert text.lstrip("/: ").startswith(message)
