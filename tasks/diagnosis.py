"""Diagnosis: what this machine has and lacks for Earshot, each finding with its way out."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tasks import child
from tasks.hub_client import endpoint
from tasks.slots import gpus
from tasks.sources.variables import shipped_variables, way_to
from tasks.store import home, make_home

ROOT = Path(__file__).resolve().parent.parent
INSTALL = "pip install -c constraints.txt -e '.[demo]'"
DEMO_GB = 0.2  # study/demo takes 60 MB, its server and drafts beside it
DOWNLOAD_GB = 17  # Qwen2-Audio-7B: 8.4 B parameters of 2 bytes in bf16
ANSWERS_WITHIN_S = 2
TORCH_WITHIN_S = 120
LOOK_AT_CUDA = "import torch; print(torch.__version__, torch.version.cuda or 'no CUDA', torch.cuda.is_available())"


class Finding(NamedTuple):
    """One thing looked at; only a problem stops `study/demo`."""

    state: Literal["ok", "warning", "problem"]
    what: str
    says: str


def examine() -> Iterator[Finding]:
    """Every finding, one after another. No secret is read into one: of a token its presence, of an address its host."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    yield look_at_python(project["requires-python"])
    yield from look_at_libraries(project["dependencies"])
    yield look_at_espeak()
    yield look_at_bitsandbytes()
    yield from look_at_gpu()
    yield look_at_home()
    yield look_at_disk()
    yield from look_at_corpora()
    if installed("huggingface-hub"):
        yield look_at_download()
        yield look_at_token()
    yield look_at_endpoint()
    yield look_at_prefect()


# --- software ----------------------------------------------------------------------------------------------------


def look_at_python(required: str) -> Finding:
    """The interpreter against `requires-python`."""
    running = platform.python_version()
    if SpecifierSet(required).contains(running, prereleases=True):
        return Finding("ok", "Python", running)
    return Finding(
        "problem", "Python", f"{running}, needed is {required}: make a virtual environment with such a Python"
    )


def look_at_libraries(dependencies: list[str]) -> Iterator[Finding]:
    """What pyproject.toml asks for, by its ranges (a problem) and by the versions of constraints.txt (a warning)."""
    tested = constraints(ROOT / "constraints.txt")
    other = []
    broken = False
    for requirement in map(Requirement, dependencies):
        found = installed(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            broken = True
            has = f"{found}, needed is {requirement.specifier}" if found else "not installed"
            yield Finding("problem", requirement.name, f"{has}: {INSTALL}")
        elif (pin := tested.get(canonicalize_name(requirement.name))) and Version(found).public != Version(pin).public:
            other.append(f"{requirement.name} {found} (tested {pin})")
    if other:
        yield Finding("warning", "libraries", f"not the tested versions: {', '.join(other)}; {INSTALL}")
    elif not broken:
        yield Finding("ok", "libraries", f"all {len(dependencies)} as in constraints.txt")


def constraints(file: Path) -> dict[str, str]:
    """Distribution -> version that constraints.txt pins on this platform."""
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    pins = [Requirement(line) for line in lines if line]
    return {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in pins
        if pin.specifier and (pin.marker is None or pin.marker.evaluate())
    }


def installed(name: str) -> str | None:
    """Version of a distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def look_at_espeak() -> Finding:
    """The extra that speaks for study/demo."""
    if importlib.util.find_spec("espeakng_loader"):
        return Finding("ok", "espeak-ng", f"espeakng-loader {installed('espeakng-loader')}")
    return Finding("problem", "espeak-ng", f"the extra `demo` is not installed: {INSTALL}")


def look_at_bitsandbytes() -> Finding:
    """What loads a base in 4 bits, on a GPU and on a CPU."""
    if found := installed("bitsandbytes"):
        return Finding("ok", "bitsandbytes", f"{found}: 4-bit bases can be loaded")
    return Finding("problem", "bitsandbytes", f"not installed, and study/demo trains a 4-bit base: {INSTALL}")


def look_at_gpu() -> Iterator[Finding]:
    """The GPUs with their memory by nvidia-smi; only where there is one, whether torch sees it."""
    found = gpus()
    if not found:
        yield Finding("warning", "GPU", "no NVIDIA GPU answers: study/demo needs none, a 7 B model does")
        return
    for line in found:
        name, total, free, driver = (field.strip() for field in line.split(","))
        yield Finding("ok", "GPU", f"{name}, {total} of memory, {free} free, driver {driver}")
    yield look_at_torch()


def look_at_torch() -> Finding:
    """Whether torch was built for CUDA and sees the GPU, asked in a process of its own: importing it takes seconds."""
    try:
        asked = subprocess.run(
            child.python("-c", LOOK_AT_CUDA), capture_output=True, text=True, timeout=TORCH_WITHIN_S
        )
        answer = asked.stdout.strip() or asked.stderr.strip().rpartition("\n")[2]
    except subprocess.TimeoutExpired:
        answer = f"no answer within {TORCH_WITHIN_S} s"
    if answer.endswith("True"):
        return Finding("ok", "CUDA", f"torch sees the GPU: {answer.removesuffix(' True')}")
    way_out = "install torch's CUDA build (pip install torch, without the CPU index) or a newer driver"
    return Finding("warning", "CUDA", f"torch does not see the GPU ({answer}); {way_out}")


# --- places ------------------------------------------------------------------------------------------------------


def look_at_home() -> Finding:
    """Whether the home can be written; one that is not there yet is not made."""
    folder = home()
    try:
        if folder.exists():
            make_home()
        elif not os.access(parent := existing(folder), os.W_OK) or not parent.is_dir():
            raise ValueError(f"the home {folder} cannot be made in {parent}; set EARSHOT_HOME to a folder that can")
    except ValueError as error:
        return Finding("problem", "home", str(error))
    return Finding("ok", "home", str(folder) + ("" if folder.exists() else " (made by the first run)"))


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def look_at_disk() -> Finding:
    """Room for the demo in the home."""
    free = shutil.disk_usage(existing(home())).free / 1e9
    if free < DEMO_GB:
        return Finding("problem", "disk", f"{free:.2f} GB free at {home()}: free {DEMO_GB} GB or move EARSHOT_HOME")
    return Finding("ok", "disk", f"{free:.1f} GB free at {home()}")


def look_at_download() -> Finding:
    """Room for a 7 B base in the cache of Hugging Face."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE).expanduser().absolute()
    free = shutil.disk_usage(existing(cache)).free / 1e9
    if free >= DOWNLOAD_GB:
        return Finding("ok", "download", f"{free:.1f} GB free at {cache}, a 7 B base takes {DOWNLOAD_GB}")
    way_out = f"a 7 B base takes {DOWNLOAD_GB}: free some, or point HF_HOME elsewhere"
    return Finding("warning", "download", f"{free:.1f} GB free at {cache}, {way_out}")


def look_at_corpora() -> Iterator[Finding]:
    """Where real recordings lie: every variable that a shipped data set reads."""
    for variable, (kind, datasets) in shipped_variables().items():
        more = len(datasets) - 1
        readers, read = (f"{datasets[0]} and {more} more", "read") if more else (datasets[0], "reads")
        folder = os.environ.get(variable)
        if not folder:
            says = f"{variable} is not set, study/demo does without; {readers} {read} {way_to(kind, variable)}"
        elif not Path(folder).expanduser().is_dir():
            says = f"{variable} is {folder}, which is no folder: {readers} cannot be built"
        else:
            yield Finding("ok", "corpus", f"{variable} is {folder}")
            continue
        yield Finding("warning", "corpus", says)


# --- services ----------------------------------------------------------------------------------------------------


def look_at_token() -> Finding:
    """Whether there is a token of the Hub, wherever huggingface_hub finds it; never which."""
    from huggingface_hub import get_token

    return Finding("ok", "Hub token", "present, not shown" if get_token() else "none; the home's own hub needs none")


def look_at_endpoint() -> Finding:
    """Whether the endpoint that a token would be sent to is one to send it to."""
    if not os.environ.get("HF_ENDPOINT"):
        return Finding("ok", "Hub endpoint", "HF_ENDPOINT is not set: huggingface.co")
    try:
        return Finding("ok", "Hub endpoint", f"HF_ENDPOINT is at {host(endpoint())}")
    except ValueError as error:  # as every command that asks the Hub will say
        return Finding("warning", "Hub endpoint", f"{error}; unset it for huggingface.co")


def look_at_prefect() -> Finding:
    """The server of PREFECT_API_URL where it is set."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Finding("ok", "Prefect", "every command brings its own server (PREFECT_API_URL is not set)")
    try:
        urlopen(f"{url}/health", timeout=ANSWERS_WITHIN_S).close()
    except (URLError, OSError, ValueError):
        way_out = "start that server, or unset PREFECT_API_URL to use the command's own"
        return Finding("problem", "Prefect", f"nothing answers at {host(url)} (PREFECT_API_URL): {way_out}")
    return Finding("ok", "Prefect", f"the server at {host(url)} answers")


def host(url: str) -> str:
    """Host and port of an address: the rest of it may hold a password."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or "no host at all"
    except ValueError:
        return "no host at all"
