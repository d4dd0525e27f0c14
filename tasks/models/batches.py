"""What keeps a device busy: clips made ready ahead of it, batches as large as its memory takes, and how long it waited."""

import bisect
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

ROWS_ON_CPU = 64
FIRST_TOKENS = 4_096  # of the language model, in the first batch on a GPU
MOST_TOKENS = 32_768  # more fill no GPU any better
MEMORY_SHARE = 0.8  # of what is free when a batch is planned


def ahead(
    pool: Executor, work: Callable[[T], R], items: Iterable[tuple[T, int]], most: Callable[[], int]
) -> Iterator[R]:
    """Yield `work(item)` for each (item, weight), in their order; the pool works ahead on what weighs up to `most()`."""
    begun: deque[tuple[Future[R], int]] = deque()
    weight = 0
    for item, its in items:
        begun.append((pool.submit(work, item), its))
        weight += its
        while weight > most():
            future, its = begun.popleft()
            weight -= its
            yield future.result()
    while begun:
        yield begun.popleft()[0].result()


class BatchSizes:
    """How many rows the next batch takes: `rows`, or on a GPU twice the tokens of the last one while memory allows."""

    def __init__(self, device: torch.device, rows: int | None) -> None:
        self.device = device
        self.rows = ROWS_ON_CPU if rows is None and device.type == "cpu" else rows
        self.tokens = FIRST_TOKENS
        self.most_tokens = MOST_TOKENS
        self.peak_bytes = 0  # of GPU memory so far

    def take(self, costs: Sequence[int]) -> int:
        """How many of the rows that cost so many tokens, in rising order, come next: no more than cost as much as the
        first, and at least one."""
        alike = bisect.bisect_right(costs, costs[0])
        return min(alike, self.rows or max(1, self.tokens // costs[0]))

    @contextlib.contextmanager
    def measuring(self, tokens: int) -> Iterator[None]:
        """Watch the memory that a batch of so many tokens takes, and plan the next one by it."""
        if self.device.type == "cpu":
            yield
            return
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        yield
        peak = torch.cuda.max_memory_allocated(self.device)
        self.peak_bytes = max(self.peak_bytes, peak)
        per_token = (peak - before) / tokens
        free = torch.cuda.mem_get_info(self.device)[0]
        free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        self.grow(tokens, MEMORY_SHARE * free / max(per_token, 1))

    def grow(self, tokens: int, room: float) -> None:
        """Plan twice the tokens after a full batch of `tokens`, and never more than there is room for."""
        wanted = 2 * self.tokens if 2 * tokens > self.tokens else self.tokens
        self.tokens = max(1, min(wanted, int(room), self.most_tokens))

    def too_much(self, rows: int, tokens: int) -> None:
        """A batch did not fit: half of it is the most from now on."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.rows is not None:
            self.rows = max(1, min(self.rows, rows // 2))
        self.most_tokens = max(1, min(self.most_tokens, tokens // 2))
        self.tokens = min(self.tokens, self.most_tokens)


class Clock:
    """How much of the time between its first and its last batch a GPU had no batch to work on, by CUDA events."""

    def __init__(self, device: torch.device) -> None:
        self.on = device.type == "cuda"
        self.batches: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Around everything that sets the GPU to work on a batch."""
        if not self.on:
            yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self.batches.append((begin, end))

    def waiting_share(self) -> float | None:
        """In [0, 1]; None on a CPU and before two batches. Waits for the GPU. Gaps within a batch are not seen."""
        if len(self.batches) < 2:
            return None
        torch.cuda.synchronize()
        worked = sum(begin.elapsed_time(end) for begin, end in self.batches)
        return max(0.0, 1 - worked / self.batches[0][0].elapsed_time(self.batches[-1][1]))


def on_host(values: torch.Tensor) -> torch.Tensor:
    """A copy on the host; from a GPU it is under way when this returns, and there when the GPU has passed this point."""
    if values.device.type == "cpu":
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def on_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device that nothing waits for."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def passed(device: torch.device) -> Callable[[], None]:
    """A call that returns when the device has done all that it has been given so far."""
    if device.type == "cpu":
        return lambda: None
    event = torch.cuda.Event()
    event.record()
    return event.synchronize
