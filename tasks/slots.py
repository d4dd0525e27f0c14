"""Slots: how many jobs may hold a GPU, or two cores, at once; which GPU each has; the others queue."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from tasks import child

LEASE_S = 60.0  # the least that Prefect takes; the server looks every 15 s whether one is over, as a dead run's is
POLL_S = 0.5
ASK_S = 5.0  # how long one request for a slot may wait: then whoever interrupted is listened to
THREADS_A_JOB = 2  # as in ON_CPU
_on_cpu = threading.BoundedSemaphore(max(2, (os.cpu_count() or 1) // THREADS_A_JOB))


def gpus() -> list[str]:
    """A line for each NVIDIA GPU: name, total and free memory, driver; none where nvidia-smi is missing or fails."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [] if asked.returncode else asked.stdout.strip().splitlines()


def visible_gpus() -> list[str]:
    """What may stand in CUDA_VISIBLE_DEVICES, one a GPU: what stands there already, else the number of each GPU."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    return [str(number) for number in range(len(gpus()))]


def device_here(wish: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """The device that a recipe's wish comes to on this machine."""
    if wish == "auto":
        return "cuda" if visible_gpus() else "cpu"
    return wish


def limit_name() -> str:
    """Prefect's concurrency limit for the GPUs of this host: several hosts may share one server."""
    return f"gpu-{socket.gethostname()}"


def make_limit(names: Sequence[str]) -> None:
    """Create the limit, or size it to these GPUs, on the server of this run."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectAlreadyExists

    # What exists already was made by another run that was first, for the same GPUs.
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.upsert_global_concurrency_limit_by_name(limit_name(), len(names))


@contextlib.contextmanager
def slot(device: str, gpus: int | str = 1) -> Iterator[Mapping[str, str]]:
    """Wait for a GPU where there is one and the job may use it, or for several, else for two cores; the environment of
    the job. Raises ValueError where there are fewer GPUs than that.

    In a run the queue is the server's, for all its runs; the GPU itself is held by a lock of this host that the kernel
    frees when its holder dies. Raises ValueError where `child.end_all` was called meanwhile.
    """
    names = [] if device == "cpu" else visible_gpus()
    still_wanted = child.turn()
    with contextlib.ExitStack() as held:
        if not names:
            held.enter_context(_on_cpu)
            still_wanted()
            yield {}
            return
        wanted = len(names) if gpus == "all" else int(gpus)
        if wanted > len(names):
            raise ValueError(f"train.gpus: {wanted} GPUs are asked for, this machine shows {len(names)}")
        if "prefect" in sys.modules:
            queue(names, held, still_wanted, wanted)
        with contextlib.ExitStack() as taking:
            if wanted > 1:  # two jobs, each holding what the other waits for, would wait for ever
                hold_one(["several"], taking, still_wanted)
            mine = hold_several(wanted, names, held, still_wanted)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(mine), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def hold_several(
    wanted: int, names: Sequence[str], held: contextlib.ExitStack, still_wanted: Callable[[], None]
) -> list[str]:
    """Lock so many of these GPUs, one after another."""
    mine: list[str] = []
    while len(mine) < wanted:
        mine.append(hold_one([name for name in names if name not in mine], held, still_wanted))
    return sorted(mine, key=list(names).index)


def queue(names: Sequence[str], held: contextlib.ExitStack, still_wanted: Callable[[], None], wanted: int = 1) -> None:
    """Hold one of the server's slots, or several, in a run. A server that is away costs slots, not the job: locks stand."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from tasks.run_page import in_a_run, say

    if not in_a_run():
        return
    begin, asked = time.monotonic(), 0
    while True:
        still_wanted()
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
            absence = client.api_healthcheck()
        if absence:
            say(
                f"no GPU slot is asked for, the Prefect server is away ({absence!r}): locks of this host keep GPUs apart"
            )
            return
        if not asked:
            make_limit(names)
        if asked == 1:
            say(f"waiting for one of {len(names)} GPU slots ({limit_name()})")
        asked += 1
        if hold_slots(wanted, held):
            break
    if asked > 1:
        say(f"waited {time.monotonic() - begin:.0f} s for a GPU slot")


def hold_slots(wanted: int, held: contextlib.ExitStack) -> bool:
    """Hold so many of the server's slots where they are free within `ASK_S`; whether they are held."""
    import httpx
    from prefect.concurrency.sync import concurrency

    from tasks.run_page import say

    slots = concurrency(
        limit_name(), occupy=wanted, timeout_seconds=ASK_S, lease_duration=LEASE_S, strict=True,
        raise_on_lease_renewal_failure=False,
    )  # fmt: skip
    try:
        slots.__enter__()
    except TimeoutError:
        return False
    except Exception as error:
        if isinstance(
            error.__cause__, httpx.TransportError
        ):  # it left between the question whether it is there and this
            return False
        raise

    def give_back(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        try:
            return bool(slots.__exit__(kind, error, trace))
        except httpx.HTTPError as away:
            say(f"the GPU slot was not given back ({away!r}): the server takes it back within {LEASE_S + 30:.0f} s")
            return False

    held.push(give_back)
    return True


def hold_one(names: Sequence[str], held: contextlib.ExitStack, still_wanted: Callable[[], None]) -> str:
    """Lock the first of these GPUs that nobody on this host holds, waiting for one where all are held."""
    from filelock import FileLock, Timeout

    folder = Path(tempfile.gettempdir())
    while True:
        for name in names:
            lock = FileLock(folder / f"earshot-{os.getuid()}-gpu-{name}.lock", thread_local=False)
            with contextlib.suppress(Timeout):
                held.enter_context(lock.acquire(timeout=0))
                return name
        still_wanted()
        time.sleep(POLL_S)
