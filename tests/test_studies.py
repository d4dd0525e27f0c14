"""Every experiment of the original project is a study: it reads, leads on, can be planned on corpora, and runs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.plan_study import plan_study
from flows.run_study import StudyRun, run_study
from recipes.reading import RECIPES
from recipes.schema import CheckFailed, StudyRecipe, load_study
from tasks.functional import content_audit, report_files
from tasks.functional.report import Report
from tasks.progress import Curve
from tests import layouts
from tests.building import plainly
from tests.commands import ROOT

STUDIES = sorted(file.stem for file in (RECIPES / "study").glob("[0-9]*.yaml"))
LEAKY = "08-extended-test-leaky"
WHOLE = (LEAKY, "01-zero-shot", "13-clean-against-padded", "20-ensembles", "21-inflation")  # up to their cards
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


# --- with the tiny model -----------------------------------------------------------------------------------------

SOURCES = [
    {"kind": "synthetic", "label": "SPEECH", "families": ["animals"], "draws": 6, "duration_s": 2.0, "seed": 1},
    {
        "kind": "synthetic",
        "label": "NONSPEECH",
        "families": ["noise", "environment", "music"],
        "draws": 3,
        "duration_s": 2.0,
        "seed": 2,
    },
    {"kind": "synthetic", "role": "noise", "draws": 2, "duration_s": 2.0, "seed": 3},
    {"kind": "rooms", "rt60_s": [0.3], "draws": 4, "seed": 5},
]
# One-at-a-time designs take a short clip from the middle of a longer cut, where a barking dog may pause.
WITHOUT_PAUSES = [["organ", "siren", "engine", "wind"], ["fluttering", "sweeping", "steam", "rain"]]
CONTINUOUS = [
    {**source, "families": ["music", "noise", "environment"], "where": {"category": categories}}
    for source, categories in zip(SOURCES[:2], WITHOUT_PAUSES, strict=True)
]
LEVELS = {"duration_ms": [40, 200, 1000], "snr_db": [-10, 20], "band": ["clean"], "room": [None]}
TINY = {
    "base": "tiny", "pretrain": {"steps": 2, "batch_size": 8, "clips": 16, "duration_ms": 200}, "quantization": None,
    "batch_size": None, "device": "cpu", "gate": {"accuracy": 0.0, "on_fail": "mark"},
    "training": {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1.0e-3, "logging_steps": 1},
}  # fmt: skip


def cut(name: str) -> list[str]:
    """Overrides that leave a study its own way, with as little as that takes: few generated clips, a tiny base, one cell."""
    study = load_study(f"study/{name}")
    cells = sorted(
        study.ablation.items(), key=lambda cell: "train.clips." in cell[1][0]
    )  # what trains on other clips last
    kept = dict(cells[-1:])
    goals = [
        goal.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        for goal in study.goals
        if goal.against not in {*study.ablation} - {*kept}
    ]
    sizes = {"train": 16, "dev": 8, "test": 16}
    design = study.dataset.clips.design
    folds = {"dataset.splits.folds": 3} if study.dataset.splits.folds else {}
    parts = {f"part{k}": 1 for k in range(3)} if folds else study.dataset.splits.parts
    a_class = {part: sizes.get(part, 8) // (4 if design == "factorial" else 1) for part in parts}
    levels = LEVELS if design == "one_at_a_time" else {**LEVELS, "duration_ms": [200, 1000]}
    count = {"per_cell": a_class} if design == "factorial" else {"per_class": a_class if design == "margins" else 3}
    sources = [*CONTINUOUS, *SOURCES[2:]] if design == "one_at_a_time" else SOURCES
    overrides = {
        **folds, "dataset.sources": sources, "dataset.hygiene": None, "dataset.splits.by_family": False,
        "dataset.clips.balance_families": False, **{f"dataset.clips.{key}": its for key, its in {**levels, **count}.items()},
        **{f"train.{key}": its for key, its in TINY.items()}, "train.seeds": study.train.seeds[:2],
        "ablation": {cell: shrunk(changes) for cell, changes in kept.items()}, "goals": goals or [{"at_least": 0.5}],
        "evaluate.n_boot": 200, "evaluate.threshold": "dev",
    }  # fmt: skip
    return [f"{key}={json.dumps(its)}" for key, its in overrides.items()]


def shrunk(changes: tuple[str, ...]) -> list[str]:
    """A cell's changes with fewer clips in them."""
    return [re.sub(r"(per_class|per_cell)=\d+", r"\1=2", change) for change in changes]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for all studies, and flows as plain functions. No curve of a training is drawn, few copies are planted."""
    with pytest.MonkeyPatch.context() as patch, plainly():
        patch.setattr(Curve, "draw", lambda *arguments, **keywords: None)
        patch.setattr(content_audit, "PLANTED", 1)
        patch.setenv("EARSHOT_HOME", str(tmp_path_factory.mktemp("laboratory") / "home"))
        yield Path()


def done(name: str) -> tuple[StudyRecipe, StudyRun]:
    overrides = cut(name)
    until = "publish" if name in WHOLE else "evaluate"
    return load_study(f"study/{name}", overrides), run_study(f"study/{name}", overrides, until=until)


def report_of(run: StudyRun) -> Report:
    assert run.report is not None
    return Report.model_validate_json((run.report.path / "report.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STUDIES if name != LEAKY])
def test_a_study_runs_with_the_tiny_model(laboratory, monkeypatch, name):
    if name not in WHOLE:
        monkeypatch.setattr(report_files, "figures", lambda *arguments: {})  # half of what a report takes
    study, run = done(name)
    report = report_of(run)
    assert [goal.verdict for goal in report.goals]
    assert report.next is not None
    assert report.next.study in (study.then, study.otherwise)
    assert {*study.ablation} <= {*report.detectors}
    assert (run.publication is not None) == (name in WHOLE and bool(study.train.seeds))


@pytest.mark.slow
def test_the_overlap_of_the_original_is_refused(laboratory):
    with pytest.raises(CheckFailed, match="The leakage audit says 'leaky'"):
        done(LEAKY)
