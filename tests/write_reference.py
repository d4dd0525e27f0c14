"""Writes the reference pages from what they describe: `python -m tests.write_reference`; a test compares them.

What a key means is the comment beside its field; which values it takes is what pydantic checks.
"""

import ast
import functools
import inspect
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
import yaml
from pydantic import BaseModel
from typer.cli import get_docs_for_click
from typer.main import get_command

from flows.cli import app
from recipes.block import IN_WORDS
from recipes.schema import StudyRecipe
from recipes.sources import KINDS, FileSource, SourceBlock
from tasks.functional.report_document import Report

ROOT = Path(__file__).parent.parent
WRITTEN = "<!-- Written by `python -m tests.write_reference`; a test compares it with the code. -->"


def pages() -> dict[str, str]:
    """Path of each page -> what it holds."""
    return {
        "recipes/REFERENCE.md": recipe_page(),
        "tasks/functional/REPORT.md": report_page(),
        "flows/COMMANDS.md": command_page(),
    }


def main() -> None:
    """Write them."""
    for path, text in pages().items():
        (ROOT / path).write_text(text, encoding="utf-8")


# --- the three pages ---------------------------------------------------------------------------------------------


def recipe_page() -> str:
    """Every key of a recipe, block by block from the study down, then every kind of source."""
    blocks = {block: path for block, path in reached(StudyRecipe).items() if not issubclass(block, SourceBlock)}
    shared = rows(SourceBlock, blocks) | rows(FileSource, blocks)
    parts = [
        "# Every key of a recipe",
        WRITTEN,
        "How recipes are written and what they are for: [README.md](README.md). An unknown key, a wrong unit and an\n"
        "impossible value are refused before anything runs, by a sentence that names the key and what is accepted.",
        *(section(block, path or "the study", rows(block, blocks)) for block, path in blocks.items()),
        "## `dataset.sources`",
        "One of these blocks stands in each place of the list, chosen by its `kind`. All take `where`; those that read\n"
        "files under a `root` take the rest of this table too, unless the kind's own table says otherwise.",
        table(shared),
        *(
            section(
                KINDS[kind],
                f"kind: {kind}",
                {key: row for key, row in rows(KINDS[kind], blocks).items() if row != shared.get(key)},
                depth=3,
            )
            for kind in sorted(KINDS)
        ),
    ]
    return "\n\n".join(parts) + "\n"


def report_page() -> str:
    """Every key of report.json, part by part."""
    blocks = reached(Report)
    parts = [
        "# Every key of report.json",
        WRITTEN,
        "The report of `earshot evaluate`, `run` and `report`; beside it lie `report.html`, `figures/*.png` and\n"
        "`tables/*.csv`. `Report.model_json_schema()` of `report_document.py` gives the same as JSON schema.",
        *(section(block, path or "the report", rows(block, blocks), head=HOLDS) for block, path in blocks.items()),
    ]
    return "\n\n".join(parts) + "\n"


def command_page() -> str:
    """Every command with its options, as `typer utils docs` writes them."""
    command = get_command(app)
    context = typer.Context(command, info_name="earshot")
    made = get_docs_for_click(obj=command, ctx=context, name="earshot", title="Every command")
    title, _, rest = made.partition("\n")
    lines = (line.rstrip() for line in rest.strip().splitlines())
    return f"{title}\n\n{WRITTEN}\n\n" + "\n".join(lines) + "\n"


# --- blocks ------------------------------------------------------------------------------------------------------

Blocks = dict[type[BaseModel], str]  # each with the path of the key that it stands under
Rows = dict[str, tuple[str, str, str, str]]  # key -> key, takes, default, meaning
TAKES = ("key", "takes", "default", "meaning")
HOLDS = ("key", "holds", "meaning")


def reached(model: type[BaseModel]) -> Blocks:
    """The model and every model that its fields hold, each once, in the order of the fields."""
    found: Blocks = {}

    def visit(at: type[BaseModel], path: str) -> None:
        if at not in found:
            found[at] = path
            for name, field in at.model_fields.items():
                for inner in models_in(field.annotation):
                    visit(inner, f"{path}.{name}".lstrip("."))

    visit(model, "")
    return found


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models inside an annotation such as `dict[str, Block] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def section(block: type[BaseModel], title: str, its: Rows, depth: int = 2, head: tuple[str, ...] = TAKES) -> str:
    """Heading, docstring and table of one block."""
    title = f"`{title}`" if " " not in title or ":" in title else title[0].upper() + title[1:]
    parts = [f"{'#' * depth} {title}", inspect.cleandoc(block.__doc__ or ""), table(its, head) if its else ""]
    return "\n\n".join(filter(None, parts))


def table(its: Rows, head: tuple[str, ...] = TAKES) -> str:
    """Rows under their head; a report's keys have no default worth a column."""
    lines = [f"| {' | '.join(row if head == TAKES else (*row[:2], row[3]))} |" for row in its.values()]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines])


def rows(block: type[BaseModel], blocks: Blocks) -> Rows:
    """Key -> its row; `kind`, which a source's heading says, has none."""
    schema = block.model_json_schema(by_alias=True, mode="validation")
    meanings = comments(block)
    paths = {known.__name__: path for known, path in blocks.items()}
    found: Rows = {}
    for name, field in block.model_fields.items():
        if name == "kind" and issubclass(block, SourceBlock):
            continue
        key = field.alias or name
        takes = accepted(schema["properties"][key], paths)
        inner = next((model for model in models_in(field.annotation) if model in blocks), None)
        means = meanings.get(name) or (inspect.cleandoc(inner.__doc__ or "").split("\n\n")[0] if inner else "")
        found[key] = (f"`{key}`", takes, default(field), cell(means))
    return found


def default(field: Any) -> str:
    """What holds where the key is left out."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if field.validate_default:  # read from a recipe of its own
        return "those of [prompt/handwritten](prompt/handwritten.yaml)"
    shown = yaml.safe_dump(
        list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=10_000, sort_keys=False
    )
    return f"`{cell(shown.removesuffix(chr(10)).removesuffix(chr(10) + '...'))}`"


def accepted(schema: dict[str, Any], paths: dict[str, str]) -> str:
    """Which values a key takes, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        path = paths[name]
        return f"[{path.rpartition('.')[2]}](#{path.replace('.', '').lower()})"
    if "oneOf" in schema or "discriminator" in schema:
        return "a [source](#datasetsources)"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(accepted(one, paths) for one in schema["anyOf"]))
    if "allOf" in schema:
        return " and ".join(accepted(one, paths) for one in schema["allOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    return {"array": _array, "object": _object}.get(schema.get("type", ""), _plain)(schema, paths)


def _array(schema: dict[str, Any], paths: dict[str, str]) -> str:
    if "prefixItems" in schema:
        return "[" + ", ".join(accepted(one, paths) for one in schema["prefixItems"]) + "]"
    return f"list of {accepted(schema.get('items', {}), paths)}"


def _object(schema: dict[str, Any], paths: dict[str, str]) -> str:
    inner = schema.get("additionalProperties")
    if inner is None or isinstance(inner, bool):
        named = next(iter(schema.get("patternProperties", {}).items()), None)
        return f"name ({IN_WORDS[named[0]]}): {accepted(named[1], paths)}" if named else "mapping"
    return f"mapping to {accepted(inner, paths)}"


def _plain(schema: dict[str, Any], paths: dict[str, str]) -> str:
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "`true`, `false`",
        "null": "null",
    }
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:.10g}" for key, sign in signs.items() if key in schema]
    if {"minimum", "maximum"} <= {*schema}:
        limits = [f"from {schema['minimum']:.10g} to {schema['maximum']:.10g}"]
    if "pattern" in schema:
        return IN_WORDS[schema["pattern"]]
    return " ".join([words.get(schema.get("type", ""), "anything"), ", ".join(limits)]).strip()


def cell(text: str) -> str:
    """Text as a cell of a table holds it."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# --- the comments beside fields ----------------------------------------------------------------------------------


def comments(block: type[BaseModel]) -> dict[str, str]:
    """Field -> the comment on its lines, or that on the lines right above it, from the class that declares it."""
    found: dict[str, str] = {}
    for owner in reversed(block.__mro__):
        if issubclass(owner, BaseModel) and owner is not BaseModel:
            found |= _comments_in(owner.__module__).get(owner.__name__, {})
    return found


@functools.cache
def _comments_in(module: str) -> dict[str, dict[str, str]]:
    """Class of a module -> field -> its comment, where it has one."""
    source = inspect.getsource(sys.modules[module])
    lines = source.splitlines()
    said = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith(("# fmt:", "# noqa", "# type:"))
    }
    found: dict[str, dict[str, str]] = {}
    for owner in (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)):
        for field in (node for node in owner.body if isinstance(node, ast.AnnAssign)):
            first = field.lineno
            while lines[first - 2].lstrip().startswith("#"):
                first -= 1
            own = [said[line] for line in range(first, (field.end_lineno or first) + 1) if line in said]
            if own and isinstance(field.target, ast.Name):
                found.setdefault(owner.name, {})[field.target.id] = " ".join(own)
    return found


if __name__ == "__main__":
    main()
