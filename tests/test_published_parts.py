"""A study that starts from published parts in an empty home: pulled to the byte, audited again, nothing built."""

import contextlib
import io
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml

from recipes.data import DatasetRecipe
from recipes.schema import CheckFailed, load_study
from tasks.adapters import pull_adapter, pull_base
from tasks.hub import find, pinned, publish
from tasks.splits import pull_splits
from tasks.store import Publication, fingerprint, read_json
from tests.commands import Done, earshot
from tests.hub_clients import CLIENT, clients
from tests.local_hub import WRITES, LocalHub, local_hub
from tests.test_hub_publish import contents

pytestmark = pytest.mark.slow
CLASSES = ("SPEECH", "NONSPEECH")


class Built(NamedTuple):
    """A data set that `earshot build` published to a Hub from one home."""

    hub: LocalHub
    home: Path
    done: Done
    sha: str
    run: Callable[..., Done]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("two homes")
    with local_hub() as hub, pytest.MonkeyPatch.context() as environment:
        for name, value in {
            **CLIENT,
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": WRITES,
            "HF_HOME": str(folder / "hf"),
        }.items():
            environment.setenv(name, value)
        wish = ("--set", "publish.to=hub", "--set", "publish.namespace=alice")
        done = earshot(folder / "first", "build", "study/smoke", *wish)
        assert done.code == 0, done.err[-3000:]
        sha = hub.repos["datasets", "alice/smoke-clips"].head.oid
        yield Built(hub, folder / "first", done, sha, lambda home, *a: earshot(folder / home, *a))


def shelf(home: Path, kind: str) -> set[str]:
    return {path.name for path in (home / "store" / kind).glob("[!.]*") if path.is_dir()}


def test_a_study_published_to_the_hub_is_private_tagged_and_read_back_whole(built):
    repo = built.hub.repos["datasets", "alice/smoke-clips"]
    assert repo.private
    assert list(repo.tags.values()) == [built.sha]
    assert f"alice/smoke-clips@{built.sha}" in built.done.out
    read = built.run("reader", "verify", f"alice/smoke-clips@{built.sha}")
    assert read.code == 0, read.out + read.err


def loaded(sha: str) -> tuple[dict[str, int], list[str], str, list[str]]:
    """What the libraries of Hugging Face make of the published data set, without any code of ours."""
    import datasets
    from huggingface_hub import DatasetCard, snapshot_download

    whole = datasets.load_dataset("alice/smoke-clips", revision=sha)
    folder = datasets.load_dataset(snapshot_download("alice/smoke-clips", repo_type="dataset", revision=sha))
    assert {name: len(part) for name, part in folder.items()} == {name: len(part) for name, part in whole.items()}
    stream = datasets.load_dataset("alice/smoke-clips", revision=sha, split="test", streaming=True)
    clips = [row["clip_id"] for row in stream.cast_column("audio", datasets.Audio(decode=False))]
    card = DatasetCard.load("alice/smoke-clips").data
    return {name: len(part) for name, part in whole.items()}, clips, card.license, card.task_categories


def test_the_published_data_set_is_one_to_hugging_faces_own_libraries_streamed_too(built, tmp_path):
    with clients(built.hub, tmp_path) as client:
        sizes, streamed, licence, categories = client.call(loaded, built.sha)
    assert sizes == {"train": 32, "dev": 16, "test": 32}
    assert len({*streamed}) == sizes["test"]
    assert (licence, categories) == ("mit", ["audio-classification"])


def used(sha: str) -> str:
    """What the lines print that the published card shows, with the sha in them."""
    from huggingface_hub import DatasetCard

    card = DatasetCard.load("alice/smoke-clips").text
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(found[1].replace("<40 hex digits>", sha), {})
    return said.getvalue()


def test_the_use_that_the_data_sets_card_shows_reads_a_clip(built, tmp_path):
    with clients(built.hub, tmp_path) as client:
        assert re.fullmatch(r"(NON)?SPEECH 0\.(06|2)\n", client.call(used, built.sha))


def test_the_same_study_again_makes_no_second_commit(built):
    again = built.run("first", "build", "study/smoke", "--set", "publish.to=hub", "--set", "publish.namespace=alice")
    assert again.code == 0
    assert built.hub.repos["datasets", "alice/smoke-clips"].head.oid == built.sha


def test_a_second_home_starts_from_the_published_data_set_and_audits_it_again(built):
    done = built.run("second", "build", "study/smoke", "--set", f"dataset=alice/smoke-clips@{built.sha}")
    assert done.code == 0, done.err[-3000:]
    second = built.home.parent / "second"
    assert "splits of alice/smoke-clips, pulled and audited: completed" in done.err
    assert shelf(second, "splits") == shelf(built.home, "splits"), "to the byte: what depends on it has the same key"
    assert shelf(second, "clips") == shelf(second, "recordings") == set(), "nothing was built"
    assert built.hub.repos["datasets", "alice/smoke-clips"].head.oid == built.sha, "nothing was published"


def test_offline_with_an_empty_home_is_a_sentence(built, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = built.run("third", "build", "study/smoke", "--set", f"dataset=alice/smoke-clips@{built.sha}")
    assert done.code == 2
    assert "HF_HUB_OFFLINE is set, so the Hub is not asked" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_a_sha_that_is_cut_short_is_a_sentence(built):
    done = built.run("third", "build", "study/smoke", "--set", f"dataset=alice/smoke-clips@{built.sha[:12]}")
    assert done.code == 2
    assert "a revision is pinned by all 40 hex digits" in done.err


def test_without_a_token_a_study_that_publishes_to_the_hub_does_not_begin(built, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    wish = ("--set", "publish.to=hub", "--set", "publish.namespace=alice")
    done = built.run("fourth", "build", "study/smoke", *wish)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("earshot: publishing to the Hub needs a token that may write")
    assert not (built.home.parent / "fourth" / "store").exists()
    assert "Traceback" not in done.err


def test_a_base_of_another_family_on_the_hub_ends_the_command_before_anything_is_built(built):
    sha = built.hub.add("models", "me/talker", {"config.json": b'{"model_type": "talker"}'}).head.oid
    done = built.run("fifth", "run", "study/smoke", "--set", f"train.base=me/talker@{sha}")
    assert done.code == 2
    assert f"train.base: me/talker@{sha} is a model of the type 'talker'" in done.err.splitlines()[-1]
    assert not (built.home.parent / "fifth" / "store").exists()


# --- a published data set that is not what it says ---------------------------------------------------------------


@pytest.fixture
def data(built, tmp_path, monkeypatch) -> Path:
    """A copy of what was published that a test may alter, in a home of its own."""
    monkeypatch.setenv("EARSHOT_HOME", str(built.home))
    folder = find("alice/smoke-clips")[0]
    monkeypatch.setenv("EARSHOT_HOME", str(tmp_path / "home"))
    return shutil.copytree(folder, tmp_path / "altered")


def pulled(folder: Path) -> Any:
    """What pulling the altered folder gives."""
    recipe = DatasetRecipe.model_validate(read_json(folder / "recipe.json"))
    return pull_splits.fn(publish(folder, "dataset", "me/clips"), recipe, CLASSES)


def alter(file: Path, column: str, change: Callable[[list[Any]], list[Any]]) -> None:
    table = pq.read_table(file)
    at = table.column_names.index(column)
    kind = table.schema.field(column).type
    pq.write_table(
        table.set_column(at, table.schema.field(column), pa.array(change(table[column].to_pylist()), kind)), file
    )


def with_first(change: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [change(values[0]), *values[1:]]


def test_what_was_not_altered_is_pulled_to_the_byte(data):
    splits = pulled(data)
    assert splits.verdict == "clean"
    assert {file.name for file in (splits.path / "data").iterdir()} == {"train.parquet", "dev.parquet", "test.parquet"}
    assert fingerprint(splits.path) == splits.fingerprint


def test_a_group_on_two_parts_is_found_by_the_second_audit_whatever_audit_json_says(data):
    group = pq.read_table(data / "data" / "test.parquet")["group_id"][0].as_py()
    alter(data / "data" / "train.parquet", "group_id", with_first(lambda _: group))
    with pytest.raises(CheckFailed, match=rf"group: 1 shared, e\.g\. {re.escape(group)}"):
        pulled(data)


def test_a_clip_that_is_copied_under_another_hash_is_found(data):
    audio = pq.read_table(data / "data" / "test.parquet")["audio"][0].as_py()
    alter(data / "data" / "train.parquet", "audio", with_first(lambda _: audio))
    with pytest.raises(CheckFailed, match="does not have the audio that its row was hashed over"):
        pulled(data)


def claiming(samples: int) -> Callable[[Any], Any]:
    """The same audio whose header claims another number of samples."""

    def change(audio: Any) -> Any:
        flac = audio["bytes"]
        field = int.from_bytes(flac[18:26], "big") >> 36 << 36 | samples
        return {**audio, "bytes": flac[:18] + field.to_bytes(8, "big") + flac[26:]}

    return change


def long_flac() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, [0.1, -0.1] * 16_000 * 16, 16_000, format="FLAC")
    return buffer.getvalue()


AUDIO = {
    "a forged number of samples": (claiming(2**36 - 1), "claims 68,719,476,735"),
    "an unknown number of samples": (claiming(0), r"cannot be read: \d+ bytes that are no FLAC of a known length"),
    "half a minute and more": (lambda a: {**a, "bytes": long_flac()}, "claims 512,000 samples"),
    "no bytes but a path of this machine": (
        lambda _: {"bytes": None, "path": "/etc/passwd"}, "cannot be read: 0 bytes that are no FLAC",
    ),
    "no FLAC": (lambda a: {**a, "bytes": b"RIFF" * 20}, "cannot be read: 80 bytes that are no FLAC"),
}  # fmt: skip


@pytest.mark.parametrize("how", AUDIO)
def test_audio_that_is_not_what_a_clip_may_be_is_refused_before_it_is_decoded(data, how):
    change, said = AUDIO[how]
    alter(data / "data" / "dev.parquet", "audio", with_first(change))
    with pytest.raises(CheckFailed, match=rf"clip '.*' of dev\.parquet {said}"):
        pulled(data)


@pytest.mark.parametrize(("column", "value"), [("part", "test"), ("label", "MUSIC")])
def test_a_row_of_another_part_or_class_is_refused(data, column, value):
    alter(data / "data" / "dev.parquet", column, with_first(lambda _: value))
    with pytest.raises(CheckFailed, match=rf"of dev\.parquet is .*'{value}'"):
        pulled(data)


def test_a_clip_that_stands_there_twice_is_refused(data):
    clip = pq.read_table(data / "data" / "dev.parquet")["clip_id"][1].as_py()
    alter(data / "data" / "dev.parquet", "clip_id", with_first(lambda _: clip))
    with pytest.raises(CheckFailed, match="stands there twice"):
        pulled(data)


@pytest.mark.parametrize("name", ["data/dev.parquet", "audit.json"])
def test_a_file_that_is_missing_is_named(data, name):
    (data / name).unlink()
    with pytest.raises(ValueError, match=rf"holds no {name}"):
        pulled(data)


def test_another_recipe_than_the_one_that_lies_in_it_is_refused(data):
    recipe = DatasetRecipe.model_validate({**read_json(data / "recipe.json"), "name": "another"})
    with pytest.raises(ValueError, match="was made by another recipe"):
        pull_splits.fn(publish(data, "dataset", "me/clips"), recipe, CLASSES)


# --- recipes -----------------------------------------------------------------------------------------------------

SHA = "a" * 40


def named(dataset: Any = f"me/clips@{SHA}", **keys: Any) -> dict[str, Any]:
    parts = {
        "train": "train/smoke",
        "evaluate": "evaluate/default",
        "publish": {"dataset": "clips", "adapter": "adapter"},
    }
    return {"schema": 1, "name": "mine", "dataset": dataset, **parts, **keys}


def smoke(_: str) -> Any:
    return load_study("study/smoke").dataset.model_dump(mode="json")


def test_a_recipe_that_names_a_data_set_has_the_recipe_that_lies_in_it_and_says_where_it_is_from():
    study = load_study(named(), published=smoke)
    assert study.dataset == load_study("study/smoke").dataset
    assert study.dataset_from == f"me/clips@{SHA}"
    text = yaml.safe_dump(study.model_dump(mode="json", by_alias=True))
    assert load_study(yaml.safe_load(text)) == study, "what is published as recipe.yaml is the same study again"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"inflation": True}, "inflation deals the clips anew"),
        ({"adapter": "me/a@main"}, "adapter: .*main"),
        (
            {"adapter": f"me/a@{SHA}", "inflation": True, "dataset": "dataset/smoke"},
            "adapter: one adapter is evaluated",
        ),
        ({"publish": {"dataset": "x", "adapter": "x"}}, "both called 'x'"),
        ({"publish": {"dataset": "x", "adapter": "y", "token": "hf_x"}}, "no such key"),
        ({"publish": {"dataset": "x", "adapter": "y", "endpoint": "https://x.org"}}, "no such key"),
    ],
)
def test_what_published_parts_do_not_allow_is_refused_before_anything_runs(keys, said):
    with pytest.raises(ValueError, match=said):
        load_study(named(**keys), published=smoke)


# --- an adapter --------------------------------------------------------------------------------------------------


@pytest.fixture
def second(smoke_home, tmp_path) -> Path:
    """A home that holds what the smoke study published, and nothing else."""
    shutil.copytree(smoke_home / "hub", tmp_path / "home" / "hub")
    return tmp_path / "home"


def serve(hub: LocalHub, published: Path) -> None:
    """Let a Hub hold what lies in a home's hub, under the same shas."""
    for snapshot in published.glob("*s--*/snapshots/*"):
        kind, *name = snapshot.parent.parent.name.split("--")
        repo = hub.add(kind, "/".join(name), contents(snapshot))
        repo.commits[snapshot.name] = replace(repo.head, oid=snapshot.name)
        repo.heads["main"] = snapshot.name


@pytest.fixture
def smoke_home(smoke) -> Path:
    assert smoke.first.code == 0, smoke.first.err[-3000:]
    return smoke.home


def names(home: Path) -> tuple[str, str]:
    refs = {kind: (home / "hub" / kind / "refs" / "main").read_text()
            for kind in ("datasets--earshot--smoke-clips", "models--earshot--smoke-adapter")}  # fmt: skip
    clips, adapter = refs.values()
    return f"earshot/smoke-clips@{clips}", f"earshot/smoke-adapter@{adapter}"


def test_a_published_adapter_and_its_base_come_to_an_empty_home_over_http_instead_of_being_trained(
    built, smoke_home, tmp_path
):
    serve(built.hub, smoke_home / "hub")
    built.hub.seen.clear()
    second, (clips, adapter) = tmp_path / "home", names(smoke_home)
    done = earshot(second, "evaluate", "study/smoke", "--set", f"dataset={clips}", "--set", f"adapter={adapter}")
    assert done.code == 0, done.err[-3000:]
    assert {seen.method for seen in built.hub.seen} == {"GET", "HEAD"}, "it publishes nothing of what it took"
    read = {name for seen in built.hub.seen for name in re.findall(r"earshot/smoke-[a-z-]+", seen.path)}
    assert read == {"earshot/smoke-clips", "earshot/smoke-adapter", "earshot/smoke-adapter-base"}
    for kind in ("splits", "base", "adapter", "predictions"):
        assert shelf(second, kind) == shelf(smoke_home, kind)
    assert shelf(second, "clips") == shelf(second, "recordings") == set()


@pytest.fixture
def parts(second, monkeypatch) -> tuple[Publication, Publication]:
    """The published adapter and data set, in that home."""
    monkeypatch.setenv("EARSHOT_HOME", str(second))
    clips, adapter = names(second)
    return pinned("model", adapter), pinned("dataset", clips)


METHOD = load_study("study/smoke").train.method


def test_base_and_adapter_are_pulled_to_the_byte(parts, smoke_home):
    source, data = parts
    base, named = pull_base.fn(source, data, 0)
    adapter = pull_adapter.fn(source, data, METHOD, base, named, 42, 0)
    assert {base.fingerprint} == shelf(smoke_home, "base")
    assert {adapter.fingerprint} == shelf(smoke_home, "adapter")
    assert adapter.base == f"{named.repo}@{named.sha}"


def test_an_adapter_of_another_data_set_is_refused_for_what_it_may_have_heard(parts):
    source, data = parts
    another = data.model_copy(update={"sha": "0" * 40})
    with pytest.raises(CheckFailed, match=r"may have heard these test clips\. Set dataset=earshot/smoke-clips@"):
        pull_base.fn(source, another, 0)
    with pytest.raises(CheckFailed, match="may have heard these test clips"):
        pull_adapter.fn(source, another, METHOD, None, None, 42, 0)


def test_an_adapter_of_another_seed_base_or_fold_is_refused(parts):
    source, data = parts
    base, named = pull_base.fn(source, data, 0)
    with pytest.raises(ValueError, match=r"has seed 42, the study 7: set train\.seeds=\[42\]"):
        pull_adapter.fn(source, data, METHOD, base, named, 7, 0)
    foreign = METHOD.model_copy(update={"base": f"you/base@{SHA}"})
    with pytest.raises(ValueError, match="is an adapter of another base"):
        pull_adapter.fn(source, data, foreign, None, None, 42, 0)
    with pytest.raises(ValueError, match="holds no adapter of fold 1"):
        pull_base.fn(source, data, 1)


def test_a_tiny_base_is_made_anew_where_the_sources_of_this_machine_deal_the_same_parts(second, smoke_home):
    clips, _ = names(second)
    done = earshot(second, "train", "study/smoke", "--set", f"dataset={clips}")
    assert done.code == 0, done.err[-3000:]
    assert shelf(second, "base") == shelf(smoke_home, "base")
