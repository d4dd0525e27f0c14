"""The README is true: its tree names every file, its commands are there, its recipes load."""

import re
from pathlib import Path

from flows.cli import app
from recipes.schema import load_study

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_names_every_module():
    tree = README.split("## The tree")[1]
    folders = ("flows", "tasks", "recipes")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py") if file.name != "__init__.py"]
    assert len(files) > 50
    assert [str(file) for file in files if not re.search(rf"\b{file.name}\b", tree)] == []


def test_the_tree_names_no_module_that_is_gone():
    named = set(re.findall(r"\b[a-z0-9_]+\.py\b", README.split("## The tree")[1]))
    there = {file.name for folder in ("flows", "tasks", "recipes") for file in (ROOT / folder).rglob("*.py")}
    assert named <= there, named - there


def test_every_command_it_names_exists():
    known = {command.name for command in app.registered_commands}
    known |= {command.name for group in app.registered_groups for command in group.typer_instance.registered_commands}
    named = {
        name for line in re.findall(r"`earshot ([a-z\\|]+)", README) for name in line.replace("\\", "").split("|")
    }
    assert named
    assert named <= known, named - known


def test_every_study_it_names_loads():
    for study in set(re.findall(r"study/[a-z]+", README)):
        assert load_study(study).name in study


def test_no_placeholder_is_left():
    assert "@@" not in README
