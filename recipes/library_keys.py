"""Keywords that the classes of Hugging Face take, and their types, read from the installed source without importing it."""

import ast
import difflib
import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from recipes.block import Kwargs

PLAIN: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (float, int), "str": (str,), "bool": (bool,), "None": (type(None),),
    "list": (list,), "dict": (dict,), "tuple": (list,), "set": (list,), "Sequence": (list,),
    "Any": (object,),
}  # fmt: skip
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


@functools.cache
def accepted_keys(package: str, *sources: tuple[str, str]) -> Mapping[str, tuple[type, ...]]:
    """Keywords a class of an installed library takes, and the types of their values as far as its source says them
    plainly (else `object`): importing the library takes seconds.

    `sources` are (file inside the package, class) pairs, the class and the bases whose fields it inherits. Raises
    ValueError where the package is not installed.
    """
    keys: dict[str, tuple[type, ...]] = {}
    for file, name in sources:
        for node in _body_of(package, file, name):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                keys[node.target.id] = tuple(types_of(node.annotation))
            elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
                keys |= {argument.arg: (object,) for argument in node.args.args[1:]}
    return keys


@functools.cache
def members(package: str, file: str, name: str) -> tuple[str, ...]:
    """The values of an enumeration of an installed library, read likewise."""
    assigned = (node.value for node in _body_of(package, file, name) if isinstance(node, ast.Assign))
    return tuple(value.value for value in assigned if isinstance(value, ast.Constant) and isinstance(value.value, str))


def _body_of(package: str, file: str, name: str) -> Sequence[ast.stmt]:
    """What stands in a class of an installed library. Raises ValueError where that is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package} is not installed: pip install -c constraints.txt -e .")
    tree = ast.parse((Path(spec.submodule_search_locations[0]) / file).read_text(encoding="utf-8"))
    return next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def types_of(annotation: ast.expr | None) -> Iterator[type]:
    """The plain types of values in YAML that an annotation admits; `object` for whatever else it names."""
    if isinstance(annotation, ast.BinOp):
        yield from types_of(annotation.left)
        yield from types_of(annotation.right)
    elif isinstance(annotation, ast.Subscript):
        name, inner = ast.unparse(annotation.value).rpartition(".")[2], annotation.slice
        if name in ("Optional", "Union", "Literal"):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            yield from (kind for part in parts for kind in types_of(part))
            if name == "Optional":
                yield type(None)
        else:
            yield from PLAIN.get(name, (object,))
    elif isinstance(annotation, ast.Constant):
        yield type(annotation.value)
    else:
        yield from PLAIN.get(ast.unparse(annotation) if annotation else "", (object,))


def refuse_unknown(
    block: str, given: Kwargs, accepted: Mapping[str, tuple[type, ...]], owned: Mapping[str, str]
) -> None:
    """Raise ValueError on a keyword that is not accepted, with those it may stand for, or that we own, with the key that
    decides it, and on a value of another type."""
    for key, value in given.items():
        if key in owned:
            raise ValueError(f"{block}.{key}: {owned[key]}")
        if key not in accepted:
            near = _alike(key, accepted)
            raise ValueError(
                f"{block}.{key} is no such keyword; "
                + (f"did you mean {' or '.join(near)}?" if near else "see its docs")
            )
        if reason := fault_of(value, accepted[key]):
            raise ValueError(f"{block}.{key}: {reason}")


def refuse_impossible(block: str, given: Kwargs, ranges: Mapping[str, Any]) -> None:
    """Raise ValueError on a value outside its range, which the library would notice only once it trains, or never.

    `ranges` are types as pydantic reads them; null and keywords without a range are left to the library.
    """
    for key in [key for key in given if key in ranges and given[key] is not None]:
        try:
            TypeAdapter(ranges[key]).validate_python(given[key])
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"{block}.{key}: {reason}, got {given[key]!r}") from None


def refuse_unnamed(block: str, given: Kwargs, key: str, names: Sequence[str]) -> None:
    """Raise ValueError where the value of `key` is none of the names, with those it may stand for."""
    value = given.get(key)
    if value is not None and value not in names:
        near = difflib.get_close_matches(str(value), names, n=3)
        way_out = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
        raise ValueError(f"{block}.{key}: there is no {value!r}; {way_out}")


def fault_of(value: Any, types: tuple[type, ...]) -> str:
    """Why a value is of none of the types; "" where it is. null stands for whatever is the default."""
    fits = isinstance(value, types) and not (isinstance(value, bool) and bool not in types and object not in types)
    if fits or value is None:
        return ""
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        list: "a list",
        dict: "a mapping",
    }
    wanted = " or ".join(
        names[kind] for kind in dict.fromkeys(types) if kind in names and not (kind is int and float in types)
    )
    if isinstance(value, str) and NUMBER.fullmatch(value) and {int, float} & set(types):
        mantissa, exponent = re.split("[eE]", value)
        dotted = mantissa if "." in mantissa else f"{mantissa}.0"
        signed = exponent if exponent[0] in "+-" else f"+{exponent}"
        return f"{value!r} is text to YAML, which wants {dotted}e{signed} for the number"
    return f"{value!r} is not {wanted}"


def _alike(key: str, accepted: Mapping[str, Any]) -> list[str]:
    """Up to three accepted keywords that `key` may stand for: `rank` for r, `lr` for learning_rate, a slip of the pen."""

    def stands_for(name: str) -> bool:
        words = name.split("_")
        return set(key.split("_")) <= set(words) or key.startswith(name) or key == "".join(word[:1] for word in words)

    close = difflib.get_close_matches(key, accepted, n=3)
    return list(dict.fromkeys([*filter(stands_for, sorted(accepted, key=len)), *close]))[:3]
