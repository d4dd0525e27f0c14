"""A task is skipped while its block, inputs, reachable code and libraries stand, and its result is whole; never else."""

import importlib.metadata
import json
import shutil
import sys
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect.results import ResultRecord, ResultRecordMetadata
from prefect.serializers import JSONSerializer

from recipes.schema import load_study
from recipes.training import GateBlock, PretrainBlock
from tasks import cache
from tasks.adapters import make_base, train_adapter
from tasks.cache import canonical, code_digest, forget_damaged, reachable
from tasks.clips import plan_clips
from tasks.models.jobs import Question
from tasks.reports import make_report
from tasks.store import Clips, Recordings, Sides, Splits, draft

RECORDINGS = (Recordings(fingerprint="1" * 16, source="synthetic", recordings=1, groups=1, hours=0.0),)
SIDES = Sides(fingerprint="2" * 16, parts={})


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of our packages that the cache looks at instead of the real ones."""
    for package in cache.FIRST_PARTY:
        shutil.copytree(
            cache.ROOT / package, tmp_path / "tree" / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copytree(cache.ROOT / "hub_cards", tmp_path / "tree" / "hub_cards")
    monkeypatch.setattr(cache, "ROOT", tmp_path / "tree")
    code_digest.cache_clear()
    yield tmp_path / "tree"
    code_digest.cache_clear()


def digest(*modules: str) -> str:
    code_digest.cache_clear()
    return code_digest(modules)


def key(task, **arguments) -> str:
    return task.cache_policy.compute_key(SimpleNamespace(task=task), arguments, {})


def append(file, text: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")
    code_digest.cache_clear()  # one process sees one state of the code


# --- code --------------------------------------------------------------------------------------------------------


def test_editing_a_helper_changes_what_reaches_it_and_nothing_else(tree):
    clips, predictions = digest("tasks.clips"), digest("tasks.predictions")
    append(tree / "tasks" / "functional" / "mixing.py", "\nSURPLUS_DB = 3\n")
    assert digest("tasks.clips") != clips
    assert digest("tasks.predictions") == predictions


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text + "\n# a comment\n",
        lambda text: text.replace('"""', '"""Said otherwise. ', 1),
        lambda text: text.replace(" = ", "  =  ").replace("\n\n\n", "\n\n\n\n"),
        lambda text: text.replace("\ndef ", "\n# why\ndef "),
    ],
    ids=["comment at the end", "docstring", "layout", "comments"],
)
def test_editing_a_comment_a_docstring_or_the_layout_changes_nothing(tree, edit):
    before = digest("tasks.functional.mixing")
    file = tree / "tasks" / "functional" / "mixing.py"
    edited = edit(text := file.read_text(encoding="utf-8"))
    assert edited != text
    file.write_text(edited, encoding="utf-8")
    assert digest("tasks.functional.mixing") == before


def test_docstrings_of_functions_and_classes_do_not_count_but_other_strings_do(tmp_path):
    file = tmp_path / "module.py"
    file.write_text('def f():\n    """One."""\n    return "a"\n\nclass C:\n    """Two."""\n')
    before = cache._bare_syntax(file)
    file.write_text('def f():\n    """Another."""\n    return "a"\n\nclass C:\n    pass\n')
    assert cache._bare_syntax(file) == before
    file.write_text('def f():\n    """One."""\n    return "b"\n\nclass C:\n    """Two."""\n')
    assert cache._bare_syntax(file) != before


def test_imports_inside_functions_and_kinds_loaded_by_name_count(tree):
    assert "tasks.detectors.mel_statistics" in reachable(["tasks.predictions"]), "BASELINES loads it by name"
    assert "tasks.sources.espeak" in reachable(["tasks.recordings"]), "a source is looked up by its kind"
    append(
        tree / "tasks" / "clips.py",
        "\ndef late():\n    from tasks.functional.plots import figures\n    return figures\n",
    )
    assert "tasks.functional.plots" in reachable(["tasks.clips"])


def test_a_child_that_a_task_starts_by_name_counts(tree):
    question = Question(classes=("X", "Y"), answers=("A", "B"), prompt="?", longest_ms=200)
    arguments = {"clips": (), "block": PretrainBlock(), "question": question, "fold": 0, "timeout_min": 1}
    before = key(make_base, **arguments)
    append(tree / "tasks" / "models" / "pretraining.py", "\nWARM_UP = 20\n")
    assert key(make_base, **arguments) != before


def test_modules_are_read_and_never_imported(tree):
    append(tree / "tasks" / "functional" / "mixing.py", "\nraise RuntimeError('imported')\n")
    (tree / "tasks" / "functional" / "fresh.py").write_text("import torch\n")
    append(tree / "tasks" / "clips.py", "\nfrom tasks.functional import fresh\n")
    assert {"tasks.functional.mixing", "tasks.functional.fresh"} <= reachable(["tasks.clips"])
    assert "tasks.functional.fresh" not in sys.modules


def test_only_our_own_modules_are_followed():
    assert {name.split(".")[0] for name in reachable(["flows.run_study"])} <= set(cache.FIRST_PARTY)


def test_threads_that_parse_at_once_agree():
    """CPython 3.11 raises SystemError in all but one of them, and Prefect runs a task whose key cannot be had uncached."""
    files = sorted((cache.ROOT / "tasks" / "models").glob("*.py"))
    expected = [cache._bare_syntax(file) for file in files]
    found, start = [], threading.Barrier(4)

    class Noisy:
        def __del__(self):  # what the garbage collector runs is where threads change within a parse
            sum(range(10))

    def at_depth(depth: int) -> None:
        if depth:
            return at_depth(depth - 1)
        start.wait()
        for file, syntax in zip(files, expected, strict=True):
            loop = Noisy()
            loop.itself = loop
            found.append(cache._bare_syntax(file) == syntax)
        return None

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=at_depth, args=(7 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert found == [True] * (4 * len(files))


# --- arguments ---------------------------------------------------------------------------------------------------


def clips_key(study, part="train") -> str:
    block = study.dataset.clips_of(part)
    return key(plan_clips, sides=SIDES, block=block, part=part, classes=study.classes)


@pytest.mark.parametrize(
    "override",
    [
        "evaluate.n_boot=100",
        "train.training.max_steps=9",
        "prompt=A or B?",
        "dataset.clips.per_cell.test=9",
        "dataset.splits.seed=9",
    ],
)
def test_another_block_leaves_the_key_of_clips_alone(override):
    assert clips_key(load_study("study/smoke", [override])) == clips_key(load_study("study/smoke"))


@pytest.mark.parametrize(
    "override", ["dataset.clips.seed=9", "dataset.clips.per_cell.train=9", "classes=[NONSPEECH, SPEECH]"]
)
def test_its_own_block_changes_the_key_of_clips(override):
    assert clips_key(load_study("study/smoke", [override])) != clips_key(load_study("study/smoke"))


def test_an_input_of_other_content_changes_the_key():
    study = load_study("study/smoke")
    arguments = {
        "block": study.dataset.clips_of("train"),
        "part": "train",
        "classes": study.classes,
    }
    other = SIDES.model_copy(update={"fingerprint": "3" * 16})
    assert key(plan_clips, sides=SIDES, **arguments) != key(plan_clips, sides=other, **arguments)


def test_neither_a_time_limit_nor_a_name_on_the_page_changes_the_key_and_the_seed_does():
    study = load_study("study/smoke")
    question = Question(classes=study.classes, answers=study.answers, prompt=study.prompt, longest_ms=200)
    splits = Splits(fingerprint="4" * 16, clips={}, groups={}, verdict="clean", folds=1)
    arguments = {"splits": splits, "parts": ["train"], "method": study.train.method, "question": question, "tiny": None,
                 "published": None, "seed": 42, "fold": 0, "timeout_min": 1}  # fmt: skip
    before = key(train_adapter, **arguments)
    assert key(train_adapter, **{**arguments, "timeout_min": 2}) == before
    assert key(train_adapter, **{**arguments, "shown_as": "rank-8"}) == before
    assert key(train_adapter, **{**arguments, "seed": 43}) != before


def test_a_library_of_another_version_changes_the_key(monkeypatch):
    study = load_study("study/smoke")
    before = clips_key(study)
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0" if name == "torch" else version(name))
    assert clips_key(study) == before, "clips do not use torch"
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0" if name == "pandas" else version(name))
    assert clips_key(study) != before


def test_a_template_changes_the_key_of_the_report(tree):
    arguments = {"predictions": (), "adapters": (), "bases": (), "recipe": load_study("study/smoke")}
    before = key(make_report, **arguments)
    append(tree / "hub_cards" / "report.html.j2", "<!-- -->")
    assert key(make_report, **arguments) != before


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None)
@given(PLAIN, PLAIN)
def test_arguments_are_alike_exactly_where_they_are_equal(one, other):
    alike = json.dumps(canonical(one), sort_keys=True) == json.dumps(canonical(other), sort_keys=True)
    assert alike == (repr_sorted(one) == repr_sorted(other))


def repr_sorted(value) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k!r}: {repr_sorted(value[k])}' for k in sorted(value))}}}"
    return f"[{', '.join(map(repr_sorted, value))}]" if isinstance(value, list) else repr(value)


def test_blocks_of_two_kinds_with_the_same_content_differ():
    class Other(GateBlock):
        pass

    assert canonical(GateBlock()) != canonical(Other())


@pytest.mark.parametrize("value", [object(), {"path": cache.ROOT}, [b"bytes"], {1, 2}])
def test_an_argument_that_has_no_identity_is_refused(value):
    with pytest.raises(ValueError, match="hand it recipe blocks, references and plain values"):
        canonical(value)


# --- records -----------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(home):
    """A result that names two folders of the store, and its record."""
    references = []
    for name in ("one", "two"):
        with draft(Clips) as folder:
            (folder / "clips.parquet").write_bytes(name.encode() * 100)
            references.append(Clips.of(folder, part=name, clips=1, hours=0.0))
    cache.results().mkdir(parents=True)
    path = cache.results() / "record"
    metadata = ResultRecordMetadata(storage_key=str(path), serializer=JSONSerializer())
    path.write_bytes(ResultRecord(result={"parts": references, "n": 2}, metadata=metadata).serialize())
    return path, references


def test_a_record_of_whole_folders_is_kept(kept):
    path, references = kept
    forget_damaged(path)
    assert ResultRecord.deserialize(path.read_bytes()).result == {"parts": references, "n": 2}


@pytest.mark.parametrize("damage", ["folder gone", "byte flipped", "file added", "record truncated", "record foreign"])
def test_a_record_of_anything_damaged_is_forgotten(kept, damage):
    path, (_, second) = kept
    audio = second.path / "clips.parquet"
    if damage == "folder gone":
        shutil.rmtree(second.path)
    elif damage == "byte flipped":
        content = bytearray(audio.read_bytes())
        content[7] ^= 1
        audio.write_bytes(content)
    elif damage == "file added":
        (second.path / "surplus").write_text("")
    elif damage == "record truncated":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.write_text("{}")
    forget_damaged(path)
    assert not path.exists()


def test_asking_for_the_key_forgets_a_damaged_record(kept, monkeypatch):
    path, (first, _) = kept
    study = load_study("study/smoke")
    record = cache.results() / clips_key(study)
    path.rename(record)
    assert clips_key(study) == record.name
    assert record.exists()
    shutil.rmtree(first.path)
    clips_key(study)
    assert not record.exists()
