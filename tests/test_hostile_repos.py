"""Repositories of others are refused by the name of the file that is wrong, before anything in them is loaded or run."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tasks.repo_checks import LARGEST, check_adapter, check_folder, check_listing, check_readme, fault_of, read_header
from tests.test_hub_publish import pull

BASE = f"me/base@{'b' * 40}"
CONFIG = {
    "peft_type": "LORA",
    "base_model_name_or_path": "me/base",
    "revision": "b" * 40,
    "r": 2,
    "auto_mapping": None,
}
MODULE = "base_model.model.layers.0.q_proj"


def tensors(rank: int = 2, **more: np.ndarray) -> dict[str, np.ndarray]:
    a, b = np.zeros((rank, 6), np.float32), np.zeros((4, rank), np.float32)
    return {f"{MODULE}.lora_A.weight": a, f"{MODULE}.lora_B.weight": b, **more}


@pytest.fixture
def adapter(tmp_path) -> Path:
    """A sound adapter, to be spoilt."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    save_file(tensors(), folder / "adapter_model.safetensors")
    save_file({"layers.0.q_proj.weight": np.zeros((4, 6), np.float32)}, tmp_path / "base.safetensors")
    return folder


def check(folder: Path) -> None:
    """Everything that is looked at in an adapter."""
    check_listing({file.name: file.stat().st_size for file in folder.iterdir()}, "me/adapter")
    check_folder(folder, folder, "me/adapter")
    check_adapter(folder, BASE, read_header(folder.parent / "base.safetensors"))


def configured(**changes: Any):
    return lambda folder: (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))


def weighted(content: dict[str, np.ndarray]):
    return lambda folder: save_file(content, folder / "adapter_model.safetensors")


def forged(header: bytes, body: bytes = b"", length: int | None = None):
    start = struct.pack("<Q", len(header) if length is None else length)
    return lambda folder: (folder / "adapter_model.safetensors").write_bytes(start + header + body)


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> bytes:
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


def linked(folder: Path) -> None:
    (folder / "report.json").symlink_to("/etc/hostname")


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def coded(folder: Path) -> None:
    (folder / "modeling.py").write_text("raise SystemExit")


HOSTILE = {
    "a pickle instead of weights": (pickled, "'adapter_model.bin' is code, or data that runs code"),
    "code beside the weights": (coded, "'modeling.py' is code"),
    "a link out of the repository": (linked, "'report.json' is a link that leads out"),
    "code to be imported": (configured(auto_map={"AutoModel": "me/code--m.M"}), r"asks for code .* \(auto_map\)"),
    "a class to be imported": (configured(auto_mapping={"base_model_class": "X", "parent_library": "os"}), "auto_mapping"),
    "a module to be imported": (configured(megatron_config={"a": 1}, megatron_core="os"), "megatron_config"),
    "a foreign base": (configured(base_model_name_or_path="you/base"), "is an adapter of another base: it names 'you"),
    "another revision of the base": (configured(revision="c" * 40), "is an adapter of another base"),
    "no revision of the base": (configured(revision=None), "'me/base@None'"),
    "another kind of adapter": (configured(peft_type="PROMPT_TUNING"), "is no LoRA adapter"),
    "a rank beyond all measure": (configured(r=10**9), "has ranks"),
    "a rank that is no number": (configured(r="2"), "has ranks"),
    "another rank than the weights": (configured(r=3), "do not fit together"),
    "weights of another shape": (weighted(tensors(4)), "do not fit together"),
    "a weight without its pair": (
        weighted({f"{MODULE}.lora_A.weight": np.zeros((2, 6), np.float32)}), "do not fit together"),
    "weights of the base itself": (weighted(tensors(w=np.zeros(2, np.float32))), "'w', F32 .* is no part of a LoRA adapter"),
    "weights that are not numbers of a model": (
        weighted({name: value.astype(np.int64) for name, value in tensors().items()}), "no part of a LoRA adapter"),
    "modules the base has not": (
        weighted({name.replace("s.0", "s.7"): value for name, value in tensors().items()}), "does not fit its base"),
    "a width the base has not": (
        weighted({**tensors(), f"{MODULE}.lora_B.weight": np.zeros((5, 2), np.float32)}), "does not fit its base"),
    "no weights": (weighted({}), "holds no weights"),
    "a header larger than the file": (forged(b"{}", length=2**62), "claims a header of 4,611,686,018,427,387,904 bytes"),
    "a header that is no JSON": (forged(b"\xff\xfe{"), "a header that is no JSON"),
    "a header of brackets without end": (forged(b"[" * 100_000), "a header that is no JSON"),
    "a tensor without an end": (forged(entry(offsets=(0, 2**60))), "'w' of 'F32' and shape"),
    "a tensor of negative size": (forged(entry(shape=(-1,), offsets=(4, 0))), "'w' of 'F32'"),
    "a tensor beyond the file": (forged(entry()), "promises 4 bytes of weights and holds 0"),
    "tensors over each other": (
        forged(json.dumps({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}).encode(), bytes(4)),
        "overlap"),
    "bytes after the weights": (forged(entry(), bytes(5)), "promises 4 bytes of weights and holds 5"),
    "a type that is none": (forged(entry("PICKLE"), bytes(4)), "'PICKLE'"),
    "a file cut short": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\0"), "claims a header"),
    "a configuration that is no JSON": (
        lambda folder: (folder / "adapter_config.json").write_text("{"), r"'adapter_config\.json' "),
    "a configuration of brackets without end": (
        lambda folder: (folder / "adapter_config.json").write_text("[" * 100_000), r"'adapter_config\.json' "),
    "a configuration that is missing": (lambda folder: (folder / "adapter_config.json").unlink(), "holds no adapter_config"),
}  # fmt: skip


def test_a_sound_adapter_is_taken(adapter):
    check(adapter)


MAGNITUDE = f"{MODULE}.lora_magnitude_vector"


def test_a_dora_adapter_is_taken_with_its_magnitudes_and_refused_without(adapter):
    configured(use_dora=True)(adapter)
    with pytest.raises(ValueError, match=r"is a DoRA adapter and has no .*magnitude"):
        check(adapter)
    weighted(tensors(**{MAGNITUDE: np.ones(4, np.float32)}))(adapter)
    check(adapter)
    weighted(tensors(**{MAGNITUDE: np.ones(5, np.float32)}))(adapter)
    with pytest.raises(ValueError, match=r"no .* of \(4,\)"):
        check(adapter)
    configured(use_dora=False)(adapter)
    with pytest.raises(ValueError, match="no part of a LoRA adapter"):
        check(adapter)


@pytest.mark.parametrize("how", HOSTILE)
def test_an_adapter_that_is_spoilt_is_refused_by_name(adapter, how):
    spoil, said = HOSTILE[how]
    spoil(adapter)
    with pytest.raises(ValueError, match=said):
        check(adapter)


def test_no_weight_is_read_to_refuse_it(adapter, monkeypatch):
    """A header decides: the file behind it may be larger than the memory."""
    with (adapter / "adapter_model.safetensors").open("ab") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="and holds 1,099,511"):
        read_header(adapter / "adapter_model.safetensors")


# --- names -------------------------------------------------------------------------------------------------------

NAMES = [
    "../up.json", "a/../../up.json", "/etc/passwd", "a//b.json", "./a.json", "C:/x.json", "..\\up.json", "a/\x00.json",
    "a/\u202egpj.json", "\uff0e\uff0e/up.json", "re\u0430dme.md", "a\u200b.json", "a\n.json", "x.json ", "x.json.",
    " x.json", "~/x.json:stream", "\U0001f600.json",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_or_reads_as_another_one_is_refused(name):
    with pytest.raises(ValueError, match=r"me/x is refused: '"):
        check_listing({"README.md": 10, name: 10}, "me/x")


@pytest.mark.parametrize(
    "name", ["a.bin", "b/c.PT", "x.pkl", "x.py", "x.so", "model.ckpt", "x.npz", "deep/down/x.joblib"]
)
def test_what_runs_when_it_is_read_is_refused_wherever_it_lies(name):
    with pytest.raises(ValueError, match="is code, or data that runs code"):
        check_listing({name: 10}, "me/x")


def test_two_names_that_are_one_file_on_some_machines_are_refused():
    with pytest.raises(ValueError, match=r"'readme\.md' and 'README\.md' are one file"):
        check_listing({"README.md": 1, "readme.md": 1}, "me/x")


def test_files_beyond_all_measure_are_refused_before_they_are_downloaded():
    with pytest.raises(ValueError, match=r"'README.md' has 1,048,577 bytes, at most 1,048,576 are read"):
        check_listing({"README.md": 2**20 + 1}, "me/x")
    with pytest.raises(ValueError, match=r"'report.json' has"):
        check_listing({"report.json": LARGEST["text"] + 1}, "me/x")
    with pytest.raises(ValueError, match=r"lists 10001 files"):
        check_listing({f"{n}.json": 1 for n in range(10_001)}, "me/x")


OURS = ["README.md", ".gitattributes", "data/part0.parquet", "fold-1/adapter_config.json", "figures/accuracy_by_snr_db.png",
        "evidence/audit.json", "recipe.yaml", "chat_template.jinja", "merges.txt", "report.html"]  # fmt: skip


def test_what_we_publish_ourselves_is_taken():
    check_listing(dict.fromkeys(OURS, 1000), "me/x")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20))
def test_every_name_that_is_taken_stays_inside_the_folder(name):
    if not fault_of(name, 1):
        root = Path("/a/folder")
        assert (root / name).resolve().is_relative_to(root)
        assert name.isascii()


# --- cards -------------------------------------------------------------------------------------------------------


def card(head: str) -> str:
    return f"---\n{head}\n---\n# x\n"


CARDS = {
    "up and out": "configs:\n- data_files: ../../../etc/*.parquet",
    "absolute": "configs:\n- data_files:\n  - split: train\n    path: [/etc/passwd]",
    "another machine": "configs:\n- data_files: https://example.org/x.parquet",
    "another repository": "configs:\n- data_files: hf://datasets/you/x/a.parquet",
    "a folder out": "configs:\n- data_dir: ..",
    "backslashes": "configs:\n- data_files: '..\\..\\x.parquet'",
    "aliases that double": "a: &a [x, x]\nb: &b [*a, *a]\nconfigs: [*b, *b]",
    "an object of Python": "configs: !!python/object/apply:os.system [id]",
    "no YAML": "configs: [",
}


@pytest.mark.parametrize("how", CARDS)
@pytest.mark.parametrize("form", ["plain", "carriage returns", "byte order mark", "spaces", "blank lines"])
def test_a_card_that_names_files_outside_its_repository_is_refused(how, form):
    text = card(CARDS[how])
    forms = {"plain": text, "carriage returns": text.replace("\n", "\r\n"), "byte order mark": f"\ufeff{text}",
             "spaces": text.replace("---\n", "---  \n"), "blank lines": f"\n \n{text}"}  # fmt: skip
    with pytest.raises(ValueError, match=r"outside the repository|aliases or tags|not YAML"):
        check_readme(forms[form])


def test_a_card_that_names_its_own_files_is_taken():
    check_readme(
        card("configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train.parquet")
    )
    check_readme("# no head at all\n")


# --- through the Hub ---------------------------------------------------------------------------------------------

SOUND = b"---\nlicense: mit\n---\n# x\n"
REPOS = {
    "a path out": {"../../evil.json": b"{}"},
    "a pickle": {"adapter_model.bin": b"\x80\x04."},
    "a card that leads out": {"README.md": card(CARDS["up and out"]).encode()},
    "a card without end": {"README.md": b"x" * (2**20 + 1)},
    "code to be imported": {"config.json": b'{"auto_map": {"AutoModel": "m.M"}}'},
    "a forged header": {"model.safetensors": struct.pack("<Q", 2**60) + b"{}"},
    "a name that is turned around": {"a\u202enosj.json": b"{}"},
}


@pytest.mark.parametrize("what", REPOS)
def test_a_hostile_repository_on_the_hub_is_refused_every_time_it_is_asked_for(hub, client, tmp_path, what):
    sha = hub.add("models", "bob/evil", {"README.md": SOUND, **REPOS[what]}).head.oid
    for _ in range(2):
        refused = client.call(pull, "model", "bob/evil", sha, EARSHOT_HOME=str(tmp_path / "home"))
        assert refused.error == "ValueError"
        assert f"bob/evil@{sha} is refused: {next(iter(REPOS[what]))!a} " in refused.said
    assert not (tmp_path / "evil.json").exists()
    if what in ("a path out", "a pickle", "a card without end", "a name that is turned around"):
        assert hub.requests("/resolve/") == [], "nothing was downloaded"
