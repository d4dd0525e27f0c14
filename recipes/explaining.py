"""What pydantic finds wrong with a recipe, in sentences."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from recipes.block import IN_WORDS
from recipes.sources import KINDS

OF_A_TYPE = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "string_type": "text",
    "bool_type": "true or false", "bool_parsing": "true or false",
    "dict_type": "a mapping", "mapping_type": "a mapping", "model_type": "a mapping",
}  # fmt: skip
ALTERNATIVE = re.compile(
    r"constrained-\w+|\w+\[.*\]|str|int|float|bool"
)  # of a union, where pydantic names it as a place


def explain(error: ValidationError, of: type[BaseModel]) -> str:
    """Pydantic's findings about a recipe `of` such a block as sentences: key, value, what is wrong and what is accepted."""
    said: dict[str, list[str]] = {}
    given = {}
    for found in _that_count(error.errors()):
        key = _key(found)
        said.setdefault(key, []).append(_message(found, of))
        if found["type"] not in ("value_error", "missing", "extra_forbidden", "tuple_type", "string_pattern_mismatch"):
            given[key] = f", got {found['input']!r}"
    return "\n".join(f"{key}: {_either(messages)}{given.get(key, '')}" for key, messages in said.items())


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys of a block, in the order of the alphabet."""
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _that_count(errors: Sequence[Any]) -> Iterator[Any]:
    """The findings without those that follow from others: of a list whose items have sentences of their own, and of the
    alternatives of a union that the value was never meant to be."""
    meant = [_key(found) for found in errors if found["type"] not in (*OF_A_TYPE, "literal_error")]
    for found in errors:
        if found["type"] == "too_short" and len(found["input"]) >= found["ctx"]["min_length"]:
            continue
        key = _key(found)
        if found["type"] in OF_A_TYPE and any(other == key or other.startswith(f"{key}.") for other in meant):
            continue
        yield found


def _key(found: Any) -> str:
    return ".".join(str(part) for part in found["loc"] if not ALTERNATIVE.fullmatch(str(part))) or "recipe"


def _message(found: Any, of: type[BaseModel]) -> str:
    """What is wrong, but for the value that was given."""
    match found["type"]:
        case "extra_forbidden":
            return f"no such key; accepted here: {', '.join(_siblings(found['loc'], of))}"
        case "string_pattern_mismatch":
            return f"accepted are {IN_WORDS[found['ctx']['pattern']]}; got {found['input']!r}"
        case "tuple_type":
            example = "" if isinstance(found["input"], Mapping | None) else f", e.g. [{found['input']}]"
            return f"takes a list{example}; got {found['input']!r}"
        case "missing":
            return "is required and missing"
        case "too_short":
            return f"Input should have at least {found['ctx']['min_length']}"
        case "union_tag_invalid":
            return f"there is no kind {found['ctx']['tag']!r}; there are {', '.join(KINDS)}"
        case "union_tag_not_found":
            return f"names no kind; there are {', '.join(KINDS)}"
        case kind if kind in OF_A_TYPE:
            return f"Input should be {OF_A_TYPE[kind]}"
        case _:
            return found["msg"].removeprefix("Value error, ")


def _either(messages: Sequence[str]) -> str:
    """The messages about one key as one: what any of them accepts."""
    first, *others = dict.fromkeys(messages)
    return " or ".join([first, *(other.removeprefix("Input should be ") for other in others)])


def _siblings(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Keys accepted beside the one at `location` of a recipe."""
    for part in location[:-1]:
        if isinstance(part, str) and part in KINDS:
            model = KINDS[part]
        elif isinstance(part, str) and part in model.model_fields:
            model = _model_of(model.model_fields[part].annotation) or model
    return keys_of(model)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation such as `Block | None`, if it holds one."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
