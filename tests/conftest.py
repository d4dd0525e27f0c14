"""One home for the whole session, gone with it, and what many tests share."""

import gc
import os
import tempfile
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
from tests.prefect_server import Served  # noqa: E402

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
    """A home in which `earshot run study/smoke` ran once, and how that ended."""

    home: Path
    first: Done


_SMOKE_HOME = Path(_HOME.name) / "smoke #1 100%"
_runs: list[Command] = []


def needs(item: pytest.Item) -> int:
    """How much of the whole run a test asks for."""
    names = getattr(item, "fixturenames", ())
    return ("smoke" in names) + ("rerun" in names)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the whole run come last, and go to one process where several share the tests (`-n`); all others stay
    together by file, with what these set up."""
    items.sort(key=needs)
    for item in items:
        item.add_marker(pytest.mark.xdist_group("smoke" if needs(item) else item.path.name))


def pytest_collection_finish(session: pytest.Session) -> None:
    """The whole run takes a while of one core: it goes on beside all tests that do not need it."""
    gc.freeze()
    gc.enable()
    several = "PYTEST_XDIST_WORKER" in os.environ  # one of them will need it, and which is not known yet
    if any(map(needs, session.items)) and not several and not session.config.option.collectonly:
        _runs.append(Command(_SMOKE_HOME, "run", "study/smoke"))


@pytest.fixture(scope="session")
def smoke() -> Smoke:
    """The one whole run of the session; tests that alter its home do so in copies."""
    if not _runs:
        _runs.append(Command(_SMOKE_HOME, "run", "study/smoke"))
    first = _runs[0].done()
    _runs.append(Command(_SMOKE_HOME, "run", "study/smoke"))
    return Smoke(_SMOKE_HOME, first)


@pytest.fixture(scope="session")
def rerun(smoke: Smoke) -> Done:
    """The same command again, when nothing changed."""
    assert smoke.first.code == 0, smoke.first.err[-3000:]
    return _runs[1].done()


def pytest_unconfigure() -> None:
    for command in _runs:
        command.stop()
    _HOME.cleanup()
