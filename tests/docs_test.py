"""The README and docs/: their programs run, their commands parse, and their links lead somewhere.

The blocks of a page are taken in order, in an empty folder that is also the home folder. Python
blocks run in one namespace. A comment on the line before a block says what else it is:

    <!-- file: NAME -->        the block is a file, which is written
    <!-- not run: REASON -->   the block is only read

The flags and config fields of each command are parsed; the commands of some pages are run.
"""

import configparser
import importlib.util
import pathlib
import re
import shlex
import subprocess
import sys
import sysconfig
from typing import NamedTuple

import jax
import pytest
from absl import flags
from commands import command
from ml_collections import config_flags

from reweight_jax import cli
from reweight_jax.methods import METHODS
from reweight_jax.models import MODELS
from reweight_jax.tasks import TASKS
from reweight_jax.train import devices
from reweight_jax.train.config import check_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("own_data", "tasks_and_models")  # pages of which a slow test runs everything
SLOW = ("algorithm", "labels", "scale")  # pages whose Python takes a while
BLOCK = re.compile(
    r"(?:^<!-- (?P<kind>file|not run): (?P<note>[^>]+?) -->\n+)?"
    r"^```(?P<language>[\w{}-]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
PATH_FIELDS = ("data.path", "data.clean_path", "data.calibration_path", "data.test_path")
OTHER_COMMANDS = ("git", "bash", "ruff", "sphinx-build", "pre-commit")


class Block(NamedTuple):
    """One fenced block of a page."""

    language: str
    text: str
    kind: str | None
    note: str | None
    line: int


def blocks(page: pathlib.Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(b["language"], b["text"], b["kind"], b["note"], text.count("\n", 0, b.start("text")))
        for b in BLOCK.finditer(text)
    ]


def commands(text: str) -> list[list[str]]:
    """The simple commands of a shell block, as words."""
    result = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", ";")), len(words))
            if words[:end]:
                result.append(words[:end])
            words = words[end + 1 :]
    return result


def source_of(words: list[str]) -> tuple[pathlib.Path, list[str]]:
    """(the file that `python ...` runs, its arguments)."""
    if words[1] == "-m":
        spec = importlib.util.find_spec(words[2])
        assert spec, f"no module {words[2]}"
        return pathlib.Path(spec.origin), words[3:]
    assert (ROOT / words[1]).is_file(), f"no file {words[1]}"
    return ROOT / words[1], words[2:]


def check_python(words: list[str]) -> None:
    """Parses the flags of a program of ours, and the fields of its config."""
    source, arguments = source_of(words)
    installed = pathlib.Path(sysconfig.get_path("purelib"))  # may be in the checkout's .venv
    if ROOT not in source.parents or installed in source.parents:  # pytest and the like
        return
    text = source.read_text()
    defined = set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", text))
    defined |= {"config"} if "cli.define_config(" in text else set()
    configs = []
    for word in arguments:
        if not word.startswith("-"):
            continue
        name, _, value = word.lstrip("-").partition("=")
        flag = name.partition(".")[0]
        assert flag in defined or flag.removeprefix("no") in defined, f"no flag --{name}"
        if name in ("config", "also"):
            configs += value.split(",")
        if name == "input":
            assert pathlib.Path(value).expanduser().exists(), f"no file {value}"
    fields = [word for word in arguments if word.startswith("--config.")]
    for config in configs:
        check_fields(config, fields)


def check_fields(config: str, fields: list[str]) -> None:
    arguments = ["program", f"--config={cli.find_config(config)}", *fields]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=arguments, lock_config=True
    )
    values(arguments)
    parsed = holder.value
    check_config(parsed)
    for field in PATH_FIELDS:
        path = parsed[field.split(".")[0]][field.split(".")[1]]
        assert not path or pathlib.Path(path).expanduser().exists(), f"no file {path}"


def check_command(words: list[str]) -> None:
    while "=" in words[0]:  # an environment variable
        words = words[1:]
    if words[0] == "python":
        check_python(words)
    elif words[0] == "pip":
        extras = configparser.ConfigParser(interpolation=None)
        extras.read(ROOT / "setup.cfg")
        for name in re.findall(r"\[([\w,]+)\]", " ".join(words)):
            assert set(name.split(",")) <= set(extras["options.extras_require"]), name
    else:
        assert words[0] in (*OTHER_COMMANDS, "cd", "source"), f"unknown command {words[0]}"
        if words[0] == "bash":
            assert (ROOT / words[1]).exists(), words[1]


def set_up(monkeypatch, folder: pathlib.Path) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    # A reader's computer is one device; four would compile four times as long.
    monkeypatch.setattr(devices, "all_devices", lambda: jax.devices()[:1])


def run_python(page: pathlib.Path, block: Block, namespace: dict) -> None:
    # The blank lines make the lines of a traceback those of the page.
    exec(compile("\n" * block.line + block.text, str(page), "exec"), namespace)


def write_file(block: Block) -> None:
    path = pathlib.Path(block.note).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text)


@pytest.fixture(autouse=True)
def unchanged_tables():
    """What a page adds to the tables of names is taken out again."""
    before = [(table, dict(table)) for table in tables()]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


def tables():
    from reweight_jax.data.sources import DATASETS
    from reweight_jax.data.targets import ENCODERS

    return METHODS, MODELS, TASKS, DATASETS, ENCODERS


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=pytest.mark.slow if page.stem in SLOW else ())
        for page in PAGES
        if page.stem not in RUN
    ],
)
def test_blocks(page, monkeypatch, tmp_path):
    set_up(monkeypatch, tmp_path)
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if block.kind == "not run":
            continue
        if block.kind == "file":
            write_file(block)
        elif block.language == "python":
            run_python(page, block, namespace)
        elif block.language == "bash":
            for words in commands(block.text):
                try:
                    check_command(words)
                except Exception as error:
                    raise AssertionError(f"{page.name}: {shlex.join(words)}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_commands(name, monkeypatch, tmp_path):
    """As a reader would: the page's Python and its commands, one after the other."""
    set_up(monkeypatch, tmp_path)
    page, namespace = ROOT / "docs" / f"{name}.md", {"__name__": "__main__"}
    for block in blocks(page):
        if block.kind == "file":
            write_file(block)
        elif block.kind is None and block.language == "python":
            run_python(page, block, namespace)
        elif block.kind is None and block.language == "bash":
            for words in commands(block.text):
                assert words[0] == "python", words
                environment = {"HOME": str(tmp_path), "TQDM_DISABLE": "1"}
                done = command(*words[1:], cwd=tmp_path, timeout=None, **environment)
                assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"


@pytest.mark.slow
def test_sphinx_has_nothing_to_complain_of(tmp_path):
    pytest.importorskip("myst_parser", reason="needs the extra `docs`")
    sphinx = [sys.executable, "-m", "sphinx", "-W", "-q", ROOT / "docs", tmp_path]
    done = subprocess.run(sphinx, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_loop_of_the_readme(capsys):
    """It is short, and what it prints is what the text says."""
    (block,) = [b for b in blocks(ROOT / "README.md") if "reweight_step" in b.text]
    assert len(block.text.split("\n")) <= 35
    run_python(ROOT / "README.md", block, {})
    accuracy, wrong = (
        float(line.rsplit(" ", 1)[1]) for line in capsys.readouterr().out.split("\n") if line
    )
    text = (ROOT / "README.md").read_text()
    assert f"It prints {accuracy:.2f} and {wrong:.2f};" in text


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "results" / "README.md"], ids=lambda page: page.parent.name + page.stem
)
def test_links(page):
    text = BLOCK.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), target
    for path in re.findall(
        r"(?:scripts|configs|reweight_jax|docs|tests|results)/[\w/]+\.\w+", text
    ):
        assert (ROOT / path).exists(), path


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_name_is_documented():
    methods = (ROOT / "docs" / "methods.md").read_text()
    models = (ROOT / "docs" / "tasks_and_models.md").read_text()
    for name in METHODS:
        assert f"`{name}`" in methods, name
    for name in (*MODELS, *TASKS):
        assert f"`{name}`" in models, name
