"""The test server is a Hub to its clients: huggingface_hub, datasets, transformers and peft push to it and pull from it."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.local_hub import OTHER, READS, Fault

README = b"---\nlicense: mit\n---\n# x\n"

# --- what runs in the client's process ---------------------------------------------------------------------------


def api(method: str, *arguments: Any, **keywords: Any) -> Any:
    """What a call of HfApi gives as text, or the class of what it raises: neither travels between processes."""
    from huggingface_hub import HfApi

    try:
        return str(getattr(HfApi(), method)(*arguments, **keywords))
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", "")
        return f"{type(error).__name__} {status}".strip()


def make(repo: str, kind: str = "model", private: bool = False) -> str:
    return api("create_repo", repo, repo_type=kind, private=private)


def commit(repo: str, files: dict[str, bytes], keywords: dict[str, Any] | None = None) -> str:
    """The sha of a commit, or what is raised."""
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    said = api("create_commit", repo, operations, commit_message="ours", **(keywords or {}))
    return said.rpartition("/commit/")[2]


def snapshot(repo: str, sha: str, folder: str) -> dict[str, bytes]:
    from huggingface_hub import snapshot_download

    root = Path(snapshot_download(repo, revision=sha, cache_dir=folder))
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def download(repo: str, name: str, folder: str) -> str:
    return api("hf_hub_download", repo, name, cache_dir=folder)


def push_data_set(repo: str) -> list[int]:
    import datasets

    data = datasets.Dataset.from_dict({"x": list(range(50))})
    datasets.DatasetDict({"train": data, "test": data.select(range(5))}).push_to_hub(repo, private=True)
    loaded = datasets.load_dataset(repo)
    streamed = datasets.load_dataset(repo, split="test", streaming=True)
    return [len(loaded["train"]), len(loaded["test"]), sum(row["x"] for row in streamed)]


def push_adapter(repo: str) -> bool:
    """Whether a base and its adapter answer alike after they went to the Hub and came back, and the base alone does not."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import BertConfig, BertModel

    shape = {
        "vocab_size": 8,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    base = BertModel(BertConfig(**shape))
    base.push_to_hub(f"{repo}-base")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)).eval()
    adapted.push_to_hub(repo)
    pulled = PeftModel.from_pretrained(BertModel.from_pretrained(f"{repo}-base"), repo).eval()
    ids = torch.ones((1, 3), dtype=torch.long)
    answers = [model(ids).pooler_output for model in (adapted, pulled)]
    with adapted.disable_adapter():
        bare = adapted(ids).pooler_output
    return torch.allclose(*answers) and not torch.allclose(bare, answers[0])


# --- pushing and pulling -----------------------------------------------------------------------------------------


def test_what_is_committed_is_what_is_pulled_large_files_and_small_ones(hub, client, tmp_path):
    files = {"README.md": README, "a/w.safetensors": bytes(70_000), "empty.json": b""}
    assert client.call(make, "alice/x") == f"{hub.url}/alice/x"
    sha = client.call(commit, "alice/x", files)
    assert hub.repos["models", "alice/x"].head.oid == sha
    pulled = client.call(snapshot, "alice/x", sha, str(tmp_path))
    assert {name: pulled[name] for name in files} == files
    assert len(hub.requests(r"^PUT /lfs/")) == len(hub.requests(r"^POST /lfs/.*/verify")) == 1
    (made,) = hub.requests(r"^POST .*/commit/main")
    assert [json.loads(line)["key"] for line in made.body.splitlines()] == ["header", "file", "lfsFile", "file"]


def test_a_data_set_of_datasets_goes_there_and_back_streamed_too(hub, client):
    assert client.call(push_data_set, "alice/numbers") == [50, 5, 10]
    assert hub.repos["datasets", "alice/numbers"].private
    assert all(seen.user == "alice" for seen in hub.requests("/alice/numbers/"))


@pytest.mark.slow
def test_a_model_of_transformers_and_an_adapter_of_peft_go_there_and_back(hub, client):
    assert client.call(push_adapter, "alice/small")
    assert "adapter_model.safetensors" in hub.repos["models", "alice/small"].head.files


def test_the_same_files_again_make_no_commit(hub, client):
    client.call(make, "alice/x")
    sha = client.call(commit, "alice/x", {"README.md": README})
    assert client.call(commit, "alice/x", {"README.md": README}) == sha
    assert len(hub.requests("/commit/")) == 1


def test_a_download_that_was_cut_goes_on_where_it_was(hub, client, tmp_path):
    content = bytes(range(256)) * 48 * 1024
    hub.add("models", "alice/x", {"w.safetensors": content})
    hub.faults = [Fault("^GET /lfs/", cut=11 * 2**20)]
    assert client.call(download, "alice/x", "w.safetensors", str(tmp_path)).startswith(str(tmp_path))
    ranges = [seen.headers.get("range") for seen in hub.requests("^GET /lfs/")]
    assert ranges == [None, f"bytes={10 * 2**20}-"], "the client writes in blocks of 10 MiB"
    (blob,) = (tmp_path / "models--alice--x" / "blobs").iterdir()
    assert blob.read_bytes() == content


def test_a_token_does_not_go_to_where_large_files_lie(hub, client, tmp_path):
    hub.add("models", "alice/x", {"w.safetensors": b"weights"}, private=True)
    client.call(download, "alice/x", "w.safetensors", str(tmp_path))
    assert [seen.user for seen in hub.requests("/resolve/")] == ["alice"]
    assert [seen.headers.get("authorization") for seen in hub.requests("^GET /lfs/")] == [None]


def test_a_commit_may_be_proposed_by_who_may_not_write(hub, client):
    before = hub.add("models", "alice/x", {"README.md": README}).head
    sha = client.call(commit, "alice/x", {"a.json": b"{}"}, {"create_pr": True}, HF_TOKEN=OTHER)
    repo = hub.repos["models", "alice/x"]
    assert repo.pulls == {"refs/pr/1": sha}
    assert repo.head == before


# --- what it refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice/a--b", "alice/a..b", "alice/x.git"])
def test_an_invalid_name_is_refused_by_server_or_client(hub, client, name):
    assert client.call(make, name) in ("BadRequestError 400", "HFValidationError")
    assert not hub.repos


@pytest.mark.parametrize(
    ("token", "name", "said"),
    [(READS, "alice/x", "HfHubHTTPError 403"), (OTHER, "alice/x", "HfHubHTTPError 403"), ("hf_no", "alice/x", "401")],
)
def test_who_may_not_write_does_not(hub, client, token, name, said):
    assert said in client.call(make, name, HF_TOKEN=token)
    hub.add("models", name, {"README.md": README})
    assert said.split()[-1] in client.call(commit, name, {"a.json": b"{}"}, HF_TOKEN=token)
    assert [seen for seen in hub.requests("/commit/") if seen.status == 200] == []


def test_nobody_commits_without_a_token(hub, client):
    hub.add("models", "alice/x", {"README.md": README})
    assert "401" in client.call(commit, "alice/x", {"a.json": b"{}"}, HF_TOKEN="")
    assert len(hub.repos["models", "alice/x"].commits) == 1


CARDS = {
    "no YAML": b"---\nlicense: [mit\n---\n",
    "a licence that is a list": b"---\nlicense: [mit]\n---\n",
    "a tag that is no string": b"---\ntags: [1]\n---\n",
    "a number of numpy": b"---\nmodel-index: [{results: [{metrics: [{value: !!binary aGk=}]}]}]\n---\n",
}


@pytest.mark.parametrize("card", CARDS)
def test_a_card_with_a_bad_head_is_refused_before_anything_is_uploaded(hub, client, card):
    hub.add("models", "alice/x", {"a.json": b"{}"})
    assert client.call(commit, "alice/x", {"README.md": CARDS[card], "w.safetensors": b"\0"}) == "ValueError"
    assert [seen.path for seen in hub.seen] == ["/api/validate-yaml"]


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//x", ".git/config"])
def test_a_file_outside_the_repository_is_refused_even_where_the_client_would_send_it(hub, path):
    hub.add("models", "alice/x", {"README.md": README})
    line = {"key": "file", "value": {"path": path, "content": base64.b64encode(b"x").decode()}}
    body = b"\n".join(json.dumps(one).encode() for one in ({"key": "header", "value": {"summary": "x"}}, line))
    token = {"authorization": "Bearer hf_aliceMayWrite"}
    assert hub.answer("POST", "/api/models/alice/x/commit/main", token, body).status == 400


def test_a_commit_on_a_head_that_is_no_longer_is_refused(hub, client):
    old = hub.add("models", "alice/x", {"README.md": README}).head.oid
    hub.add("models", "alice/x", {"README.md": README, "b.json": b"{}"})
    assert client.call(commit, "alice/x", {"a.json": b"{}"}, {"parent_commit": old}) == "HfHubHTTPError 412"


def test_a_private_repository_is_not_there_for_others_and_a_gated_one_is_restricted(hub, client, tmp_path):
    hub.add("models", "alice/mine", {"README.md": README}, private=True)
    hub.add("models", "alice/asked", {"README.md": README}, gated=True)
    for token, private, gated in ((OTHER, 404, 403), ("", 401, 401)):
        assert client.call(api, "model_info", "alice/mine", HF_TOKEN=token) == f"RepositoryNotFoundError {private}"
        assert client.call(api, "model_info", "alice/asked", HF_TOKEN=token) == f"GatedRepoError {gated}"
    assert client.call(download, "alice/mine", "README.md", str(tmp_path)).startswith(str(tmp_path))


def test_a_repository_a_revision_and_a_file_that_are_missing_are_told_apart(hub, client, tmp_path):
    hub.add("models", "alice/x", {"README.md": README})
    assert client.call(api, "model_info", "alice/x").startswith("ModelInfo")
    assert client.call(api, "model_info", "alice/none") == "RepositoryNotFoundError 404"
    assert client.call(download, "alice/x", "none.json", str(tmp_path)) == "RemoteEntryNotFoundError 404"
    assert client.call(snapshot_missing, "alice/x", str(tmp_path)) == "RevisionNotFoundError 404"


def snapshot_missing(repo: str, folder: str) -> str:
    return api("snapshot_download", repo, revision="0" * 40, cache_dir=folder)


def test_a_tag_stands_once(hub, client):
    sha = hub.add("models", "alice/x", {"README.md": README}).head.oid
    assert client.call(tag, "alice/x", "v1") == "None"
    assert client.call(tag, "alice/x", "v1") == "HfHubHTTPError 409"
    assert hub.repos["models", "alice/x"].tags == {"v1": sha}


def tag(repo: str, name: str) -> str:
    return api("create_tag", repo, tag=name)


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_a_fault_strikes_as_often_as_it_was_asked_to(hub, client, status):
    client.call(make, "alice/x")
    hub.faults = [Fault("/commit/", status=status, headers={"Retry-After": "3"}, times=1)]
    assert client.call(commit, "alice/x", {"a.json": b"{}"}) == f"HfHubHTTPError {status}"
    assert len(client.call(commit, "alice/x", {"a.json": b"{}"})) == 40


@pytest.mark.parametrize("done", [False, True])
def test_an_answer_that_is_lost_may_have_been_done(hub, client, done):
    client.call(make, "alice/x")
    hub.faults = [Fault("/commit/", done=done)]
    assert client.call(commit, "alice/x", {"a.json": b"{}"}) == "RemoteProtocolError"
    assert len(hub.repos["models", "alice/x"].commits) == 1 + done
