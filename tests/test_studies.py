"""Every experiment of the original project is a study: it reads, leads on, can be planned on corpora, and runs."""

import re
from pathlib import Path

import pytest

from flows.plan_study import plan_study
from recipes.reading import RECIPES
from recipes.schema import load_study
from tests import layouts
from tests.commands import ROOT

STUDIES = sorted(file.stem for file in (RECIPES / "study").glob("[0-9]*.yaml"))
CORPORA = ("voxconverse", "esc50", "fsd50k", "gtzan", "musan")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The corpora of the studies, each in its own layout and with enough groups to deal."""
    root = tmp_path_factory.mktemp("corpora")
    for name in CORPORA:
        layouts.LARGER[name](root / name)
    return {name.upper(): str(root / name) for name in CORPORA}


@pytest.fixture
def there(corpora: dict[str, str], monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """They, under the variables that the recipes read."""
    for name, folder in corpora.items():
        monkeypatch.setenv(name, folder)


def test_they_stand_in_the_order_of_the_original():
    numbers = sorted(int(file.name[:2]) for file in (RECIPES / "study").glob("[0-9]*"))
    assert numbers == list(range(1, 22))
    assert [name for name in STUDIES if not re.fullmatch(r"\d\d(-[a-z0-9]+)+", name)] == []


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_what_it_asks_what_it_cost_what_was_claimed_and_how_to_read_it(name):
    text = (RECIPES / "study" / f"{name}.yaml").read_text(encoding="utf-8")
    said = "".join(line.removeprefix("#") for line in text.splitlines() if line.startswith("#"))
    parts = re.split(r"(?:^|\s)(Asks|Cost|There|Honest reading)\b[^:]*:", said)
    assert parts[1::2] == ["Asks", "Cost", "There", "Honest reading"]
    assert min(map(len, parts[2::2])) > 30
    study = load_study(f"study/{name}")
    assert study.name == name
    assert study.description.endswith("?")
    assert study.goals
    assert study.train.device == "cuda"
    assert "Qwen/Qwen2-Audio-7B-Instruct@" in study.train.base


def test_each_leads_to_another_that_exists_and_all_are_reached_from_the_first():
    leads = {name: [load_study(f"study/{name}").then, load_study(f"study/{name}").otherwise] for name in STUDIES}
    reached, queue = set(), ["01-zero-shot"]
    while queue:
        name = queue.pop()
        if name not in reached:
            reached.add(name)
            queue += [follows.removeprefix("study/") for follows in leads[name] if follows]
    assert reached == set(STUDIES)
    assert all(f"study/{name}" not in follows for name, follows in leads.items()), "none leads to itself"


def test_the_guards_that_replace_an_experiment_are_tests_that_exist():
    page = (RECIPES / "study" / "02-audio-guards.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", page)
    assert len(named) > 10
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_can_be_planned_on_corpora_as_they_lie(there, name):
    plan = "\n".join(plan_study(f"study/{name}"))
    assert "the recipe is right, nothing was run" in plan
    assert "base: Qwen/Qwen2-Audio-7B-Instruct, on cuda" in plan
