"""Lineage: each part names its parents, what differs is found, and a card over superseded data says so."""

import re
import shutil
from pathlib import Path

import pytest

from flows.cli import main
from recipes.schema import CheckFailed, load_study
from tasks import cards
from tasks.cards import publish_adapter
from tasks.hub import find, publish
from tasks.lineage import lineage
from tasks.store import Adapter, Publication, Report, Splits, file_digests, read_json, write_json
from tasks.verification import verify_repo

ADAPTER, CLIPS, BASE = "earshot/smoke-adapter", "earshot/smoke-clips", "earshot/smoke-adapter-base"


@pytest.fixture
def published(smoke, tmp_path, monkeypatch) -> Path:
    """A home with what the smoke study made, to be altered."""
    assert smoke.first.code == 0, smoke.first.err[-3000:]
    for part in ("hub", "store"):
        shutil.copytree(smoke.home / part, tmp_path / "home" / part)
    monkeypatch.setenv("EARSHOT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def command(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["earshot", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def again(change: str = "card.json") -> Publication:
    """Another data set under the same name."""
    folder = shutil.copytree(find(CLIPS)[0], find(CLIPS)[0].parent.parent / "other")
    write_json(folder / change, {**read_json(folder / change), "description": "another one"})
    try:
        return publish(folder, "dataset", CLIPS)
    finally:
        shutil.rmtree(folder)


def test_every_part_names_its_parents_from_recipe_to_card(published):
    links = {link.part: link for link in lineage(ADAPTER)}
    assert list(links) == ["recipe", "data set", "base", "adapter", "report", "card"]
    assert {link.verdict for link in links.values()} == {"agrees"}
    data, base = (f"{name}@{find(name)[1]}" for name in (CLIPS, BASE))
    assert links["data set"][1:3] == (data, (links["recipe"].name,))
    assert links["base"][1:3] == (base, (data,))
    assert links["adapter"].parents == (base, data)
    assert {links["recipe"].name, data, base} < {*links["report"].parents}
    assert links["card"].parents == (links["report"].name, data)


def test_a_data_set_has_a_lineage_of_its_own(published):
    assert [(link.part, link.verdict) for link in lineage(CLIPS)] == [("recipe", "agrees"), ("data set", "agrees")]


def test_a_base_names_the_data_set_it_heard(published):
    links = {link.part: link for link in lineage(BASE)}
    assert {link.verdict for link in links.values()} == {"agrees"}
    assert links["base"].parents == (links["data set"].name,)
    assert links["data set"].name == f"{CLIPS}@{find(CLIPS)[1]}"


def alter(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert re.search(old, text), old
    file.write_text(re.sub(old, new, text), encoding="utf-8")


ALTERED = {
    "recipe": lambda folder: alter(folder / "recipe.yaml", "seed: ", "seed: 1"),
    "data set": lambda folder: alter(
        folder / "recipe.yaml", "name: smoke\n  description", "name: smoky\n  description"
    ),
    "adapter": lambda folder: alter(folder / "adapter_config.json", '"revision": "....', '"revision": "0000'),
    "report": lambda folder: (folder / "predictions.parquet").write_bytes(b"PAR1"),
    "card": lambda folder: alter(folder / "README.md", find(CLIPS)[1], "0" * 40),
}


@pytest.mark.parametrize("part", ALTERED)
def test_a_part_that_names_another_parent_is_found_and_the_command_exits_1(
    published, tmp_path, monkeypatch, capsys, part
):
    folder = shutil.copytree(find(ADAPTER)[0], tmp_path / "adapter")
    ALTERED[part](folder)
    assert command(monkeypatch, "lineage", str(folder)) == 1
    said = capsys.readouterr()
    assert re.search(rf"^differs   {part} ", said.out, re.MULTILINE)
    assert part in said.err
    assert "Traceback" not in said.err


def test_a_base_made_from_another_data_set_is_found(published, tmp_path):
    folder = shutil.copytree(find(BASE)[0], tmp_path / "base")
    alter(folder / "base.json", find(CLIPS)[1], "0" * 40)
    base = publish(folder, "model", BASE)
    adapter = shutil.copytree(find(ADAPTER)[0], tmp_path / "adapter")
    alter(adapter / "report.json", f'(?s)("bases": .*?"sha": )"{"." * 40}"', rf'\1"{base.sha}"')
    assert {link.part: link.verdict for link in lineage(str(adapter))}["base"] == "differs"


def test_what_is_not_here_is_said_and_is_no_difference(published, monkeypatch, capsys):
    shutil.rmtree(published / "hub" / "datasets--earshot--smoke-clips")
    assert command(monkeypatch, "lineage", ADAPTER) == 0
    assert re.search(r"^not here  data set  earshot/smoke-clips@", capsys.readouterr().out, re.MULTILINE)


def test_a_repository_that_is_nowhere_is_a_sentence(published, monkeypatch, capsys):
    assert command(monkeypatch, "lineage", "me/nothing") == 2
    assert "me/nothing is neither a folder nor in" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "content"), [("report.json", "{}"), ("report.json", "[]"), ("recipe.yaml", "a: [")])
def test_what_names_no_parents_is_a_sentence(published, tmp_path, monkeypatch, capsys, name, content):
    folder = shutil.copytree(find(ADAPTER)[0], tmp_path / "adapter")
    (folder / name).write_text(content, encoding="utf-8")
    assert command(monkeypatch, "lineage", str(folder)) == 2
    said = capsys.readouterr().err
    assert f"earshot: {folder} does not name what it was made from: " in said
    assert "Traceback" not in said


def test_lineage_says_that_a_data_set_was_superseded(published):
    sha = find(CLIPS)[1]
    later = again().sha
    (data,) = (link for link in lineage(ADAPTER) if link.part == "data set")
    assert (data.name, data.note, data.verdict) == (f"{CLIPS}@{sha}", f"superseded by {CLIPS}@{later}", "agrees")


def reference(home: Path, kind: type, **facts):
    (folder,) = (path for path in (home / "store" / kind.__name__.lower()).glob("[0-9a-f]" * 16) if path.is_dir())
    return kind(fingerprint=folder.name, **facts)


def publish_again(home: Path) -> Publication:
    adapter = reference(home, Adapter, base="", seed=42, fold=0, train_accuracy=1)
    report = reference(home, Report, headline="", publishable=True)
    splits = reference(home, Splits, clips={}, groups={}, verdict="clean", folds=1)
    return publish_adapter.fn([adapter], report, splits, load_study("study/smoke"))


def test_a_result_that_may_not_be_published_says_where_its_report_is(published, monkeypatch):
    def refused(*arguments):
        raise ValueError("this result may not be published: no interval.")

    monkeypatch.setattr(cards, "render_model_card", refused)
    with pytest.raises(CheckFailed, match=r"published: no interval; its report is /.*/report\.html$"):
        publish_again(published)


def test_other_times_are_another_commit_of_the_same_weights_predictions_and_report(published):
    """A commit is over all bytes, the card's times among them; what a result is depends on no clock."""
    before = find(ADAPTER)[0]
    for file in (published / "store").glob("adapter/*.timing.json"):
        write_json(file, {**read_json(file), "train_s": 1234.5})
    publish_again(published)
    after = find(ADAPTER)[0]
    digests = file_digests(before), file_digests(after)
    changed = {name for name in digests[0].keys() | digests[1].keys() if digests[0].get(name) != digests[1].get(name)}
    assert changed == {"README.md", "evidence/timing.json", "files.json"}
    assert {link.part: link.name for link in lineage(ADAPTER)} == {
        **{link.part: link.name for link in lineage(str(before))},
        "card": f"README.md {digests[1]['README.md'][:12]}",
    }


@pytest.mark.slow
def test_a_card_rendered_again_says_that_its_data_set_was_superseded_and_still_verifies(published):
    before = find(ADAPTER)[1]
    assert publish_again(published).sha == before, "nothing was superseded: the same card"
    sha, later = find(CLIPS)[1], again().sha
    assert publish_again(published).sha != before
    card = (find(ADAPTER)[0] / "README.md").read_text(encoding="utf-8")
    assert f"`{CLIPS}` has been published again as `{later}`" in card
    assert sha in card
    assert [finding.what for finding in verify_repo(ADAPTER) if finding.verdict == "differs"] == []
