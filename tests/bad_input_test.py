"""Every wrong input ends in one line, within seconds, and leaves nothing behind."""

import signal

import bad_cases
import pytest
from bad_inputs import contents, make_good, run_here

from reweight_jax import cli

CASES = bad_cases.cases()
FAST = CASES[
    ::8
]  # of each kind of value and of file; the others are slow only because of their number


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder of good files, and a finished run; all that commands need is imported then."""
    import sklearn.metrics  # noqa: F401

    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.startup, "prepare", lambda: None)  # of a process of its own
        make_good(folder)
    return folder


def check(case, good, folder, monkeypatch):
    monkeypatch.setattr(cli.startup, "prepare", lambda: None)
    monkeypatch.setenv("HOME", str(folder))
    before = contents(good)
    ended = run_here(case, good, folder)
    assert ended.code in (1, 2), ended
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended
    for word in case.words:
        assert word in ended.err
    assert not ended.out and not ended.written and contents(good) == before


@pytest.mark.parametrize("case", FAST, ids=lambda case: case.name[:60])
def test_one_line(case, good, tmp_path, monkeypatch):
    check(case, good, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [case for case in CASES if case not in FAST], ids=lambda case: case.name[:60]
)
def test_one_line_of_many(case, good, tmp_path, monkeypatch):
    check(case, good, tmp_path, monkeypatch)


def test_there_are_hundreds():
    assert len({case.name for case in CASES}) == len(CASES) > 450


def test_a_hang_is_found(good, tmp_path):
    """What the table relies on: a command that does not end is stopped."""

    def hang(folder, good):
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        signal.pause()

    with pytest.raises(TimeoutError):
        run_here(CASES[0]._replace(make=hang), good, tmp_path)
