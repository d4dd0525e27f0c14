"""The page of a run: what a task shows, what it shows again when it is cached, and what living things cost."""

import importlib
import json
import pkgutil
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
from prefect import Task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

import tasks
from flows.run_study import readable
from recipes.schema import CheckFailed
from tasks import child, progress, run_page
from tasks.advice import next_steps
from tasks.run_page import Living, announce, show_markdown, show_table

RUN = SimpleNamespace(id=uuid4(), flow_run_id=uuid4(), name="a task", start_time=None)


@pytest.fixture
def page(monkeypatch, home):
    """What reached the server, by this process's task run; `home` is empty."""
    posted = []

    class Client:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def create_artifact(self, artifact):
            posted.append(["new", artifact.type, artifact.key, artifact.data])
            return SimpleNamespace(id=uuid4())

        def update_artifact(self, artifact_id, artifact):
            posted.append(["again", artifact.data, artifact.description])

    monkeypatch.setattr(run_page, "get_client", lambda sync_client: Client())
    monkeypatch.setattr(run_page, "TaskRunContext", SimpleNamespace(get=lambda: SimpleNamespace(task_run=RUN)))
    monkeypatch.setattr(run_page, "get_run_logger", lambda: SimpleNamespace(info=lambda line: None))
    run_page._shown.clear()
    return posted


def state(name: str, key: str = "k" * 64) -> State:
    data = SimpleNamespace(metadata=SimpleNamespace(storage_key=f"/elsewhere/results/{key}"))
    return State.model_construct(type=StateType.COMPLETED, name=name, data=data, timestamp=None)


def test_a_cached_task_shows_again_what_it_had_shown(page, home):
    home.mkdir()
    show_table("audit", [{"check": "groups", "shared": float("nan")}], "Audit")
    show_markdown("card", "# Card", "Card")
    announce(None, RUN, state("Completed"))
    first = list(page)
    page.clear()
    announce(None, RUN, state("Cached"))
    assert page == first
    assert json.loads(first[0][3]) == [{"check": "groups", "shared": None}]
    page.clear()
    announce(None, RUN, state("Cached", "0" * 64))
    assert page == [], "another record showed nothing"


def test_what_fails_because_all_was_ended_was_stopped(page, home, monkeypatch):
    said = []
    monkeypatch.setattr(run_page._terminal, "info", said.append)
    monkeypatch.setattr(child, "_endings", 0)
    monkeypatch.setattr(child, "_working", set())
    failed = State.model_construct(type=StateType.FAILED, name="Failed", data=None, timestamp=None)
    announce(None, RUN, failed)
    child.end_all()
    announce(None, RUN, failed)
    announce(None, RUN, state("Completed"))
    assert said == ["a task: failed, 0.0 s", "a task: stopped, 0.0 s", "a task: completed, 0.0 s"]


def test_what_is_only_looked_up_shows_nothing(page):
    with run_page.silence():
        show_markdown("card", "# Card", "Card")
    assert page == []


def test_something_living_is_written_seldom_but_its_last_state_always_and_only_that_is_kept(page, home, monkeypatch):
    home.mkdir()
    now = [100.0]
    monkeypatch.setattr(run_page.time, "monotonic", lambda: now[0])
    bar = Living("progress", "x")
    for step in range(100):
        now[0] += 0.1
        bar.show(float(step), "on the way")
    bar.show(100.0, "done", last=True)
    assert page[0][0] == "new"
    assert page[-1] == ["again", 100.0, "done"]
    assert len(page) <= 2 + 10 / run_page.EVERY_S
    announce(None, RUN, state("Completed"))
    page.clear()
    announce(None, RUN, state("Cached"))
    assert page == [["new", "progress", "x", 100.0]]


def test_a_server_that_is_away_costs_the_page_and_not_the_task(page, monkeypatch, caplog):
    def gone(sync_client):
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(run_page, "get_client", gone)
    monkeypatch.setattr(run_page._terminal, "propagate", True)
    Living("progress", "x").show(1.0, "on the way")
    assert "the page of the run could not be written" in caplog.text


def test_a_job_at_work_waits_seconds_for_a_server_that_went_away_and_is_asked_seldom_then(page, home, monkeypatch):
    """The client is one that was connected, which is patient; the page of a cached run shows the last version anyway."""
    home.mkdir()
    asked, slept, now = [], [], [100.0]

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        raise httpx.ConnectError("refused")

    def client(sync_client: bool):
        its = SyncPrefectClient("http://127.0.0.1:1/api", httpx_settings={"transport": httpx.MockTransport(refuse)})
        its._client._has_connected = True
        return its

    with monkeypatch.context() as away, temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 8}):
        away.setattr(run_page, "get_client", client)
        away.setattr("prefect.client.base.time.sleep", slept.append)
        away.setattr(run_page.time, "monotonic", lambda: now[0])
        bar = Living("progress", "x")
        for step in range(60):
            bar.show(float(step), "on the way")
            now[0] += 1
        assert (len(asked), slept) == (2, [])
        bar.show(100.0, "done", last=True)
        assert len(asked) == 2 + 1 + run_page.RETRIES
        assert sum(slept) < 10
    announce(None, RUN, state("Completed"))
    announce(None, RUN, state("Cached"))
    assert page == [["new", "progress", "x", 100.0]]


def test_a_bar_tells_the_time_that_is_left(page, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = progress.Bar("t", "Training")
    for step in (10, 20, 30, 100):
        bar(f"step {step}/100: loss 0.5")
        now[0] += 30
    assert [entry[-1] for entry in page[1:]] == [
        "Training: step 20 of 100, 4 min left", "Training: step 30 of 100, 4 min left", "Training: step 100 of 100",
    ]  # fmt: skip
    assert progress.told(20) == ", 20 s left"


def test_the_curve_follows_the_lines_that_training_prints(page):
    curve = progress.Curve(42, 0, "attention+mlp")
    curve("step 2/4: loss 0.691, answers right 0.50")
    curve("32 training clips encoded once")
    curve("step 4/4: loss 0.500")
    assert curve.history == [{"step": 2, "loss": 0.691, "mean_token_accuracy": 0.5}, {"step": 4, "loss": 0.5}]
    assert any("![Training of attention+mlp, seed 42, fold 0](data:image/png;base64," in str(entry) for entry in page)


def test_the_sentences_of_a_summary_wrap_on_the_page_and_its_columns_stand():
    told = "\nIt beats none.\n\nA goal is missed.\n\ntest: 3 clips\n\ndetector  AUC"
    assert readable(told) == "- It beats none.\n- A goal is missed.\n\n```\ntest: 3 clips\n\ndetector  AUC\n```"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("train.epochs: no such key"), "earshot plan"),
        (CheckFailed("the gate asks 0.85"), "A check stopped it"),
        (TimeoutError("training ran longer than 5 minutes"), "timeout_min"),
        (OSError(28, "No space left on device"), "The disk is full"),
        (KeyboardInterrupt(), "stopped from outside"),
        (KeyError("seven"), "a fault of Earshot's own"),
    ],
)
def test_a_failed_run_says_what_it_was_what_mends_it_and_how_to_go_on(error, said):
    text = "\n".join(next_steps(error, "study/demo", ["train.seeds=[1, 2]"], "publish"))
    assert said in text
    assert "earshot run study/demo --set 'train.seeds=[1, 2]'" in text
    assert (str(error) or "KeyboardInterrupt") in text


def test_no_task_is_run_again_by_prefect_what_needs_a_network_asks_again_itself():
    """A task that failed on what it was given fails again; the Hub's client knows which answers are worth another try."""
    modules = [importlib.import_module(f"tasks.{its.name}") for its in pkgutil.iter_modules(tasks.__path__)]
    every = {its.name: its for module in modules for its in vars(module).values() if isinstance(its, Task)}
    assert len(every) > 10
    assert {name for name, its in every.items() if its.retries} == set()
