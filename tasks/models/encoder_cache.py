"""What a frozen encoder makes of clips, kept in the home for every epoch, seed, prompt and evaluation to come."""

import contextlib
import hashlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from tasks.models.families import family_of
from tasks.store import home, make_home

TASKS = Path(__file__).parents[1]
# From a clip's bytes to its vectors, beside the family's own module.
CODE = ("audio_files.py", "models/encoding.py", "models/family.py", "models/frames.py", "models/thinkers.py")
SHARD_BYTES = 128_000_000
MOST_BYTES = 20_000_000_000  # of all encoders together; the least recently used shards go first


def folder() -> Path:
    """Where encodings lie."""
    return home() / "store" / "encodings"


def clip_key(clip: bytes) -> str:
    """The name of a clip: SHA-256 of its file's bytes."""
    return hashlib.sha256(clip).hexdigest()


def encoder_revision(model: nn.Module, processor: Any) -> str:
    """Sixteen hex digits for all that decides the bits of an encoding: weights, dtype, kind of device and libraries; how the
    encoder and the features before it are set; and the code of both."""
    digest = hashlib.sha256()
    family: Any = family_of(model)
    for file in (*CODE, f"models/{family.__name__.rpartition('.')[2]}.py"):
        digest.update(hashlib.sha256((TASKS / file).read_bytes()).digest())
    settings = [model.config.audio_config.to_dict(), processor.feature_extractor.to_dict()]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    device = next(model.parameters()).device
    threads = torch.get_num_threads() if device.type == "cpu" else 0  # sums over threads differ in the last bit
    digest.update(
        f"{torch.__version__}\0{transformers.__version__}\0{np.__version__}\0{device.type}\0{threads}\0".encode()
    )
    for part in family.PARTS.values():
        for name, tensor in sorted(model.get_submodule(part).state_dict().items()):
            digest.update(f"{part}.{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def adapted(model: nn.Module) -> bool:
    """Whether adapters stand in the encoder or the projector: each would fill a cache of its own and use it once."""
    return any(
        "lora_" in name
        for part in family_of(model).PARTS.values()
        for name, _ in model.get_submodule(part).named_parameters()
    )


class EncoderCache:
    """Vectors (tokens, text width) by clip, as they were computed, in safetensors shards named by their own bytes.

    A shard is written aside and renamed; one whose bytes are not those of its name is removed and its clips are
    encoded anew. Threads may read at the same time.
    """

    def __init__(self, revision: str, most_bytes: int = MOST_BYTES) -> None:
        self.revision = revision
        self.most_bytes = most_bytes
        self._lock = threading.Lock()
        self._shard_of: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        self._new: dict[str, torch.Tensor] = {}
        self._new_bytes = 0
        for path in sorted(folder().glob(f"{revision}-*.safetensors")):
            with contextlib.suppress(OSError), _removed_if_damaged(path), safe_open(path, framework="pt") as shard:
                self._shard_of |= dict.fromkeys(shard.keys(), path)

    def __len__(self) -> int:
        """Clips that are known."""
        return len(self._shard_of | dict.fromkeys(self._new))

    def get(self, key: str) -> torch.Tensor | None:
        """The vectors of a clip, on the CPU, or None where it is yet to be encoded."""
        with self._lock:
            if key in self._new:
                return self._new[key]
            path = self._shard_of.get(key)
            shard = self._checked(path) if path else None
            return shard.get_tensor(key) if shard is not None else None

    def put(self, key: str, vectors: torch.Tensor) -> None:
        """Keep the vectors of a clip, on disk once there are enough of them for a shard."""
        with self._lock:
            self._new[key] = vectors.detach().to("cpu", copy=True).contiguous()
            self._new_bytes += vectors.nbytes
        if self._new_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet, and make room for it."""
        with self._lock:
            if not self._new:
                return
            make_home()
            folder().mkdir(parents=True, exist_ok=True)
            content = save(self._new)
            path = folder() / f"{self.revision}-{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
            descriptor, draft = tempfile.mkstemp(
                dir=folder(), prefix=f".draft-{socket.gethostname()}-{os.getpid()}-", suffix=".safetensors"
            )
            os.chmod(draft, 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(draft, path)
            self._shard_of |= dict.fromkeys(self._new, path)
            self._new, self._new_bytes = {}, 0
        evict(self.most_bytes)

    def _checked(self, path: Path) -> Any:
        """An open shard, or None where it is gone or damaged; read in full once, which also says that it was used."""
        if path not in self._open:
            self._open[path] = None
            with contextlib.suppress(OSError), _removed_if_damaged(path):
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if not path.stem.endswith(f"-{digest[:32]}"):
                    raise SafetensorError(f"{path.name} has other bytes than its name says")
                os.utime(path)
                self._open[path] = safe_open(path, framework="pt").__enter__()
            if self._open[path] is None:
                self._shard_of = {key: shard for key, shard in self._shard_of.items() if shard != path}
        return self._open[path]


@contextlib.contextmanager
def _removed_if_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError:
        path.unlink(missing_ok=True)


def shards() -> list[Path]:
    """Every encoder's shards, the least recently used first."""
    found = []
    for path in folder().glob("*-*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # another process made room
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found) if not path.name.startswith(".")]


def evict(most_bytes: int) -> None:
    """Remove the least recently used shards until the others fit; whoever needs their clips encodes them anew."""
    sizes = {}
    for path in shards():
        with contextlib.suppress(FileNotFoundError):
            sizes[path] = path.stat().st_size
    excess = sum(sizes.values()) - most_bytes
    for path, size in sizes.items():
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= size
