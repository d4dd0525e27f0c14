"""Flows in this process without a Prefect server: as plain functions, or a data set built and recorded as one."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from prefect import Flow, Task
from prefect.results import ResultRecord, ResultRecordMetadata  # type: ignore[attr-defined]
from prefect.serializers import JSONSerializer

from flows.build_dataset import BuiltDataset, build_dataset
from recipes.schema import StudyRecipe
from tasks import cache
from tasks.cache import Answer, RecordedTask, looking_up


class Future(NamedTuple):
    """That of a task which has run."""

    task_run_id: UUID
    value: Any

    def result(self) -> Any:
        return self.value


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Inside, flows and tasks are plain functions: nothing is run by Prefect, nothing recorded."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Flow, Task):
            patch.setattr(kind, "__call__", lambda its, *arguments, **keywords: its.fn(*arguments, **keywords))
        patch.setattr(Task, "submit", lambda its, *told, **more: Future(uuid4(), its.fn(*told, **more)))
        yield


def record(result: object, key: str) -> None:
    """What Prefect leaves behind a finished task."""
    metadata = ResultRecordMetadata(serializer=JSONSerializer(), storage_key=key)
    cache.results().mkdir(parents=True, exist_ok=True)
    (cache.results() / key).write_bytes(ResultRecord(result=result, metadata=metadata).serialize())


def build(recipe: StudyRecipe) -> BuiltDataset:
    """Every task of the flow run where its result is not recorded, and recorded then."""
    look_up = RecordedTask.look_up

    def run(task: Any, asked: Any, *arguments: Any, **keywords: Any) -> Answer:
        answer = look_up(task, asked, *arguments, **keywords)
        if answer.known:
            return answer
        result = task.fn(*arguments, **keywords)
        record(result, next(key for key, known in asked[task.name].items() if known is None))
        asked[task.name] = {key: known or result for key, known in asked[task.name].items()}
        return Answer(task.name, True, result)

    with pytest.MonkeyPatch.context() as patch, looking_up():
        patch.setattr(RecordedTask, "look_up", run)
        built: BuiltDataset = build_dataset.fn(recipe)
        return built
