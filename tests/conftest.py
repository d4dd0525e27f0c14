"""One home for the whole session, gone with it, and what many tests share."""

import contextlib
import gc
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

gc.disable()  # while so much is imported, collections only take time: until all tests are collected

# Before anything of ours or of Prefect's is imported: both read the environment at import.
_HOME = tempfile.TemporaryDirectory(prefix="earshot tests é ")  # a home with spaces and letters beyond ASCII
os.environ["EARSHOT_HOME"] = str(Path(_HOME.name) / "home")
os.environ.update(
    OMP_WAIT_POLICY="PASSIVE",  # spinning threads starve the commands that the tests start
    OPENBLAS_NUM_THREADS="1",
    PREFECT_HOME=str(Path(_HOME.name) / "prefect"),
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
    PREFECT_LOGGING_LEVEL="ERROR",
    HF_HUB_OFFLINE="1",
    HF_HOME=str(Path(_HOME.name) / "hf"),
    OMP_NUM_THREADS="1",  # a whole run goes on beside the tests: a second thread of torch would mostly spin
)

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from tests.commands import Command, Done  # noqa: E402
from tests.hub_clients import Clients, clients  # noqa: E402
from tests.local_hub import LocalHub, local_hub  # noqa: E402
from tests.prefect_server import Served, wait_for  # noqa: E402

# The same examples each time, and no deadline: a test says something of the code, not of the machine or of its luck. Others
# are drawn by `pytest --hypothesis-profile default`.
hypothesis.settings.load_profile("ci")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for one test."""
    monkeypatch.setenv("EARSHOT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def processor() -> Any:
    """The real processor class of Qwen2-Audio over a small vocabulary."""
    from tasks.models import tiny

    return tiny.make_processor()


@pytest.fixture(scope="session")
def tiny_base(processor: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers loads it: an untrained tiny Qwen2-Audio with the full-length encoder, and its processor."""
    from tasks.models import tiny

    folder = tmp_path_factory.mktemp("tiny base")
    tiny.make_model(processor, seed=3).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(tiny_base: Path) -> Any:
    """It, loaded once; a test that alters it does so in a copy."""
    import torch

    from tasks.models import family

    return family.load(tiny_base, revision=None, quantization=None, dtype=torch.float32, device="cpu").eval()


@pytest.fixture(scope="session")
def hub_clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """A Hub on the loopback, and one process with its clients."""
    with local_hub() as hub, clients(hub, tmp_path_factory.mktemp("hub clients")) as started:
        yield started


@pytest.fixture
def client(hub_clients: Clients) -> Clients:
    """Clients of a Hub as it is on its first day."""
    hub_clients.hub.clear()
    return hub_clients


@pytest.fixture
def hub(client: Clients) -> LocalHub:
    """The Hub they are clients of."""
    return client.hub


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real server with every deployment of prefect.yaml and two workers, for the slow tests of a session."""
    its = Served(tmp_path_factory.mktemp("served") / "a home")
    try:
        its.prefect("work-pool", "create", "earshot", "--type", "process")
        its.prefect("--no-prompt", "deploy", "--all")
        for name in ("one", "two"):
            its.worker(name)
        yield its
    finally:
        its.close()


@pytest.fixture(scope="session")
def served_study(served: Served) -> str:
    """The flow run of the deployment `study` over study/smoke, done by a worker."""
    flow_run = served.run("study", study="study/smoke")
    assert served.ended(flow_run)["type"] == "COMPLETED", served.logs(flow_run)
    return flow_run


class Smoke(NamedTuple):
    """A home in which `earshot run study/smoke` ran once, how that ended, and where it ran: `home` is a copy where several
    processes share the tests."""

    home: Path
    first: Done
    ran_in: Path


class Whole(NamedTuple):
    """It, and how the same command ended when nothing had changed, None where the first one failed."""

    smoke: Smoke
    rerun: Done | None


# Of all processes that share the tests of a session (`-n`): the first one's folder, which the others are told of.
_SHARED = Path(os.environ.setdefault("SHARED_BY_TESTS", _HOME.name))
_SMOKE_HOME, _ENDED = _SHARED / "smoke #1 100%", _SHARED / "smoke.json"
_runs: list[Command] = []


def start_whole_run() -> None:
    """Begin the whole run, beside all tests that do not need it, where no process of this session has."""
    with contextlib.suppress(FileExistsError):
        (_SHARED / "smoke has begun").touch(exist_ok=False)
        _runs.append(Command(_SMOKE_HOME, "run", "study/smoke"))
        threading.Thread(target=end_whole_run, daemon=True).start()


def end_whole_run() -> None:
    """Wait for it, run it again, and tell all how both ended."""
    ended = [_runs[0].done()]
    if ended[0].code == 0:
        _runs.append(Command(_SMOKE_HOME, "run", "study/smoke"))
        ended.append(_runs[1].done())
    draft = _ENDED.with_suffix(".draft")
    draft.write_text(json.dumps(ended, ensure_ascii=False), encoding="utf-8")
    draft.rename(_ENDED)


SERVED = ("test_browser.py", "test_deployments.py")  # their tests share one server


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of `--dist loadfile`: a process has the files whose tests share a server, since another would take minutes to come up
    and to run a study."""
    from xdist.scheduler import LoadFileScheduling

    class LoadServed(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "served" if file.endswith(SERVED) else file

    return LoadServed(config, log) if config.option.dist == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests of the server and its workers come first, since these mostly wait, and those with tests that need the
    whole run last; `--dist loadfile` deals files in this order."""
    needs: dict[Path, set[str]] = {}
    for item in items:
        needs.setdefault(item.path, set()).update(getattr(item, "fixturenames", ()))
    assert {path.name for path, names in needs.items() if "served" in names} <= set(SERVED)
    items.sort(key=lambda item: ("served" not in needs[item.path], "whole" in needs[item.path]))


def pytest_collection_finish(session: pytest.Session) -> None:
    """The whole run takes a while of one core: it goes on beside all tests that do not need it."""
    gc.freeze()
    gc.enable()
    needed = any("whole" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and not session.config.option.collectonly:
        start_whole_run()


@pytest.fixture(scope="session")
def whole() -> Whole:
    """The one whole run of the session and the same again, in this process's own copy of the home."""
    start_whole_run()
    assert wait_for(_ENDED.exists), "the whole run did not end"
    home = Path(_HOME.name) / _SMOKE_HOME.name
    if home != _SMOKE_HOME:
        shutil.copytree(_SMOKE_HOME, home, symlinks=True)
    told = json.loads(_ENDED.read_text(encoding="utf-8").replace(str(_SMOKE_HOME), str(home)))
    first, *again = (Done(*its) for its in told)
    return Whole(Smoke(home, first, _SMOKE_HOME), again[0] if again else None)


@pytest.fixture(scope="session")
def smoke(whole: Whole) -> Smoke:
    """The whole run; tests that alter its home do so in copies."""
    return whole.smoke


@pytest.fixture(scope="session")
def rerun(whole: Whole) -> Done:
    """The same command again, when nothing changed."""
    assert whole.rerun, whole.smoke.first.err[-3000:]
    return whole.rerun


def pytest_unconfigure() -> None:
    for command in _runs:
        command.stop()
    _HOME.cleanup()
