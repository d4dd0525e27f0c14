"""Where the weights of a detector lie that no package brings: named in the recipe, pinned, and in the key of its cache."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from recipes.evaluation import TAKES, WEIGHTS
from tasks.hub import sha_of
from tasks.hub_client import endpoint, told
from tasks.models.families import type_of
from tasks.store import file_digests

Given = Mapping[str, str]  # `evaluate.weights`
HOLDS = {"pyannote": "pytorch_model.bin", "whisper": "*.safetensors"}  # PyAnnote's repositories hold no safetensors
# What else is read, each in one of these files.
BESIDE = {
    "pyannote": (),
    "whisper": (
        ("config.json",),
        ("preprocessor_config.json", "processor_config.json"),
        ("tokenizer.json", "vocab.json"),
    ),
}
TYPES = {"whisper": "whisper"}  # `model_type` of config.json
# What is downloaded; repositories also hold the same weights for other libraries, and in other precisions.
DOWNLOADED = {
    "pyannote": ("pytorch_model.bin",),
    "whisper": ("*.json", "*.txt", "model.safetensors", "model-*-of-*.safetensors"),
}


def unset_weights(baselines: Sequence[str], given: Given) -> dict[str, str]:
    """Every variable that the weights of these detectors read and that is not set, with what it should name."""
    keys = dict.fromkeys(WEIGHTS[name] for name in baselines if name in WEIGHTS)
    return {
        variable: f"{TAKES[key]}: export {variable}=/where/its/files/are, or leave {takers(key, baselines)} out of "
        "evaluate.baselines"
        for key in keys
        for variable in re.findall(r"\$\{(\w+)\}", given.get(key, ""))
        if not os.environ.get(variable)
    }


def takers(key: str, baselines: Sequence[str]) -> str:
    """The detectors that take these weights."""
    return " and ".join(name for name in baselines if WEIGHTS.get(name) == key)


class Weights(NamedTuple):
    """A folder with the hash of its content, or a Hub id with its commit."""

    place: str
    revision: str

    @property
    def commit(self) -> str | None:
        """What to ask the Hub for; None of a folder, which is named by its whole path."""
        return None if Path(self.place).is_absolute() else self.revision


def folder_of(detector: str, weights: Weights) -> Path:
    """Where the files lie that a detector reads, downloaded where they are not here.

    Raises FileNotFoundError where the Hub has them not or is not reached, ValueError where it does not let them be read,
    and both as `refuse_other_files` does.
    """
    if weights.commit is None:
        return Path(weights.place)
    from huggingface_hub import get_token, snapshot_download

    key = WEIGHTS[detector]
    others = f", or name a folder that holds {TAKES[key]} in evaluate.weights.{key}"
    with told(f"evaluate.weights.{key}: reading {weights.place}@{weights.revision}", others):
        folder = snapshot_download(
            weights.place, revision=weights.revision, allow_patterns=list(DOWNLOADED[key]), endpoint=endpoint(),
            token=get_token() or False,
        )  # fmt: skip
    refuse_other_files(key, Path(folder), detector)
    return Path(folder)


def weights_for(detector: str, given: Given) -> Weights | None:
    """The weights that a detector takes; None where it takes none.

    Raises ValueError where the recipe names none, a variable that is not set, or another model's, and for a Hub id where
    HF_ENDPOINT may not have a token; FileNotFoundError where no such folder is, or no weights are in it.
    """
    if detector not in WEIGHTS:
        return None
    key = WEIGHTS[detector]
    if not (place := given.get(key, "")):
        raise ValueError(f"{detector} takes the weights of {TAKES[key]}: name them in evaluate.weights.{key}")
    if match := re.fullmatch(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})", place):
        endpoint()  # libraries send a token there
        return Weights(match[1], match[2])
    if unset := [name for name in re.findall(r"\$\{(\w+)\}", place) if not os.environ.get(name)]:
        raise ValueError(
            f"evaluate.weights.{key}: {place} reads the environment variable {unset[0]}, which is not set; {detector} takes "
            f"{TAKES[key]}: export {unset[0]}=/where/its/files/are, or leave {detector} out of evaluate.baselines"
        )
    folder = Path(re.sub(r"\$\{(\w+)\}", lambda found: os.environ[found[1]], place)).expanduser().resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"evaluate.weights.{key}: {folder} is no folder; {detector} takes {TAKES[key]}")
    refuse_other_files(key, folder, detector)
    digests = file_digests(folder)
    seen = {name: its for name, its in digests.items() if not any(part.startswith(".") for part in name.split("/"))}
    return Weights(str(folder), sha_of(seen))  # what a download notes in .cache is no weight


def refuse_other_files(key: str, folder: Path, detector: str) -> None:
    """Raise FileNotFoundError for a folder without the files that are read, ValueError for one of another model."""
    config = folder / "config.json"
    if key in TYPES and config.is_file() and (found := type_of(config)) != TYPES[key]:
        raise ValueError(
            f"evaluate.weights.{key}: {folder} is a model of the type {found!r}; {detector} takes {TAKES[key]}"
        )
    for names in ((HOLDS[key],), *BESIDE[key]):
        if not any(file for name in names for file in folder.glob(name)):
            inner = next(iter(sorted(folder.glob(f"*/{names[0]}"))), None)
            hint = f" ({inner.parent} does)" if inner else ""
            raise FileNotFoundError(
                f"evaluate.weights.{key}: {folder} holds no {' or '.join(names)}{hint}; {detector} takes {TAKES[key]}"
            )
