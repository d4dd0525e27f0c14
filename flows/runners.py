"""Where the tasks of a flow run: threads of its process, processes of this host, a Dask cluster. No recipe says it."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from prefect import Flow
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows.stages import Runner

SCHEDULER = "EARSHOT_DASK_SCHEDULER"  # address of a cluster that is there; without it one of this host is made
Chosen = Callable[[Flow[..., Any]], Flow[..., Any]]


@contextlib.contextmanager
def chosen(runner: Runner) -> Iterator[Chosen]:
    """What makes a flow run its tasks there; a cluster of this host lasts as long as the block.

    Raises ValueError, with the command that installs it, where Dask is asked for and missing.
    """
    if runner == "dask":
        with dask_cluster() as address:
            yield lambda flow: flow.with_options(task_runner=on_dask(address))
        return
    its: TaskRunner[Any] = ProcessPoolTaskRunner() if runner == "processes" else ThreadPoolTaskRunner()
    yield lambda flow: flow.with_options(task_runner=its)


@contextlib.contextmanager
def dask_cluster() -> Iterator[str]:
    """The scheduler's address: of the cluster that the environment names, else of one with a worker for two cores."""
    if address := os.environ.get(SCHEDULER):
        yield address
        return
    try:
        from distributed import LocalCluster
    except ImportError as error:
        raise ValueError("--runner dask needs the extra: pip install -c constraints.txt -e '.[dask]'") from error
    workers = max(2, (os.cpu_count() or 2) // 2)
    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def on_dask(address: str) -> Any:
    """Prefect's runner on a cluster. Raises ValueError where its package is missing."""
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise ValueError("--runner dask needs the extra: pip install -c constraints.txt -e '.[dask]'") from error
    return DaskTaskRunner(address=address)
