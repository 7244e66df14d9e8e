"""The README's program runs as it stands there, and does what it says."""

import io
import pathlib
import re
from contextlib import redirect_stdout

README = (pathlib.Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_the_training_loop_of_the_readme():
    (program,) = re.findall(r"```python\n(import jax\n.*?)```", README, flags=re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 25
    output = io.StringIO()
    with redirect_stdout(output):
        exec(compile(program, "README.md", "exec"), {})
    accuracy, wrong = (float(line.rsplit(" ", 1)[1]) for line in output.getvalue().splitlines())
    assert accuracy > 0.9  # equal weights come to 0.76
    assert wrong < 0.05


def test_files_that_the_readme_names_exist():
    root = pathlib.Path(__file__).resolve().parents[1]
    for path in re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(
        r"scripts/[\w/]+\.(?:py|sh)", README
    ):
        assert (root / path).exists(), path
