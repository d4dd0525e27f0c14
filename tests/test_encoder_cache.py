"""What an encoder made comes back to the bit or not at all, and the cache stays as small as it was told."""

import ast
import copy
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks import store
from tasks.models import encoder_cache as cache
from tasks.models import tiny
from tasks.models.encoder_cache import EncoderCache, adapted, clip_key, encoder_revision, folder
from tasks.models.encoding import kept_encodings
from tasks.models.families import FAMILIES, family_named
from tasks.models.family import prepare
from tasks.models.scope import lora_config

REVISION = "0123456789abcdef"


@pytest.fixture(scope="module")
def model(processor):
    return prepare(tiny.make_model(processor, seed=3)).eval()


def vectors(seed, tokens=5, dtype=torch.float32):
    return torch.randn(tokens, 96, generator=torch.Generator().manual_seed(seed)).to(dtype)


def filled(n=3, **keywords) -> EncoderCache:
    """A cache with one shard of n clips."""
    made = EncoderCache(REVISION, **keywords)
    for k in range(n):
        made.put(f"clip{k}", vectors(k))
    made.flush()
    return made


def shard():
    (path,) = folder().glob("*.safetensors")
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_put_comes_back_to_the_bit(home, dtype):
    one = EncoderCache(REVISION)
    one.put("a", vectors(1, 25, dtype))
    one.put("b", vectors(2, 1, dtype))
    assert torch.equal(one.get("a"), vectors(1, 25, dtype)), "before it is on disk"
    one.flush()
    for known in (one, EncoderCache(REVISION)):
        assert len(known) == 2
        assert torch.equal(known.get("a"), vectors(1, 25, dtype))
        assert torch.equal(known.get("b"), vectors(2, 1, dtype))
        assert known.get("c") is None


def test_another_encoder_knows_nothing_of_it(home):
    filled()
    assert EncoderCache("f" * 16).get("clip0") is None


def test_what_is_kept_is_a_copy(home):
    made, batch = EncoderCache(REVISION), vectors(1)
    made.put("a", batch[:2])
    batch.zero_()
    assert made.get("a").abs().min() > 0


def test_a_shard_is_written_as_soon_as_there_is_enough_for_one(home, monkeypatch):
    monkeypatch.setattr(cache, "SHARD_BYTES", 3 * vectors(0).nbytes)
    made = EncoderCache(REVISION)
    for k in range(7):
        made.put(f"clip{k}", vectors(k))
    assert len(list(folder().glob("*.safetensors"))) == 2
    made.flush()
    assert len(list(folder().glob("*.safetensors"))) == 3
    made.flush()
    assert len(list(folder().glob("*.safetensors"))) == 3, "nothing new, nothing written"


@pytest.mark.parametrize("place", [8, 60, -10], ids=["its header", "its names", "its numbers"])
def test_a_damaged_shard_is_removed_and_its_clips_are_made_anew(home, place):
    filled()
    content = bytearray(shard().read_bytes())
    content[place] ^= 0xFF
    path = shard()
    path.write_bytes(content)
    damaged = EncoderCache(REVISION)
    assert [damaged.get(f"clip{k}") for k in range(3)] == [None] * 3
    assert not path.exists()
    damaged.put("clip1", vectors(1))
    damaged.flush()
    assert torch.equal(EncoderCache(REVISION).get("clip1"), vectors(1))


def test_a_shard_that_was_cut_short_is_removed(home):
    filled()
    path = shard()
    path.write_bytes(path.read_bytes()[:100])
    assert EncoderCache(REVISION).get("clip0") is None
    assert not path.exists()


def test_a_shard_that_another_process_removed_is_no_error(home):
    filled()
    late = EncoderCache(REVISION)
    shard().unlink()
    assert late.get("clip0") is None
    assert late.get("clip1") is None


def test_the_least_recently_used_shards_make_room(home):
    filled()
    size = shard().stat().st_size
    names = []
    for k in range(3):
        made = EncoderCache(f"{k}" * 16, most_bytes=4 * size)
        for clip in range(3):
            made.put(f"clip{clip}", vectors(clip))
        made.flush()
        names.append(f"{k}" * 16)
        os.utime(next(folder().glob(f"{k}*")), (1000 + k, 1000 + k))
    assert len(cache.shards()) == 4
    assert EncoderCache(names[0]).get("clip0") is not None, "used just now"
    last = EncoderCache("e" * 16, most_bytes=4 * size)
    last.put("clip0", torch.cat([vectors(k) for k in range(3)]))
    last.flush()
    assert [EncoderCache(name).get("clip0") is None for name in names] == [False, True, False]
    assert sum(path.stat().st_size for path in cache.shards()) <= 4 * size


def test_what_a_killed_process_left_half_written_is_never_read_and_is_swept_away(home):
    filled()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    half = folder() / f".draft-{socket.gethostname()}-{dead.pid}-x.safetensors"
    half.write_bytes(b"half")
    assert len(EncoderCache(REVISION)) == 3
    assert half not in cache.shards()
    assert half in store.sweep()
    assert not half.exists()


def test_a_draft_of_a_living_process_is_swept_by_nobody(home):
    filled()
    half = folder() / f".draft-{socket.gethostname()}-{os.getpid()}-x.safetensors"
    half.write_bytes(b"half")
    assert store.sweep() == []


def test_threads_may_ask_at_the_same_time(home):
    filled(40)
    known = EncoderCache(REVISION)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(known.get, [f"clip{k % 40}" for k in range(400)]))
    assert all(torch.equal(its, vectors(k % 40)) for k, its in enumerate(found))


def test_a_clip_is_named_by_its_bytes():
    assert clip_key(b"one") == clip_key(b"one") != clip_key(b"other")


def test_an_encoder_is_known_by_its_weights_and_by_nothing_of_the_language_model(model, processor):
    revision = encoder_revision(model, processor)
    other = copy.deepcopy(model)
    torch.nn.init.zeros_(other.lm_head.weight)
    torch.nn.init.zeros_(other.model.language_model.layers[0].self_attn.q_proj.weight)
    assert encoder_revision(other, processor) == revision
    for name in ("audio_tower.layers.1.fc1", "multi_modal_projector.linear"):
        changed = copy.deepcopy(model)
        changed.model.get_submodule(name).bias.data[0] += 1e-3
        assert encoder_revision(changed, processor) != revision
    assert encoder_revision(copy.deepcopy(model).to(torch.bfloat16), processor) != revision


def test_what_else_decides_the_bits_is_in_an_encoders_name(model, processor, tmp_path, monkeypatch):
    revision = encoder_revision(model, processor)
    assert encoder_revision(copy.deepcopy(model), tiny.make_processor()) == revision
    other = copy.deepcopy(model)
    other.config.audio_config.activation_function = "relu"
    assert encoder_revision(other, processor) != revision
    another = tiny.make_processor()
    another.feature_extractor.n_fft = 512
    assert encoder_revision(model, another) != revision
    for file in (*cache.CODE, "models/qwen2_audio.py", "models/qwen3_omni.py"):
        tree = shutil.copytree(cache.TASKS / "models", tmp_path / file / "models").parent
        shutil.copy(cache.TASKS / "audio_files.py", tree)
        with (tree / file).open("a") as code:
            code.write("# another way\n")
        with monkeypatch.context() as patched:
            patched.setattr(cache, "TASKS", tree)
            assert (encoder_revision(model, processor) == revision) == (file == "models/qwen3_omni.py")


def test_threads_libraries_and_the_meaning_of_the_same_bytes_are_in_an_encoders_name(model, processor, monkeypatch):
    revision = encoder_revision(model, processor)
    # `cache.transformers`: that package puts another module into its own place, and who imports it when may have either.
    for module, name, other in (
        (torch, "get_num_threads", lambda: 77), (torch, "__version__", "0"), (cache.transformers, "__version__", "0"),
        (np, "__version__", "0"),
    ):  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(module, name, other)
            assert encoder_revision(model, processor) != revision, f"{module.__name__}.{name}"
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    before = encoder_revision(rounded, processor)
    for weight in rounded.parameters():
        weight.data = weight.data.view(torch.float16)
    assert encoder_revision(rounded, processor) != before


NO_PART_IN_IT = {"models/loading.py", "models/widths.py", "models/experts.py"}


def test_all_that_the_module_of_a_family_takes_from_others_is_in_an_encoders_name():
    for model_type in FAMILIES:
        tree = ast.parse(Path(family_named(model_type).__file__).read_text(encoding="utf-8"))
        taken = [
            node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("tasks")
        ]
        names = {name for node in taken for name in files_of(node)}
        assert names <= {*cache.CODE, *NO_PART_IN_IT}, model_type


def files_of(node: ast.ImportFrom) -> list[str]:
    """The modules that an import names, by their files below tasks."""
    paths = [node.module, *(f"{node.module}.{its.name}" for its in node.names)]
    files = [f"{path.removeprefix('tasks').strip('.').replace('.', '/')}.py" for path in paths]
    return [file for file in files if (cache.TASKS / file).is_file()]


def test_an_adapted_encoder_has_no_place_in_the_cache(model, processor, home):
    from peft import get_peft_model

    assert kept_encodings(model, processor).revision == encoder_revision(model, processor)
    of_language = get_peft_model(copy.deepcopy(model), lora_config(model, {"r": 2}, "language_model")).get_base_model()
    assert not adapted(of_language)
    assert kept_encodings(of_language, processor).revision == encoder_revision(model, processor), (
        "its encoder is the base's"
    )
    of_both = get_peft_model(
        copy.deepcopy(model), lora_config(model, {"r": 2}, "language_model+encoder")
    ).get_base_model()
    assert adapted(of_both)
    assert kept_encodings(of_both, processor) is None
