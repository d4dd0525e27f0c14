"""prefect.yaml against a real server: what is deployed runs by workers, on schedules, and says why where it cannot."""

import http.server
import json
import queue
import re
import shutil
import subprocess
import threading
import time
import tomllib
from collections.abc import Iterator

import httpx
import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from packaging.specifiers import SpecifierSet
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, PREFECT_CLIENT_RETRY_JITTER_FACTOR, temporary_settings

from flows.server import HEARTBEAT_S
from recipes.schema import load_study
from tests.bench.bench_kills import holdings
from tests.commands import ROOT
from tests.prefect_server import HANGS_S, wait_for

DEPLOYED = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
AUTOMATIONS = yaml.safe_load((ROOT / "automations.yaml").read_text(encoding="utf-8"))["automations"]
SMOKE = {"study": "study/smoke"}


def test_every_deployment_is_described_tagged_limited_and_scheduled_but_inactive():
    assert sorted(its["name"] for its in DEPLOYED) == [
        "build", "compare", "evaluate", "optimize-prompt", "predict", "publish", "study", "train"
    ]  # fmt: skip
    for its in DEPLOYED:
        assert its["description"]
        assert "earshot" in its["tags"]
        assert its["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert [schedule["active"] for schedule in its["schedules"]] == [False]
        assert its["work_pool"]["name"] == "earshot"
        if "study" in its["parameters"]:
            load_study(its["parameters"]["study"], its["parameters"]["overrides"])


def test_a_run_is_called_dead_only_after_three_heartbeats_of_a_deployment_did_not_come():
    frequencies = {its["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] for its in DEPLOYED}
    assert frequencies == {str(HEARTBEAT_S)}
    (silent,) = [its for its in AUTOMATIONS if its["trigger"]["posture"] == "Proactive"]
    assert silent["trigger"]["within"] == 3 * HEARTBEAT_S


@pytest.mark.parametrize(
    ("who", "least_s", "said"), [("deployed", 500, "some eight minutes"), ("command", 60, "a minute")]
)
def test_what_ends_while_the_server_is_away_waits_for_it_as_long_as_the_page_says(monkeypatch, who, least_s, said):
    """By Prefect's client, once it has been connected; each of its pauses may be a fifth shorter or longer."""
    (deployed,) = {its["work_pool"]["job_variables"]["env"]["PREFECT_CLIENT_MAX_RETRIES"] for its in DEPLOYED}
    retries = int(deployed) if who == "deployed" else PREFECT_CLIENT_MAX_RETRIES.value()
    pauses: list[float] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    client = SyncPrefectClient("http://127.0.0.1:1/api", httpx_settings={"transport": httpx.MockTransport(refuse)})
    client._client._has_connected = True
    monkeypatch.setattr("prefect.client.base.time.sleep", pauses.append)
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: retries, PREFECT_CLIENT_RETRY_JITTER_FACTOR: 0}):
        assert isinstance(client.api_healthcheck(), httpx.ConnectError)
    assert least_s <= sum(pauses) < 1.1 * least_s
    assert said in (ROOT / "HOSTS.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_deployed_study_runs_by_a_worker_that_stands_anywhere_and_its_page_can_be_read(served, served_study):
    run = served.get(f"flow_runs/{served_study}")
    assert run["name"] == "study/smoke to publish, seed 42"
    shown = served.artifacts(served_study)
    tables = {key for key, its in shown.items() if its["type"] == "table"}
    assert {"data", "audit", "shortcuts", "evaluation"} <= tables
    assert shown["progress-training-42-0"]["data"] == 100
    assert shown["training-42-0"]["data"].startswith("![Training, seed 42, fold 0](data:image/png;base64,")
    assert "# " in shown["card-smoke-adapter"]["data"]
    assert "report.html](file:///" in shown["results"]["data"]
    assert "earshot verify earshot/smoke-adapter@" in shown["results"]["data"]
    assert "clips" in shown["plan"]["data"]
    pulled = "Running 1 deployment pull step(s)"  # lines reach the server some seconds behind the state
    assert wait_for(lambda: any(pulled in line for line in served.logs(served_study)), HANGS_S)
    assert "FutureWarning" not in "\n".join(served.logs(served_study))
    assert list((served.home / "hub").glob("models--earshot--smoke-adapter/snapshots/*"))


@pytest.fixture(scope="module")
def told(served) -> Iterator["queue.Queue[str]"]:
    """What the automations of automations.yaml send to a webhook, which is a server of ours."""
    received: queue.Queue[str] = queue.Queue()

    class Webhook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        make = "from prefect.blocks.webhook import Webhook; print(Webhook(url={!r}).save('earshot'))"
        block = served.python("-c", make.format(f"http://127.0.0.1:{server.server_port}/"))
        file = served.home.parent / "mine.yaml"
        text = (ROOT / "automations.yaml").read_text(encoding="utf-8").replace("WEBHOOK", block.strip())
        file.write_text(text, encoding="utf-8")
        made = served.prefect("automation", "create", "--from-file", str(file))
        assert {"earshot-failed", "earshot-silent"} <= set(re.findall(r"earshot-\w+", made))
        yield received
        server.shutdown()


def heard_of(flow_run: str, told: "queue.Queue[str]") -> list[str]:
    """What the webhook was told up to the first message of this run."""
    texts = [told.get(timeout=HANGS_S)]
    while f"/runs/flow-run/{flow_run}" not in texts[-1]:
        texts.append(told.get(timeout=HANGS_S))
    return texts


@pytest.mark.slow
def test_a_recipe_that_is_wrong_fails_in_the_first_line_with_the_schemas_sentence_and_says_what_to_do(
    served, served_study, told
):
    before = holdings(served.home)
    flow_run = served.run("train", **SMOKE, overrides=["train.epochs=3"])
    state = served.ended(flow_run)
    assert state["type"] == "FAILED"
    assert "train.epochs: no such key; accepted here: " in state["message"]
    shown = served.artifacts(flow_run)
    assert list(shown) == ["what-next"], "nothing ran"
    assert "earshot train study/smoke --set train.epochs=3" in shown["what-next"]["data"]
    assert holdings(served.home) == before
    message = heard_of(flow_run, told)[-1]
    assert message.startswith("study/smoke to train - ")
    assert "train.epochs: no such key" in message


@pytest.mark.slow
def test_an_interval_schedule_makes_runs_and_two_workers_share_one_home(served, served_study):
    """Two deployments at once over parts that are not cached: both workers do the same work on one store."""
    deployment = served.get("deployments/name/run study/build")
    schedule = {
        "schedule": {"interval": 15},
        "active": True,
        "parameters": {**SMOKE, "overrides": ["dataset.clips.seed=8"]},
    }
    schedules = f"deployments/{deployment['id']}/schedules"

    def scheduled(*states: str) -> list[dict]:
        found = served.ask("flow_runs/filter", deployments={"id": {"any_": [deployment["id"]]}})
        return [run for run in found if run["auto_scheduled"] and run["state_type"] in states]

    try:
        served.call("POST", schedules, [schedule])  # twice where the first answer was lost: runs come twice as often
        other = served.run("evaluate", **SMOKE, overrides=["dataset.clips.seed=8"])
        assert wait_for(lambda: len(scheduled("COMPLETED")) >= 2, HANGS_S, 1), "the schedule made no two runs"
    finally:  # or it would keep the workers of all later tests busy
        for its in served.get(schedules):
            served.call("PATCH", f"{schedules}/{its['id']}", {"active": False})
    assert served.ended(other)["type"] == "COMPLETED", served.logs(other)
    assert wait_for(lambda: not scheduled("PENDING", "RUNNING"), HANGS_S, 1), "one more had begun"
    runs = [served.get(f"flow_runs/{other}"), *scheduled("COMPLETED", "FAILED", "CRASHED")]
    assert {run["state_type"] for run in runs} == {"COMPLETED"}

    def workers() -> set[str]:
        lines = [line for run in runs for line in served.logs(run["id"])]
        return {line.split("'")[1] for line in lines if line.startswith("Worker '")}

    assert wait_for(lambda: workers() == {"one", "two"}, HANGS_S, 1), (
        workers()
    )  # lines reach the server behind the state
    left = [path.name for path in (served.home / "store").glob("*/.*")]
    assert not left, "no draft is left"


@pytest.mark.slow
def test_a_cancelled_run_ends_with_its_child_processes(served, served_study):
    endless = ["train.training.max_steps=100000", "train.seeds=[1]", "train.timeout_min=600"]
    flow_run = served.run("study", **SMOKE, overrides=endless)
    assert wait_for(lambda: any(": step " in line for line in served.logs(flow_run)), HANGS_S, 1)
    assert served.processes()
    served.prefect("flow-run", "cancel", flow_run)
    begin = time.monotonic()
    assert wait_for(lambda: not served.processes()), served.processes()  # long before `timeout_min`
    print(f"ended {time.monotonic() - begin:.1f} s after it was cancelled")
    assert served.ended(flow_run)["type"] == "CANCELLED"
    assert "stopped from outside" in served.artifacts(flow_run)["what-next"]["data"]


@pytest.mark.slow
def test_a_run_that_takes_longer_than_it_may_ends_with_its_child_processes_and_its_page_names_what_to_raise(
    served, served_study, told
):
    short = ["train.training.max_steps=100000", "train.seeds=[3]", "train.timeout_min=0.25"]
    flow_run = served.run("train", **SMOKE, overrides=short)
    assert wait_for(served.processes, HANGS_S)
    state = served.ended(flow_run)
    assert state["type"] == "FAILED"
    assert "training with seed 3 ran longer than 0.25 minutes and was stopped; raise `timeout_min`" in state["message"]
    assert wait_for(lambda: not served.processes()), served.processes()
    advice = served.artifacts(flow_run)["what-next"]["data"]
    assert "Raise the `timeout_min` of its block (`train`," in advice
    assert "earshot train study/smoke --set train.training.max_steps=100000" in advice
    assert not list((served.home / "store").glob("*/.draft*")), "what was half written is gone"
    assert "training with seed 3 ran longer" in heard_of(flow_run, told)[-1]


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_no_process_and_the_server_says_of_its_run_that_it_crashed(
    served, served_study, told
):
    endless = ["train.training.max_steps=100000", "train.seeds=[2]", "train.timeout_min=600"]
    flow_run = served.run("train", **SMOKE, overrides=endless)

    def beats() -> int:
        found = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "any_resource": {"id": [f"prefect.flow-run.{flow_run}"]},
        }
        return served.ask("events/filter", filter=found)["total"]

    assert wait_for(lambda: beats() > 1, HANGS_S, 1)
    assert wait_for(served.processes)  # on a busy machine it may not have come to its training yet
    served.kill_workers()
    assert wait_for(lambda: not served.processes()), served.processes()
    served.worker("three")
    again = served.run("train", **SMOKE)  # waits until the one before it is said to be dead
    message = "its process is gone: no heartbeat"
    assert wait_for(lambda: message in str(served.state(flow_run)["message"]), HANGS_S, 1), served.state(flow_run)
    told_of = [state["type"] for state in served.get(f"flow_run_states/?flow_run_id={flow_run}")]
    assert told_of[-2:] == ["RUNNING", "CRASHED"], "nobody was there to say otherwise"
    assert served.ended(again)["type"] == "COMPLETED", served.logs(again)
    texts = heard_of(flow_run, told)
    assert message in texts[-1]
    assert not any("its process is gone" in text for text in texts[:-1]), "no run that lived was said to be dead"


@pytest.mark.slow
def test_a_deployed_prediction_answers_what_is_new_in_a_folder(served, served_study, tmp_path):
    (tmp_path / "inbox").mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).uniform(-0.4, 0.4, 1600)
        soundfile.write(tmp_path / "inbox" / f"{i}.wav", noise, 16_000)
    told = {"adapter": "earshot/smoke-adapter", "folder": str(tmp_path / "inbox"), "out": str(tmp_path / "out")}
    flow_run = served.run("predict", flow="predict", **told)
    assert served.ended(flow_run)["type"] == "COMPLETED", served.logs(flow_run)
    assert len(pd.read_parquet(tmp_path / "out" / "predictions.parquet")) == 3
    assert {"answers", "drift"} <= set(served.artifacts(flow_run))
    again = served.run("predict", flow="predict", **told)
    assert served.ended(again)["type"] == "COMPLETED", served.logs(again)
    said = "3 files, 0 of them new or changed"  # lines reach the server some seconds behind the state
    assert wait_for(lambda: any(said in line for line in served.logs(again)), HANGS_S, 1), served.logs(again)


def test_the_dockerfile_has_no_fault_that_a_linter_knows():
    if not (linter := shutil.which("hadolint")):
        pytest.skip("no hadolint here")
    linted = subprocess.run([linter, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout


def test_what_the_dockerfile_copies_and_installs_is_there():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    extras = set(re.search(r"-e '\.\[([a-z,]+)\]'", text)[1].split(","))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras <= set(project["optional-dependencies"])
    assert SpecifierSet(project["requires-python"]).contains(re.search(r"FROM python:([\d.]+)-", text)[1])
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert not {"constraints.txt", "pyproject.toml", "README.md", "recipes"} & set(ignored)
