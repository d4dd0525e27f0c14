"""A data set built by its own flow in this process, without a Prefect server, and recorded as one."""

from typing import Any

import pytest
from prefect.results import ResultRecord, ResultRecordMetadata  # type: ignore[attr-defined]
from prefect.serializers import JSONSerializer

from flows.build_dataset import BuiltDataset, build_dataset
from recipes.schema import StudyRecipe
from tasks import cache
from tasks.cache import Answer, RecordedTask, looking_up


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
