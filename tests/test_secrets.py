"""No token is ever written: after a full debug run and a failed one it is in no file, log, record, database or artifact."""

import base64
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import BaseModel

from recipes.schema import StudyRecipe
from tests.commands import ROOT
from tests.hub_clients import CLIENT
from tests.local_hub import WRITES, Fault, LocalHub, local_hub

PLANTED = "hf_plantedOnPurpose0123456789"  # what the search must find, or it proves nothing
WISH = ("publish.to=hub", "publish.namespace=alice")


class Run(NamedTuple):
    """How a command ended, all it printed, and its home."""

    code: int
    printed: str
    home: Path
    hub: LocalHub


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with local_hub() as started:
        yield started


def run(hub: LocalHub, folder: Path, command: str, *overrides: str, **changes: str) -> Run:
    """A command with a real token in its environment, as a user has it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "OMP_"))}
    environment = {
        **kept, **CLIENT, "HF_ENDPOINT": hub.url, "HF_TOKEN": WRITES, "HF_HOME": str(folder / "hf"),
        "EARSHOT_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), **changes,
    }  # fmt: skip
    keys = [part for override in (*WISH, *overrides) for part in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", command, "study/smoke", *keys], env=environment, capture_output=True, text=True,
        cwd=folder, timeout=600,
    )  # fmt: skip
    return Run(done.returncode, done.stdout + done.stderr, folder / "home", hub)


def spellings(secret: str) -> list[bytes]:
    """A secret as it is, and in base64 at each of the three places it may begin in."""
    encoded = [base64.b64encode(b"x" * shift + secret.encode()) for shift in range(3)]
    return [secret.encode(), *(text[4:-4] for text in encoded)]


def holders(run: Run, secret: str) -> list[str]:
    """Where a secret stands: in what was printed, in published files, in files of the home, in rows of its database."""
    places = ["printed"] if secret in run.printed else []
    for (_, name), repo in run.hub.repos.items():
        for file, its in repo.head.files.items():
            if any(spelling in its.content for spelling in spellings(secret)):
                places.append(f"{file} of {name}")
    for file in sorted(path for path in run.home.parent.rglob("*") if path.is_file()):
        content = file.read_bytes()
        if any(spelling in content for spelling in spellings(secret)):
            places.append(file.relative_to(run.home.parent).as_posix())
    return places + [f"table {name}" for name in tables_with(run.home / "prefect" / "prefect.db", secret)]


def tables_with(database: Path, secret: str) -> list[str]:
    """Tables of Prefect's database that hold it: flow and task runs, parameters, artifacts, logs, events."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert {"flow_run", "task_run", "artifact", "log"} <= {*names}
        return [name for name in names if secret in str(connection.execute(f'SELECT * FROM "{name}"').fetchall())]


@pytest.fixture(scope="module")
def debug(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run that publishes to the Hub, every library at its most talkative; a secret stands in both descriptions."""
    talkative = {
        "HF_DEBUG": "1",
        "HF_HUB_VERBOSITY": "debug",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_DEBUG_MODE": "1",
    }
    planted = (f"description={PLANTED}", f"dataset.description={PLANTED}")
    return run(hub, tmp_path_factory.mktemp("debug"), "run", *planted, **talkative)


@pytest.mark.slow
def test_the_token_was_used_and_is_nowhere_after_a_whole_debug_run(debug):
    assert debug.code == 0, debug.printed[-3000:]
    assert {seen.user for seen in debug.hub.requests("/commit/")} == {"alice"}
    assert {"alice/smoke-clips", "alice/smoke-adapter", "alice/smoke-adapter-base"} <= {
        name for _, name in debug.hub.repos
    }
    assert holders(debug, WRITES) == []


@pytest.mark.slow
def test_the_search_finds_a_secret_that_a_user_wrote_into_the_recipe(debug):
    """The positive control: a parameter of the run is in Prefect's database, where the token must not be."""
    found = holders(debug, PLANTED)
    assert "prefect/prefect.db" in " ".join(found)
    assert "table flow_run" in found
    assert {"README.md of alice/smoke-clips", "recipe.json of alice/smoke-clips"} <= {*found}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["store/x.json", "hub/refs", "results/record", "prefect/server.log"])
def test_the_search_finds_a_leak_in_any_file(tmp_path, debug, where):
    leaky = tmp_path / "home" / where
    leaky.parent.mkdir(parents=True)
    (tmp_path / "home" / "prefect").mkdir(exist_ok=True)
    (tmp_path / "home" / "prefect" / "prefect.db").write_bytes((debug.home / "prefect" / "prefect.db").read_bytes())
    for spelling in spellings(PLANTED[::-1]):
        leaky.write_bytes(b"Authorization: " + spelling + b"\n")
        assert holders(Run(0, "", tmp_path / "home", debug.hub), PLANTED[::-1]) == [f"home/{where}"]
    assert holders(Run(0, f"x {PLANTED[::-1]}", tmp_path / "home", debug.hub), PLANTED[::-1])[0] == "printed"


@pytest.mark.slow
def test_the_token_is_nowhere_after_a_run_that_failed_even_where_the_hub_sends_it_back(hub, tmp_path):
    """The Hub's own words are part of the sentence, the token in them is not."""
    echo = {"X-Error-Message": f"your token {WRITES} may not", "X-Error-Code": WRITES}
    hub.faults = [Fault("/commit/", status=403, headers=echo, times=99)]
    failed = run(hub, tmp_path, "build", "publish.dataset=other-clips")
    hub.faults = []
    assert failed.code == 2, failed.printed[-3000:]
    assert "this token may not do that" in failed.printed.splitlines()[-1]
    assert "your token *** may not" in failed.printed.splitlines()[-1]
    assert holders(failed, WRITES) == []


# --- no way in ---------------------------------------------------------------------------------------------------


def keys_of(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from keys_of(inner)


def test_no_key_of_a_recipe_takes_a_token_or_an_endpoint():
    keys = {*keys_of(StudyRecipe)}
    assert {"publish", "to", "lora", "per_cell"} <= keys
    assert [key for key in keys if {"token", "secret", "password", "endpoint", "url"} & {*key.split("_")}] == []
