"""The README tells the truth: its commands and options exist, the files it names are there, CI runs the test command that it gives."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from d2st.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = sorted({line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.startswith("d2st ")})


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_and_its_options_exist(line):
    words = shlex.split(line)[1:]
    group = 2 if words[0] in ("manifest", "cache") else 1
    shown = CliRunner().invoke(app, [*words[:group], "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, line
    for option in (word for word in words[group:] if word.startswith("--")):
        assert re.search(rf"{re.escape(option)}\b", shown.stdout), (line, option)


def test_overrides_in_the_readme_are_keys_of_recipes():
    from d2st.adapter.train.recipe_file import load_recipe

    shown = re.findall(r"--stage (\d)[^\n]*", README)
    assert shown
    for line in COMMANDS:
        found = re.search(r"--stage (\d)", line)
        if found:
            words = shlex.split(line)
            load_recipe(int(found[1]), [value for option, value in pairwise(words) if option == "--set"])


def test_files_that_it_links_or_names_are_there():
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    named = re.findall(r"`((?:adapter|cache|cli|pipeline|tests)/[\w/.]+)`", README)
    missing = [name for name in {*linked, *named} if not (ROOT / name).exists() and name != "adapter/nets/mine.py"]
    assert missing == []


def test_ci_runs_its_test_command():
    assert re.search(r"^python3 -m venv .*pytest -q$", README, flags=re.MULTILINE)
    assert "grep -m1" in (ROOT / ".ci" / "run").read_text()
