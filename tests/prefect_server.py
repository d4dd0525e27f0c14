"""A real Prefect server, `earshot ui`, that tests start, kill and start again; and what they ask of it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from flows.server import free_port
from tests.bench.bench_kills import alive
from tests.commands import ROOT

HANGS_S = 600.0  # whatever goes on takes less, on a busy machine too
ANSWERS_S = 30.0  # a request is sent again after that
LATER = {408, 429, 502, 503}  # statuses after which Prefect's client asks again; 503: the database is busy


class Served:
    """A home with its server; commands, deployments and workers that use it."""

    def __init__(self, home: Path, database: str | None = None) -> None:
        self.home, self.port, self.database = home, free_port(), database
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.started: list[subprocess.Popen[Any]] = []
        self.workers: list[subprocess.Popen[Any]] = []
        self.server = self.start_server()

    @property
    def environment(self) -> dict[str, str]:
        """As a user sets it: the home, the server, and a profile of Prefect's that nobody else uses."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "OMP_"))}
        return {
            **kept, "EARSHOT_HOME": str(self.home), "PREFECT_API_URL": self.url, "PREFECT_HOME": str(self.home / "client"),
            "PYTHONPATH": str(ROOT), "PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_LOGGING_COLORS": "false",
            "DO_NOT_TRACK": "1", "PREFECT_CLIENT_MAX_RETRIES": "8",  # as prefect.yaml: a server may take long to start again
        }  # fmt: skip

    def start_server(self) -> "subprocess.Popen[Any]":
        """`earshot ui` at the port of this home, or Prefect's own server on another database, answering."""
        environment = {name: value for name, value in self.environment.items() if not name.startswith("PREFECT_API")}
        ours = ("-m", "flows.cli", "ui", "--no-browser", "--port", str(self.port))
        theirs = ("-m", "prefect", "server", "start", "--port", str(self.port))
        if self.database:
            environment |= {"PREFECT_SERVER_DATABASE_CONNECTION_URL": self.database}
        server = self.start(*(theirs if self.database else ours), environment=environment)
        assert wait_for(self.answers, HANGS_S), "the server does not answer"
        return server

    def kill_server(self) -> None:
        """As a power cut would."""
        self.server.kill()
        self.server.wait()
        assert wait_for(self.is_gone, HANGS_S), "what it started outlived it"

    def restart_server(self) -> None:
        """Kill the server, and start another on the same database and port."""
        self.kill_server()
        self.server = self.start_server()

    def answers(self) -> bool:
        """Whether the server is there."""
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def is_gone(self) -> bool:
        """Whether nobody listens at its port: one that is only slow to answer is still there."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0

    def start(
        self, *arguments: str, environment: dict[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[Any]":
        """A Python command that is not waited for, ended with the home."""
        log = (self.home.parent / f"{self.home.name}-{len(self.started)}.log").open("w")
        process = subprocess.Popen(
            [sys.executable, *arguments], env=environment or self.environment, cwd=self.home.parent,
            **{"stdout": log, "stderr": subprocess.STDOUT, "text": True, **options},
        )  # fmt: skip
        self.started.append(process)
        return process

    def python(self, *arguments: str) -> str:
        """A Python command, run to its end in the clone; what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments], env=self.environment, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def prefect(self, *arguments: str) -> str:
        """A command of Prefect's."""
        return self.python("-m", "prefect", *arguments)

    def earshot(self, *arguments: str, home: Path | None = None, **options: Any) -> "subprocess.Popen[Any]":
        """A command of ours on this server, by default on this home."""
        environment = {**self.environment, "EARSHOT_HOME": str(home or self.home)}
        return self.start("-m", "flows.cli", *arguments, environment=environment, **options)

    def worker(self, name: str) -> None:
        """A worker that does one run at a time; it stands in a folder that is no clone."""
        told = ("--pool", "earshot", "--name", name, "--limit", "1", "--type", "process")
        self.workers.append(self.start("-m", "prefect", "worker", "start", *told))

    def kill_workers(self) -> None:
        """Kill every worker, and the processes of the flows that they run, as a host does that loses its power."""
        for worker in self.workers:
            below = psutil.Process(worker.pid).children(recursive=True) if worker.poll() is None else []
            worker.kill()
            for process in below:
                with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended by itself
                    if "prefect" in " ".join(process.cmdline()):
                        process.kill()
            worker.wait()
        self.workers.clear()

    def call(self, method: str, path: str, content: Any = None) -> Any:
        """One request to the server's API, again where no answer came: so it must bear to be done twice."""
        response = response_to(method, f"{self.url}/{path}", content)
        response.raise_for_status()
        return response.json() if response.content else None

    def ask(self, path: str, **content: Any) -> Any:
        """POST to it."""
        return self.call("POST", path, content)

    def get(self, path: str) -> Any:
        """GET from it."""
        return self.call("GET", path)

    def run(self, deployment: str, flow: str = "run study", **parameters: Any) -> str:
        """`prefect deployment run`; the id of the flow run."""
        told = [part for name, value in parameters.items() for part in ("-p", f"{name}={json.dumps(value)}")]
        said = self.prefect("deployment", "run", f"{flow}/{deployment}", *told)
        return next(line.split("UUID:")[1].strip() for line in said.splitlines() if "UUID:" in line)

    def state(self, flow_run: str) -> dict[str, Any]:
        """The state a flow run is in."""
        return self.get(f"flow_runs/{flow_run}")["state"]

    def ended(self, flow_run: str) -> dict[str, Any]:
        """Its final state."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        assert wait_for(lambda: self.state(flow_run)["type"] in final, HANGS_S, 0.5), self.logs(flow_run)[-20:]
        return self.state(flow_run)

    def logs(self, flow_run: str) -> list[str]:
        """What a flow run and the flows it ran logged, in order."""
        found = self.ask("logs/filter", logs={"flow_run_id": {"any_": self.family(flow_run)}}, sort="TIMESTAMP_ASC")
        return [line["message"] for line in found]

    def family(self, flow_run: str) -> list[str]:
        """A flow run and the flows it ran."""
        below = self.ask("flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [flow_run]}})
        return [flow_run, *(run["id"] for run in below)]

    def artifacts(self, flow_run: str) -> dict[str, Any]:
        """Key -> artifact of a flow run and the flows it ran."""
        found = self.ask("artifacts/filter", artifacts={"flow_run_id": {"any_": self.family(flow_run)}})
        return {artifact["key"]: artifact for artifact in found if artifact["key"]}

    def processes(self) -> list[str]:
        """Command lines of this home's processes that train, score or fork."""
        return [command for command in alive(self.home).values() if "tasks." in command]

    def close(self) -> None:
        """End whatever was started."""
        for process in reversed(self.started):
            process.send_signal(signal.SIGINT)
        for process in reversed(self.started):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(condition: Callable[[], Any], within_s: float = HANGS_S, every_s: float = 0.1) -> bool:
    """Whether it came true in time; seen once more at the end, should the machine have stood still until then."""
    deadline = time.monotonic() + within_s
    while True:
        late = time.monotonic() >= deadline
        if condition():
            return True
        if late:
            return False
        time.sleep(every_s)


def response_to(
    method: str,
    url: str,
    content: Any = None,
    *,
    within_s: float = HANGS_S,
    each_s: float = ANSWERS_S,
    pause_s: float = 1,
) -> httpx.Response:
    """What a server answers, asked again where it is away, silent or busy, as by Prefect's own client. Each try that came
    to nothing is printed."""
    responses: list[httpx.Response] = []
    last = "never asked"

    def answered() -> bool:
        nonlocal last
        begin = time.monotonic()
        try:
            response = httpx.request(method, url, json=content, timeout=each_s)
        except httpx.TransportError as error:
            last = repr(error)
        else:
            if response.status_code not in LATER:
                responses.append(response)
                return True
            last = f"status {response.status_code}: {response.text[:200]}"
        print(f"{time.strftime('%X')} {method} {url}: {last} after {time.monotonic() - begin:.1f} s")
        return False

    assert wait_for(answered, within_s, pause_s), f"no answer to {method} {url} in {within_s:g} s; the last: {last}"
    return responses[0]
