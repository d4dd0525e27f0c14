"""From a recipe's name or path to its mapping, with what `--set` overrides."""

import copy
import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recipes.block import HUB_ID

RECIPES = Path(__file__).parent


def read_yaml(recipe: str | Path, kind: str = "study") -> dict[str, Any]:
    """A recipe's mapping, by name ("study/demo") or by path ("my/study.yaml"); `kind`: what a bare name is meant to be.

    Raises FileNotFoundError with the recipes there are, ValueError where the file is no mapping.
    """
    named = RECIPES / f"{recipe}.yaml"
    path = named if named.is_file() else Path(recipe).expanduser()
    if not path.is_file():
        raise FileNotFoundError(unknown(str(recipe), kind))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if content is None:
        raise ValueError(f"{path} is empty; a recipe is a mapping of keys")
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, a recipe is a mapping of keys")
    return content


def unknown(recipe: str, kind: str) -> str:
    """That there is no such recipe: no such file where it is a path, else with the closest of its kind, or all of them."""
    kinds = {file.parent.name for file in RECIPES.glob("*/*.yaml")}
    folder, _, name = recipe.rpartition("/")
    if recipe.endswith((".yaml", ".yml")) or ("/" in recipe and folder not in kinds):
        published = f"; what was published is named with its commit, {recipe}@<40 hex digits>"
        is_published = kind == "dataset" and re.fullmatch(HUB_ID, recipe)
        return f"there is no file {recipe}{published if is_published else ''}"
    kind = next(its for its in (folder, kind, "study") if its in kinds)
    names = sorted(file.stem for file in (RECIPES / kind).glob("*.yaml"))
    near = difflib.get_close_matches(name, names, n=3)  # `demo` means study/demo, and so does a slip of the pen
    whole = [f"{kind}/{its}" for its in near or names]
    there = f"did you mean {' or '.join(whole)}?" if near else f"it is neither a file nor one of {', '.join(whole)}"
    return f"no recipe {recipe!r}: {there}"


def opened(block: Any, kind: str = "study") -> Any:
    """A block as a mapping: that of the recipe it names, or, with `like: NAME`, that one with the block's own keys over it.

    Keys that are no mappings, lists among them, replace what is there.
    """
    if isinstance(block, str):
        return read_yaml(block, kind)
    if not isinstance(block, Mapping) or "like" not in block:
        return block
    return _over(opened(block["like"], kind), {key: value for key, value in block.items() if key != "like"})


def _over(under: Any, block: Any) -> Any:
    if not isinstance(under, Mapping) or not isinstance(block, Mapping):
        return block
    return {**under, **{key: _over(under.get(key), value) for key, value in block.items()}}


def apply_overrides(recipe: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe with every `key.path=value` set; values are read as YAML. A block given by name is opened first."""
    recipe = copy.deepcopy(recipe)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            raise ValueError(f"--set {override!r} is not key.path=value, e.g. --set train.training.max_steps=50")
        at: Any = recipe
        *parents, last = path.strip().split(".")
        for key in parents:
            at = _open(at, key, path)
        at[_position(at, last, path) if isinstance(at, list) else last] = _value(text, override)
    return recipe


def _value(text: str, override: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {override}: {text!r} is not YAML, e.g. [42, 123] or {{r: 8}}") from error


def _open(at: Any, key: str, path: str) -> Any:
    """What lies under a key or position, a block given by name read first, an absent one made."""
    place: Any = _position(at, key, path) if isinstance(at, list) else key
    kind = "prompt" if key == "search" else key
    child = opened(at[place] if isinstance(at, list) else at.get(place), kind)
    if child is not None and not isinstance(child, dict | list):
        raise ValueError(f"--set {path}: {key} is {child!r}, it has no keys")
    at[place] = {} if child is None else child
    return at[place]


def _position(at: list[Any], key: str, path: str) -> int:
    if not key.isdigit() or int(key) >= len(at):
        raise ValueError(f"--set {path}: {key} is no position in a list of {len(at)}; the first one is 0")
    return int(key)


def recipe_digest(content: Any) -> str:
    """SHA-256 of a recipe as YAML or JSON holds it, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
