"""The Markdown is true: links lead somewhere, commands are there and run, recipes load, messages are the code's."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
import yaml

from flows.cli import app
from recipes.leaderboard import is_leaderboard
from recipes.reading import RECIPES, read_yaml
from recipes.schema import load_study
from recipes.sources import KINDS
from tasks.detectors import BASELINES
from tasks.functional.predictions import KEY, REQUIRED
from tasks.predictions import CLIP_COLUMNS
from tests import write_reference
from tests.commands import ROOT
from tests.conftest import Smoke

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for file in sorted([*ROOT.glob("*.md"), *(f for part in ("recipes", "tasks", "flows", "hub_cards", "tests")
                                              for f in (ROOT / part).rglob("*.md"))])
}  # fmt: skip
SCREEN = 60  # lines
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


class Fence(NamedTuple):
    """A block between fences: its language and what stands in it."""

    language: str
    text: str

    @property
    def file(self) -> str:
        """The file that the block is, by its first line; "" for none."""
        found = re.match(r"# (\S+\.(?:yaml|py|csv))\n", self.text)
        return found[1] if found else ""


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[Fence]:
    return [Fence(*found) for found in FENCE.findall(text)]


def fences(page: str) -> list[Fence]:
    return blocks(PAGES[page])


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a bash block with what it needs, "" for nothing; a first line of comment is for the whole block."""
    lines = block.replace("\\\n", " ").splitlines()
    whole = needs(lines[0]) if lines[0].startswith("#") else ""
    return [(line, whole or needs(line)) for line in lines if line.strip() and not line.startswith("#")]


def needs(line: str) -> str:
    found = re.search(r"#.*\b(needs .+)", line)
    return found[1] if found else ""


# --- the tree of the README --------------------------------------------------------------------------------------


def test_the_tree_names_every_module():
    tree = README.split("## The tree")[1]
    folders = ("flows", "tasks", "recipes")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py") if file.name != "__init__.py"]
    assert len(files) > 50
    assert [str(file) for file in files if not re.search(rf"\b{file.name}\b", tree)] == []


def test_the_tree_names_no_module_that_is_gone():
    named = set(re.findall(r"\b[a-z0-9_]+\.py\b", README.split("## The tree")[1]))
    there = {file.name for folder in ("flows", "tasks", "recipes", "tests") for file in (ROOT / folder).rglob("*.py")}
    assert named <= there, named - there


# --- what pages name ---------------------------------------------------------------------------------------------


def test_every_function_fits_a_screen():
    files = [file for part in ("flows", "recipes", "tasks") for file in (ROOT / part).rglob("*.py")]
    found = [(file, *its) for file in files for its in functions(file.read_text(encoding="utf-8"))]
    assert len(found) > 1000
    assert not [f"{file.relative_to(ROOT)}: {name}, {lines} lines" for file, name, lines in found if lines > SCREEN]


def test_the_lines_of_a_function_are_those_from_its_name_to_its_end():
    text = "@task\ndef a(\n    x,\n):\n    def b():\n        return 1\n\n    return b\n\n\nclass C:\n    def d(self): ...\n"
    assert {*functions(text)} == {("a", 7), ("b", 2), ("d", 1)}


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Every function with its number of lines; of all files a parser would take most of a second."""
    within: list[tuple[int, str, int]] = []
    last = 0
    for at, line in enumerate([*text.splitlines(), "end"]):
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        while within and indent <= within[-1][0] and line[indent] != ")":
            _, name, begin = within.pop()
            yield name, last - begin + 1
        if head := re.match(r" *(?:async )?def (\w+)", line):
            within.append((indent, head[1], at))
        last = at


def test_every_page_is_reached_from_the_readme():
    seen, wanted = set(), ["README.md"]
    while wanted:
        page = wanted.pop()
        if page in PAGES and page not in seen:
            seen.add(page)
            wanted += [target for target, _ in links(page)]
    assert set(PAGES) - seen == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target, anchor in links(page):
        assert (ROOT / target).exists(), f"{page} links to {target}"
        if anchor and target in PAGES:
            assert anchor in anchors(PAGES[target]), f"{page} links to {target}#{anchor}"


def links(page: str) -> list[tuple[str, str]]:
    """(path from the root, anchor) of each link that is no address."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    found = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    here = Path(page).parent
    return [(os.path.normpath(here / path) if path else page, anchor) for path, _, anchor in found]


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_it_names_exists(page):
    assert unknown_commands(PAGES[page]) == []


def test_a_command_or_option_that_is_none_is_found():
    assert unknown_commands("Say `earshot fly`.") == ["earshot fly"]
    assert unknown_commands("```bash\nearshot run study/demo --wings 2  # --not-an-option\n```\n") == [
        "earshot run --wings"
    ]


def unknown_commands(text: str) -> list[str]:
    """Commands that the command line does not have, and options that their commands do not have."""
    code = re.findall(r"`(earshot [^`\n]+)`", re.sub(FENCE, "", text))
    code += [line for fence in blocks(text) if fence.language == "bash" for line, _ in commands(fence.text)]
    wrong = []
    for names, rest in (
        found for line in code for found in re.findall(r"\bearshot ((?:[a-z\\]+\|)*[a-z]+)\b([^;&|]*)", line)
    ):
        for name in names.replace("\\", "").split("|"):
            options = {option for one in getattr(COMMANDS.get(name), "params", []) for option in one.opts} | {"--help"}
            said = re.findall(r"(?<!\S)--[a-z][\w-]*", rest.partition("#")[0])
            wrong += (
                [f"earshot {name}"]
                if name not in COMMANDS
                else [f"earshot {name} {x}" for x in said if x not in options]
            )
    return wrong


@pytest.mark.parametrize("page", PAGES)
def test_every_recipe_it_names_loads(page):
    for name in set(re.findall(r"\b(?:study|dataset|train|evaluate|prompt)/[a-z0-9][\w-]*", PAGES[page])):
        if (RECIPES / name).is_dir() or f"run {name}" in PAGES[page]:  # a flow and its deployment
            continue
        if name.startswith("study/") and not is_leaderboard(name):
            assert load_study(name).name, f"{page}: {name}"
        else:
            assert read_yaml(name), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_every_recipe_it_shows_loads(page, tmp_path, monkeypatch):
    """A whole study by itself; a part of one in place of that of study/smoke."""
    monkeypatch.setenv("MINE", str(tmp_path))
    for fence in fences(page):
        if fence.language == "yaml":
            shown = yaml.safe_load(fence.text)
            assert load_study(shown if "schema" in shown else grafted(shown)), f"{page}: {fence.text}"


def grafted(part: dict) -> dict:
    """study/smoke with these keys of the study, or else of its `dataset` block; a prompt in the place of its own."""
    study = (
        read_yaml("study/smoke") | {name: read_yaml(f"{name}/smoke") for name in ("dataset", "train")} | {"goals": []}
    )
    if "text" in part:
        return study | {"prompt": part}
    for block in (study, study["dataset"]):
        if set(part) <= set(block):
            block |= part
            return study
    raise AssertionError(f"keys {list(part)} have no place in a study")


PLACEHOLDER = re.compile(r"@@|TODO|FIXME|XXX|^(<<<<<<<|=======$|>>>>>>>)", re.MULTILINE)


def test_no_placeholder_and_no_conflict_is_left():
    assert PLACEHOLDER.search("a\n<<<<<<< HEAD\n")
    assert [page for page, text in PAGES.items() if re.search(PLACEHOLDER, text)] == []


@pytest.mark.parametrize("path", ["recipes/REFERENCE.md", "tasks/functional/REPORT.md", "flows/COMMANDS.md"])
def test_the_reference_is_in_step_with_the_code(path):
    """Where this fails: python -m tests.write_reference"""
    made = {
        "recipes/REFERENCE.md": write_reference.recipe_page, "tasks/functional/REPORT.md": write_reference.report_page,
        "flows/COMMANDS.md": write_reference.command_page,
    }[path]()  # fmt: skip
    assert PAGES[path] == made


def test_a_key_of_the_reference_says_what_it_takes_and_means():
    page = write_reference.recipe_page()
    assert "| `total_ms` | number from 25 to 30000 | required |" in page
    assert "| `draws` | whole number from 1 to 200 | `6` | per RT60 |" in page
    assert "[spec_augment](#trainaugmentspec_augment) or null" in page


def test_every_column_of_a_predictions_table_is_in_the_reference():
    told = set(re.findall(r"`(\w+)`", "".join(row[0] for row in rows_of("tasks/README.md"))))
    assert {*REQUIRED, *KEY, *CLIP_COLUMNS, "p_speech", "prediction", "fold", "answer_mass", "latency_ms"} <= told


def test_every_detector_source_and_study_is_in_the_table_of_its_page():
    def first_cells(page):
        return set(re.findall(r"[`\[]([\w/.-]+)[`\]]", " ".join(row[0] for row in rows_of(page))))

    assert set(BASELINES) <= first_cells("tasks/detectors/README.md")
    assert set(KINDS) <= first_cells("tasks/sources/README.md")
    shown = first_cells("recipes/README.md") | first_cells("recipes/study/README.md")
    studies = {file.stem for file in (RECIPES / "study").glob("*.yaml")} - {"compare-all"}
    assert studies <= {name.removeprefix("study/") for name in shown}


# --- versions and citations --------------------------------------------------------------------------------------


def version() -> str:
    return re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[0]


def test_the_changelog_opens_with_what_comes_and_then_this_version():
    heads = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", PAGES["CHANGELOG.md"], re.MULTILINE)
    assert heads[0] == ("Unreleased", "")
    assert heads[1][0] == version()
    assert all(date for _, date in heads[1:])
    kinds = set(re.findall(r"^### (.+)$", PAGES["CHANGELOG.md"], re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_has_what_the_format_asks_for():
    """Citation File Format 1.2.0: required keys, and the patterns of version, date, DOI and names."""
    cited = citation()
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == version()
    assert {"message", "title", "authors"} <= set(cited)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(cited["date-released"]))
    for work in [cited, *cited["references"]]:
        assert work["title"], work
        assert work["authors"], work["title"]
        assert all("name" in one or {"family-names", "given-names"} == set(one) for one in work["authors"]), work[
            "title"
        ]
        assert re.fullmatch(r"10\.\d{4,9}/\S+", work.get("doi", "10.1234/none")), work["title"]
        allowed = {"software", "article", "book", "conference-paper"}
        assert work["type"] in allowed, work["title"]
    assert all(1900 < work["year"] <= 2026 for work in cited["references"])


def test_every_work_cited_is_used_where_it_says():
    """By its first author's name, or for what is code of others by the name of the method."""
    spoken = {"Chu": "Qwen2-Audio", "Xu": "-Omni", "Hu": "lora", "Dettmers": "quantization"}
    for work in citation()["references"]:
        first = work["authors"][0]["family-names"]
        text = (ROOT / work["notes"]).read_text(encoding="utf-8")
        assert spoken.get(first, first) in text, work["title"]
        assert first in spoken or first == "McNemar" or str(work["year"]) in text, work["title"]


# --- every command runs ------------------------------------------------------------------------------------------


def runs(page: str) -> list[Fence]:
    """Blocks that this page's test runs or writes; commands that need something are left out."""
    kept = []
    for fence in fences(page):
        if fence.language == "bash":
            lines = [line for line, need in commands(fence.text) if not need]
            kept += [fence._replace(text="\n".join(lines) + "\n")] if lines else []
        elif fence.text.startswith("# BASELINES"):
            continue  # an entry of a table: tests/test_detectors.py puts it there
        elif fence.language in ("yaml", "csv", "python") and (fence.file or fence.language == "python"):
            kept.append(fence)
    return kept


CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
RAN = {line.strip() for line in CI.splitlines() if line.strip().startswith("earshot ")}  # there, or for another page


def small(text: str) -> str:
    """The same path, in seconds."""
    return text.replace("study/demo", "study/smoke").replace("earshot/demo-", "earshot/smoke-")


@pytest.mark.slow
@pytest.mark.usefixtures("rerun")  # nobody is at work on a home that is copied
@pytest.mark.parametrize("page", [page for page in PAGES if any(f.language in ("bash", "python") for f in runs(page))])
def test_what_a_page_tells_to_do_can_be_done(page, smoke: Smoke, tmp_path):
    """Its files are written and its commands run in their order, as one reader would, on a home that knows the demo.

    study/smoke stands in for study/demo. Commands that name what they need and those of .ci/run are not run here, those of
    several pages once.
    """
    shutil.copytree(smoke.home, tmp_path / "home", symlinks=True)
    program = tmp_path / "bin" / "earshot"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m flows.cli "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    work = tmp_path / "work"
    work.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "OMP_"))}
    environment = {**kept, "EARSHOT_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT),
                   "PATH": f"{program.parent}:{os.environ['PATH']}"}  # fmt: skip
    for fence in runs(page):
        text = fence.text
        if fence.file:
            (work / fence.file).parent.mkdir(parents=True, exist_ok=True)
            (work / fence.file).write_text(small(text), encoding="utf-8")
            continue
        if fence.language == "bash":
            lines = [
                line
                for line in text.splitlines()
                if not line.startswith("earshot") or line.split("  #")[0].rstrip() not in RAN
            ]
            RAN.update(line.split("  #")[0].rstrip() for line in lines)
            text = "\n".join(lines)
        program_of = ["bash", "-euo", "pipefail", "-c"] if fence.language == "bash" else [sys.executable, "-c"]
        done = subprocess.run([*program_of, small(text)], cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{page}\n{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_the_first_command_of_the_readme_is_run_by_ci():
    first = next(line for line, _ in commands(fences("README.md")[0].text) if "earshot run" in line)
    assert "earshot run study/demo" in first
    assert re.search(r"(?m)^ *earshot run study/demo$", CI)


# --- what a reader writes ----------------------------------------------------------------------------------------

WRITES = (
    r"--out (?!FILE)([\w./-]+)", r'open\("([^"]+)", "w', r'Path\("([^"]+)"\)\.mkdir', r'(?:to_parquet|write)\("([^"]+)"',
    r"(?m)^# (\S+\.yaml)$",
)  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_git_ignores_what_a_page_has_a_reader_write_into_the_clone(page):
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()}
    assert written_by(PAGES[page]) - ignored == set()


def test_what_a_page_has_a_reader_write_is_found():
    assert written_by(PAGES["flows/TUTORIAL.md"]) == {"clip.flac", "listening", "mine", "mine.yaml"}


def written_by(text: str) -> set[str]:
    """Files and folders, right in the clone, that the blocks of a page write."""
    blocks = re.findall(r"^```(?:bash|python|yaml)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = {name for block in blocks for pattern in WRITES for name in re.findall(pattern, block)}
    return {Path(name).parts[0] for name in found if not Path(name).is_absolute()}


# --- the messages of TROUBLESHOOTING.md --------------------------------------------------------------------------


def test_every_message_it_quotes_is_one_of_the_code():
    """The pieces between the … of a quoted message stand in the code, in their order and close together."""
    quoted = [
        message
        for row in rows_of("flows/TROUBLESHOOTING.md")
        for _, message in re.findall(r"(`+)(.+?)\1(?!`)", row[1])
    ]
    assert len(quoted) > 40
    said = spoken()
    assert [message for message in quoted if not is_said(message, said)] == []


def test_a_message_of_other_words_is_found():
    said = 'raise ValueError(f"{path} is gone from the store; run {again}")'
    assert is_said("… is gone from the store; run …", said)
    assert not is_said("… is lost from the store", said)
    assert not is_said("run … is gone from the store", said)


def is_said(message: str, said: str) -> bool:
    pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip()]
    return bool(pieces and re.search(".{0,300}?".join(pieces), said, re.DOTALL))


def rows_of(page: str) -> list[list[str]]:
    """Rows of the page's tables, their heads left out."""
    lines = [line.strip().strip("|").split(" | ") for line in PAGES[page].splitlines() if line.startswith("| ")]
    return [line for line in lines if line[0].strip() != "symptom"]


def spoken() -> str:
    """The code, its strings put together where they stand beside each other."""
    files = [file for folder in ("flows", "tasks", "recipes") for file in sorted((ROOT / folder).rglob("*.py"))]
    return re.sub(r'"\s+f?"', "", "\n".join(file.read_text(encoding="utf-8") for file in files))
