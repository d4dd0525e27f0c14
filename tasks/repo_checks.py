"""What a repository may hold: files of others are refused by name before anything of them is loaded."""

import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

NAME = re.compile(r"[A-Za-z0-9_+=@ .-]+")  # no letter that looks like another one, or turns the text around
RUNS = {".bin", ".ckpt", ".dll", ".dylib", ".exe", ".h5", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth",
        ".py", ".pyc", ".sh", ".so", ".tar", ".zip"}  # fmt: skip
MOST_FILES = 10_000
TEXTS = {".md", ".json", ".yaml", ".csv", ".txt", ".jinja", ".html"}
LARGEST = {"text": 256 * 2**20, "README.md": 2**20, "other": 64 * 2**30}
LARGEST_HEADER = 64 * 2**20
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
STEERING = (
    ".huggingface.yaml",
    "dataset_dict.json",
    "state.json",
    "*/state.json",
)  # say, as README.md, what `datasets` reads
IMPORTING = ("auto_map", "auto_mapping", "megatron_config", "custom_pipelines")  # keys at which libraries import code
LARGEST_RANK = 4096
FLOATS = ("F32", "F16", "BF16")


class Tensor(NamedTuple):
    """One entry of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]


def check_listing(files: Mapping[str, int], where: str) -> None:
    """Raise ValueError, naming the file, where a listing (path -> bytes) holds what is not downloaded, whatever it is for:
    a path that leads elsewhere or reads as another one, code, pickles, a file beyond all measure."""
    if len(files) > MOST_FILES:
        raise ValueError(f"{where} is refused: it lists {len(files)} files, at most {MOST_FILES} are read")
    folded: dict[str, str] = {}
    for name, size in files.items():
        if reason := fault_of(name, size):
            raise ValueError(f"{where} is refused: {name!a} {reason}")
        if (other := folded.setdefault(name.casefold(), name)) != name:
            raise ValueError(f"{where} is refused: {name!a} and {other!a} are one file on some machines")


def fault_of(name: str, size: int) -> str:
    """Why a file of this name and size is not taken; "" where it is."""
    path = PurePosixPath(name)
    parts = name.split("/")
    if path.is_absolute() or ".." in parts or "" in parts or "." in parts or "\\" in name or ":" in name:
        return "leads out of the repository"
    if not all((NAME.fullmatch(part) and part == part.strip(" .")) or part == ".gitattributes" for part in parts):
        return "is no plain name: letters, digits and . _ - + = @ only"
    if path.suffix.lower() in RUNS:
        return "is code, or data that runs code when it is read; weights are taken from safetensors only"
    largest = LARGEST.get(path.name) or LARGEST["text" if path.suffix.lower() in TEXTS else "other"]
    return f"has {size:,} bytes, at most {largest:,} are read" if size > largest else ""


def check_folder(folder: Path, within: Path, where: str) -> None:
    """Raise ValueError, naming the file, where a downloaded folder leads out of `within` or would run code.

    Looks at links, the data files that its README names, the configurations and the headers of weights; reads no weights
    and runs nothing.
    """
    inside = within.resolve()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if not file.resolve().is_relative_to(inside):
            raise ValueError(f"{where} is refused: {name!a} is a link that leads out of the repository")
        if not file.is_dir() and not file.is_file():
            raise ValueError(f"{where} is refused: {name!a} is no plain file")
        if file.is_file() and (reason := fault_of(name, file.stat().st_size) or content_fault(file)):
            raise ValueError(f"{where} is refused: {name!a} {reason}")


def content_fault(file: Path) -> str:
    """Why a file is not taken for what it holds; "" where it is."""
    try:
        if file.name == "README.md":
            check_readme(file.read_text(encoding="utf-8"))
        elif file.suffix == ".json" and "config" in file.name:
            check_config(json.loads(file.read_bytes()))
        elif file.suffix == ".safetensors":
            read_header(file)
    except (ValueError, RecursionError) as error:
        return " ".join(str(error).split())
    return ""


def check_data_files(folder: Path) -> None:
    """Raise ValueError, naming the file, where one by which `datasets` finds the data of a folder leads out of it: the
    head of its README, .huggingface.yaml, or what save_to_disk wrote."""
    for file in (folder / "README.md", *(file for name in STEERING for file in sorted(folder.glob(name)))):
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        try:
            if file.suffix == ".md":
                check_readme(text)
            else:
                refuse_outside(_steering(file.suffix, text))
        except ValueError as error:
            raise ValueError(f"{file} {error}") from error


def _steering(suffix: str, text: str) -> Iterator[str]:
    """Every text of .huggingface.yaml, and the files and splits that save_to_disk lists."""
    try:
        content = yaml.safe_load(text) if suffix == ".yaml" else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"cannot be read: {error}") from error
    if suffix == ".json" and isinstance(content, dict):
        content = [content.get("_data_files"), content.get("splits")]
    yield from _texts(content)


def check_readme(text: str) -> None:
    """Raise ValueError where a card's head is no plain YAML or names data files outside the repository."""
    # Blank lines may come first: huggingface_hub reads a head behind them as well.
    found = re.match(r"\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", text, re.DOTALL | re.MULTILINE)
    if not found:
        return
    try:
        if any(isinstance(token, yaml.AliasToken | yaml.TagToken) for token in yaml.scan(found[1])):
            raise ValueError("uses aliases or tags in its head, which a card has no need of")
        head = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise ValueError(f"has a head that is not YAML: {error}") from error
    refuse_outside(_texts(head.get("configs") if isinstance(head, dict) else None))


def refuse_outside(names: Iterable[str]) -> None:
    """Raise ValueError on the name of a data file that does not lie in its repository."""
    for name in names:
        if "://" in name or "\\" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"names data files outside the repository: {name!a}")


def check_config(config: Any) -> None:
    """Raise ValueError where a configuration names code to import."""
    for key in IMPORTING:
        if isinstance(config, dict) and config.get(key):
            raise ValueError(f"asks for code to be imported ({key})")


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, from its header; no weight is read.

    Raises ValueError where lengths, types or offsets do not fit the file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(LARGEST_HEADER, size - 8):
            raise ValueError(f"claims a header of {length:,} bytes in a file of {size:,}")
        try:
            header = json.loads(stream.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError("has a header that is no JSON") from error
    if not isinstance(header, dict):
        raise ValueError("has a header that is no mapping")
    spans, tensors = [], {}
    for name, entry in header.items():
        if name != "__metadata__":
            tensors[name], span = _tensor(name, entry)
            spans.append(span)
    end = 0
    for first, last in sorted(spans):
        if first != end:
            raise ValueError("has tensors that overlap or leave gaps")
        end = last
    if end != size - 8 - length:
        raise ValueError(f"promises {end:,} bytes of weights and holds {size - 8 - length:,}")
    return tensors


def _tensor(name: str, entry: Any) -> tuple[Tensor, tuple[int, int]]:
    try:
        dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, first, last))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"has a tensor {name!a} without type, shape and place") from error
    if not whole or dtype not in WIDTHS or last - first != WIDTHS[dtype] * math.prod(shape):
        raise ValueError(f"has a tensor {name!a} of {dtype!a} and shape {shape} in {last - first} bytes")
    return Tensor(dtype, tuple(shape)), (first, last)


def check_adapter(folder: Path, base: str, shapes: Mapping[str, Tensor] | None = None) -> None:
    """Raise ValueError unless a folder holds a LoRA adapter for `base` (NAME@revision) whose weights fit together.

    `shapes`: the tensors of the base by name, where they are at hand; then the adapter must fit those as well.
    """
    config_file, weights_file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise ValueError(f"holds no {file.name}; an adapter has adapter_config.json and adapter_model.safetensors")
    config = json.loads(config_file.read_bytes())
    check_config(config)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError("is no LoRA adapter: adapter_config.json does not say peft_type LORA")
    named = f"{config.get('base_model_name_or_path')}@{config.get('revision')}"
    if named != base:
        raise ValueError(f"is an adapter of another base: it names {named!a}, the study has {base!a}")
    ranks = {config.get("r"), *(config.get("rank_pattern") or {}).values()}
    if not all(type(rank) is int and 1 <= rank <= LARGEST_RANK for rank in ranks):
        raise ValueError(f"has ranks {sorted(map(str, ranks))}, from 1 to {LARGEST_RANK} are read")
    tensors = read_header(weights_file)
    check_lora(without_magnitudes(tensors) if config.get("use_dora") else tensors, ranks, shapes)


def without_magnitudes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a DoRA adapter without its magnitudes: one number an output of each module. Raises ValueError where
    there are more or fewer."""
    rest = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(".lora_B.weight"):
            at = name.removesuffix(".lora_B.weight") + ".lora_magnitude_vector"
            magnitude = rest.pop(at, None)
            if magnitude is None or magnitude.shape != tensor.shape[:1] or magnitude.dtype not in FLOATS:
                raise ValueError(f"is a DoRA adapter and has no {at!a} of {tensor.shape[:1]}")
    return rest


def check_lora(tensors: Mapping[str, Tensor], ranks: set[Any], shapes: Mapping[str, Tensor] | None) -> None:
    """Raise ValueError unless the weights are pairs of A (rank x in) and B (out x rank), as their base has it."""
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        found = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", name)
        if not found or len(tensor.shape) != 2 or tensor.dtype not in FLOATS:
            raise ValueError(
                f"holds {name!a}, {tensor.dtype} {list(tensor.shape)}, which is no part of a LoRA adapter"
            )
        pairs.setdefault(found[1], {})[found[2]] = tensor.shape
    if not pairs:
        raise ValueError("holds no weights")
    for module, pair in pairs.items():
        if pair.keys() != {"A", "B"} or pair["A"][0] != pair["B"][1] or pair["A"][0] not in ranks:
            raise ValueError(f"has weights of {module!a} that do not fit together: {pair}")
        if shapes is not None:
            wanted = shapes.get(f"{module}.weight")
            if wanted is None or wanted.shape != (pair["B"][0], pair["A"][1]):
                raise ValueError(
                    f"does not fit its base at {module!a}: {pair}, the base has {wanted and wanted.shape}"
                )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
