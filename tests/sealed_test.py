"""Files of a run that carry a checksum: what is written is read, and nothing else is believed."""

import io
import json

import numpy as np
import pytest

from reweight_jax.errors import UserError
from reweight_jax.records.workdir import identity, read_run
from reweight_jax.sealed import (
    DamagedError,
    MissingError,
    digest,
    read_npz,
    read_sealed,
    seal,
    unseal,
)

CONTENT = {"a": [1, 0.1, None], "b": {"c": "\u00fc", "d": True}, "e": float("inf")}


def test_any_flipped_bit_is_noticed(tmp_path):
    text = json.dumps(seal(CONTENT)).encode()
    path = tmp_path / "a.json"
    path.write_bytes(text)
    assert read_sealed(path) == CONTENT
    for place in range(len(text)):
        damaged = bytearray(text)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert read_sealed(path) == CONTENT  # as for a blank that is another blank
        except DamagedError as error:
            assert "a.json: is damaged, or was edited (" in str(error)
            assert "\n" not in str(error)


def test_a_seal_says_what_comes_before():
    first = seal({"step": 1})
    second = seal({"step": 2}, after=first["checksum"])
    assert unseal(second, after=first["checksum"]) == {"step": 2}
    for after in ("", second["checksum"]):
        with pytest.raises(ValueError, match="its checksum is not that of its content"):
            unseal(second, after=after)


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"checksum": 1}', "[" * 100_000])
def test_what_was_never_sealed_is_one_line(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DamagedError, match="a.json: is damaged, or was edited"):
        read_sealed(tmp_path / "a.json")
    with pytest.raises(MissingError, match=r"none: no finished run \(a.json is missing\)"):
        read_sealed(tmp_path / "none" / "a.json")


def test_a_damaged_npz_is_not_believed(tmp_path):
    arrays = {"x": np.arange(5.0), "y": np.array(["a", "b"])}
    content, path = io.BytesIO(), tmp_path / "a.npz"
    np.savez(content, **arrays)
    content = content.getvalue()
    result = {"files": {"a.npz": digest(content)}}
    path.write_bytes(content)
    for key, array in read_npz(path, result).items():
        np.testing.assert_array_equal(array, arrays.pop(key))
    assert not arrays
    rng = np.random.default_rng(0)
    for place in rng.choice(len(content), 50, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="a.npz: is damaged, or was edited"):
            read_npz(path, result)
    for damaged in (b"", content[:-9], content + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="a.npz: is damaged, or was edited"):
            read_npz(path, result)


def test_a_config_beside_the_result_of_another_run_is_named(tmp_path):
    configs = [{"seed": seed, "num_steps": 4, "data": {"path": "a"}} for seed in (0, 1)]

    def write(config, result):
        (tmp_path / "config.json").write_text(json.dumps(seal(config)))
        (tmp_path / "result.json").write_text(json.dumps(seal({"run": identity(result)})))
        return read_run(tmp_path)

    assert write(configs[0], configs[0])[0] == configs[0]
    with pytest.raises(DamagedError, match="config.json and result.json are of two runs"):
        write(configs[0], configs[1])
    # Longer or with its data in another place, it is the same run.
    write(configs[0] | {"num_steps": 8, "data": {"path": "b"}}, configs[0])
