"""Which keywords the classes of Hugging Face take, read from the installed source without importing it."""

import ast
import difflib
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from recipes.block import Kwargs


@functools.cache
def accepted_keys(package: str, *sources: tuple[str, str]) -> frozenset[str]:
    """Keywords a class of an installed library takes, read from its source: importing the library takes seconds.

    `sources` are (file inside the package, class) pairs, the class and the bases whose fields it inherits. Raises
    ValueError where the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package} is not installed: pip install -c constraints.txt -e .")
    keys: set[str] = set()
    for file, name in sources:
        tree = ast.parse((Path(spec.submodule_search_locations[0]) / file).read_text())
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                keys.add(node.target.id)
            elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
                keys |= {argument.arg for argument in node.args.args[1:]}
    return frozenset(keys)


def refuse_unknown(block: str, given: Kwargs, accepted: frozenset[str], owned: Mapping[str, str]) -> None:
    """Raise ValueError on a keyword that is not accepted, with those it may stand for, or that we own, with the key that
    decides it."""
    for key in given:
        if key in owned:
            raise ValueError(f"{block}.{key}: {owned[key]}")
        if key not in accepted:
            near = _alike(key, accepted)
            raise ValueError(
                f"{block}.{key} is no such keyword; " + (f"did you mean {near}?" if near else "see its docs")
            )


def _alike(key: str, accepted: frozenset[str]) -> list[str]:
    """Up to three accepted keywords that `key` may stand for: `rank` for r, `lr` for learning_rate, a slip of the pen."""

    def stands_for(name: str) -> bool:
        words = name.split("_")
        return set(key.split("_")) <= set(words) or key.startswith(name) or key == "".join(word[:1] for word in words)

    close = difflib.get_close_matches(key, accepted, n=3)
    return list(dict.fromkeys([*filter(stands_for, sorted(accepted, key=len)), *close]))[:3]
