"""What a model's folder holds, by the bytes that are read of it."""

import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.hub import sha_of
from tasks.store import home, sha256

# What transformers reads of a model's folder; notes, licences and what `hf download` leaves in .cache are not the model.
READ_BY_LOADERS = (
    "*config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer.model", "vocab.json",
    "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.*", "additional_chat_templates/*.jinja",
)  # fmt: skip
LARGE = 64_000_000  # bytes of a file that is not read again in every task while it stays as it is


def model_sha(folder: Path) -> str:
    """40 hex digits over names and bytes of what is read of a model's folder when it is loaded."""
    files = {file for pattern in READ_BY_LOADERS for file in folder.glob(pattern) if not file.name.startswith(".")}
    return sha_of({file.relative_to(folder).as_posix(): read_once(file) for file in files if file.is_file()})


def read_once(file: Path) -> str:
    """Hex SHA-256 of a file; of a large one noted in the home, where there is one, beside what the system says of it."""
    its = file.stat()
    if its.st_size < LARGE or not home().is_dir():
        return sha256(file)
    seen = (str(file.resolve()), its.st_dev, its.st_ino, its.st_size, its.st_mtime_ns, its.st_ctime_ns)
    note = home() / "digests" / hashlib.sha256(repr(seen).encode()).hexdigest()
    if note.is_file():
        return note.read_text(encoding="ascii")
    digest = sha256(file)
    note.parent.mkdir(exist_ok=True)
    aside = note.with_suffix(f".{os.getpid()}-{threading.get_ident()}")  # tasks of one base hash it side by side
    aside.write_text(digest, encoding="ascii")
    aside.replace(note)
    return digest


def content_of_base(arguments: Mapping[str, Any]) -> str:
    """What a task over a `method` hears with where its base is a folder, "" where it is not: the path alone would serve what
    was made over other weights."""
    folder = Path(arguments["method"].base).expanduser()
    return model_sha(folder) if folder.is_dir() and arguments["method"].base != "tiny" else ""
