"""What tasks hand each other: small references to folders that are named by their content, whole or absent."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field


def home() -> Path:
    """Where Earshot keeps everything: EARSHOT_HOME, by default ~/.earshot."""
    return Path(os.environ.get("EARSHOT_HOME") or "~/.earshot").expanduser().absolute()


class Reference(BaseModel):
    """A folder in the store, by the fingerprint of its content. The path is derived, so a home can be moved.

    The `facts` are what a reader of a log or a run page wants to know first; they never enter a path.
    """

    model_config = ConfigDict(frozen=True)
    fingerprint: str = Field(pattern=r"^[0-9a-f]{16}$")

    @property
    def path(self) -> Path:
        """The folder. Raises FileNotFoundError where it is gone: the cache remakes it before a task asks."""
        path = shelf(type(self)) / self.fingerprint
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is gone from the store; run the study again to remake it")
        return path

    def intact(self) -> bool:
        """Whether the folder is there and its bytes are still those it was named by."""
        path = shelf(type(self)) / self.fingerprint
        return path.is_dir() and fingerprint(path) == self.fingerprint

    @classmethod
    def of(cls, draft: Path, **facts: Any) -> Self:
        """Name a finished draft by its content and move it to its place in one rename.

        A damaged folder of the same name is replaced; a whole one makes the draft superfluous.
        """
        reference = cls(fingerprint=fingerprint(draft), **facts)
        place = shelf(cls) / reference.fingerprint
        if place.exists() and not reference.intact():
            condemned = Path(tempfile.mkdtemp(dir=shelf(cls), prefix=".gone-"))
            with contextlib.suppress(FileNotFoundError):  # another worker has moved it away already
                place.rename(condemned / "folder")
            shutil.rmtree(condemned)
        try:
            draft.rename(place)
        except OSError as error:  # another worker was first with the same content
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(draft)
        return reference


class Recordings(Reference):
    """recordings.parquet: decoded once, 16 kHz mono FLAC, with label, groups and licence."""

    source: str
    recordings: int
    groups: int
    hours: float


class SpeechShares(Reference):
    """shares.parquet: every recording of one source with the share of speech that a detector hears in it."""

    detector: str
    recordings: int


class Hygiene(Reference):
    """hygiene.csv: the recordings that label hygiene drops, with the measure; hygiene.json: detector and counts."""

    recordings: dict[str, int]  # class or noise -> recordings that were judged
    dropped: dict[str, int]  # likewise -> those of them that are dropped


class Sides(Reference):
    """sides.parquet: every recording, noise and room with the part it was dealt to."""

    parts: dict[str, dict[str, int]]  # part -> label or role -> groups


class Plan(Reference):
    """plan.parquet: every clip of one part before it is rendered."""

    part: str
    clips: int
    shards: int


class Clips(Reference):
    """clips.parquet: the rendered clips of one shard of a part."""

    part: str
    clips: int
    hours: float


class Splits(Reference):
    """A data set ready to publish: one parquet a part, audit.json, balance.csv, recipe.json."""

    clips: dict[str, int]  # part -> clips
    groups: dict[str, dict[str, int]]  # part -> class -> groups
    verdict: str  # of the audit: "clean" or "leaky"
    folds: int


class Base(Reference):
    """A base model as transformers loads it; only the tiny one lies in the store."""

    parameters: int


class Adapter(Reference):
    """adapter_model.safetensors and adapter_config.json, or model.safetensors where the base itself was trained, with
    training.json beside them."""

    base: str
    seed: int
    fold: int
    train_accuracy: float

    @property
    def weights(self) -> Path:
        """The file of what was trained."""
        adapter = self.path / "adapter_model.safetensors"
        return adapter if adapter.is_file() else self.path / "model.safetensors"


class Predictions(Reference):
    """predictions.parquet: the table of tasks/README.md, for one detector."""

    detector: str
    rows: int
    base: str | None = None  # NAME@revision of the model that was asked


class Report(Reference):
    """report.json, report.html, figures/, tables/ and the predictions.parquet they were made from."""

    headline: str
    publishable: bool


class PromptSearch(Reference):
    """search.json, scores.parquet and clips.parquet: every prompt that one model was asked, and the one that was chosen."""

    model: str  # "base" or "adapter"
    prompt: str
    answers: tuple[str, str]


class PromptReport(Reference):
    """prompts.json, prompts.html, figures/, tables/, and MODEL.yaml, the prompt chosen for each model as a recipe."""

    models: tuple[str, ...]


class Publication(BaseModel):
    """A repository in a hub, by name and content."""

    model_config = ConfigDict(frozen=True)
    kind: str  # "dataset" or "model"
    repo: str
    sha: str = Field(pattern=r"^[0-9a-f]{40}$")


class Looks(BaseModel):
    """How often these test clips were looked at from this home, the study at hand included."""

    model_config = ConfigDict(frozen=True)
    test: str  # digest of their audio
    count: int
    by_detector: dict[str, int]


def shelf(kind: type[Reference]) -> Path:
    """The folder where references of one kind lie."""
    return home() / "store" / kind.__name__.lower()


@contextlib.contextmanager
def draft(kind: type[Reference]) -> Iterator[Path]:
    """An empty folder beside its later place, removed again if it was not taken by `Reference.of`, with what lies beside
    it under its name."""
    make_home()
    shelf(kind).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=shelf(kind), prefix=f".draft-{socket.gethostname()}-{os.getpid()}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        for path in folder.parent.glob(f"{folder.name}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def sweep() -> list[Path]:
    """Remove the drafts of processes of this host that are dead: what a kill -9 left half-written."""
    stale = dead_drafts()
    for path in stale:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return stale


def dead_drafts() -> list[Path]:
    """Drafts, and the job files beside them, whose process on this host is dead."""
    return [path for path in sorted((home() / "store").glob("*/.draft-*")) if not _owner_lives(path)]


def _owner_lives(folder: Path) -> bool:
    host, _, rest = folder.name.removeprefix(".draft-").rpartition("-")[0].rpartition("-")
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(rest), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def make_home() -> Path:
    """Create the home where it is missing. Raises ValueError where it cannot be written."""
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"the home {folder} cannot be written ({error.strerror}); set EARSHOT_HOME to a folder that can"
        ) from error
    return folder


def need_place(out: Path, what: str, ours: Collection[str], is_ours: Callable[[Path], bool]) -> None:
    """Raise ValueError unless the folder `out` of a command is new, empty, or holds an earlier `what`, by `is_ours`, and
    nothing beside the names `ours`: that is replaced, and nothing of a user's ever is."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"--out {out} is a file: give a folder")
    there = {path.name for path in out.iterdir()}
    if foreign := sorted(there - set(ours)):
        raise ValueError(f"--out {out} holds {foreign[0]!r}, which is no part of a {what}: give a new or empty folder")
    if there and not is_ours(out):
        raise ValueError(f"--out {out} is not empty and holds no {what} of ours: give a new or empty folder")


def copy_folder(source: Path, out: Path, leave_out: Sequence[str] = ()) -> None:
    """Copy a folder into one that may be there already, but for names of some patterns.

    Raises the OSError of the file that failed: shutil's own is a list of all of them, without what a reader can act on.
    """
    failed: list[OSError] = []

    def copy(file: str, to: str) -> str:
        try:
            return shutil.copy2(file, to)
        except OSError as error:
            failed.append(error)
            raise

    try:
        shutil.copytree(source, out, ignore=shutil.ignore_patterns(*leave_out), copy_function=copy, dirs_exist_ok=True)
    except shutil.Error:
        if failed:
            raise failed[0] from None
        raise


def write_folder(files: Mapping[str, bytes], out: Path) -> None:
    """Write the files aside and rename the folder to `out`; what was there is gone only when the new one stands."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        draft = aside / "new"
        for name, content in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)
        if out.exists():
            out.rename(aside / "old")
        try:
            draft.rename(out)
        except OSError:
            if (aside / "old").exists():
                (aside / "old").rename(out)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def fingerprint(folder: Path) -> str:
    """The first 16 hex digits of the SHA-256 over names and bytes of every file, in the order of their names."""
    digest = hashlib.sha256()
    for name, content in sorted(file_digests(folder).items()):
        digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()[:16]


def file_digests(folder: Path) -> dict[str, str]:
    """Relative POSIX path -> SHA-256 of every file below `folder`."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def sha256(file: Path) -> str:
    """Hex SHA-256 of one file, read in blocks."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """Sorted, indented, plain floats, newline at the end: the same content is the same bytes."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def in_units(size: int) -> str:
    """Bytes for a reader."""
    for least, unit, per in ((1e9, "GB", 1e9), (1e5, "MB", 1e6)):
        if size >= least:
            return f"{size / per:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def write_timing(reference: Reference, times: Mapping[str, Any]) -> None:
    """Measured times lie beside a folder, never in it: they differ from run to run and may not enter a fingerprint."""
    write_json(shelf(type(reference)) / f"{reference.fingerprint}.timing.json", dict(times))


def timing_folder(reference: Reference) -> Path:
    """Where measured times of a report lie, and what is drawn of them: beside it, for the same reason."""
    return shelf(type(reference)) / f"{reference.fingerprint}.timing"


def read_timing(reference: Reference) -> dict[str, Any]:
    """Times that were measured when the folder was made, or nothing."""
    path = shelf(type(reference)) / f"{reference.fingerprint}.timing.json"
    return dict(read_json(path)) if path.exists() else {}
