"""Batches grow while memory allows and shrink where it did not; what is read ahead comes in order, and not all at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.models.batches import FIRST_TOKENS, MOST_TOKENS, ROWS_ON_CPU, BatchSizes, Clock, ahead, on_device, on_host
from tests.prefect_server import HANGS_S

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(0, 30), st.integers(1, 4))
def test_what_is_done_ahead_comes_in_its_order_and_whole(weights, most, workers):
    with ThreadPoolExecutor(workers) as pool:
        items = list(enumerate(weights))
        assert list(ahead(pool, lambda item: -item, items, lambda: most)) == [-item for item, _ in items]


def test_no_more_is_done_ahead_than_may_wait():
    begun: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        results = ahead(pool, lambda item: begun.append(item) or item, ((k, 10) for k in range(100)), lambda: 35)
        assert [next(results), next(results)] == [0, 1]
    assert len(begun) <= 2 + 4, "three wait, and one more is begun before the first of them is handed on"


def test_what_fails_ahead_fails_where_it_is_asked_for():
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("no FLAC")
        return item

    with ThreadPoolExecutor(2) as pool:
        results = ahead(pool, work, ((k, 1) for k in range(5)), lambda: 2)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="no FLAC"):
            next(results)


def test_work_is_done_in_the_pool_while_the_caller_is_busy():
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        results = ahead(pool, lambda item: done.set() if item else None, ((k, 1) for k in range(3)), lambda: 1)
        next(results)
        assert done.wait(HANGS_S), "the second item was done before anybody asked for it"
        list(results)


@pytest.mark.parametrize(
    ("rows", "costs", "taken"), [(3, [7] * 5, 3), (3, [7, 7, 9, 9], 2), (3, [7], 1), (64, [5, 6, 7], 1)]
)
def test_a_batch_holds_rows_of_one_length_and_no_more_than_it_may(rows, costs, taken):
    assert BatchSizes(CPU, rows).take(costs) == taken


def test_on_a_cpu_the_number_of_rows_is_settled():
    assert BatchSizes(CPU, None).take([70] * 1000) == ROWS_ON_CPU


def test_on_a_gpu_batches_double_while_there_is_room():
    sizes, taken = BatchSizes(GPU, None), []
    for _ in range(6):
        taken.append(sizes.take([64] * 10_000))
        sizes.grow(taken[-1] * 64, room=20_000)
    assert taken == [FIRST_TOKENS // 64, 128, 256, 312, 312, 312], "20,000 tokens of room are 312 rows of 64"


def test_a_batch_that_was_not_full_proves_nothing_about_a_larger_one():
    sizes = BatchSizes(GPU, None)
    sizes.grow(FIRST_TOKENS // 4, room=1e9)
    assert sizes.tokens == FIRST_TOKENS


def test_batches_do_not_grow_beyond_what_fills_any_gpu():
    sizes = BatchSizes(GPU, None)
    for _ in range(20):
        sizes.grow(sizes.tokens, room=1e12)
    assert sizes.tokens == MOST_TOKENS


@pytest.mark.parametrize("rows", [None, 100])
def test_what_was_too_much_is_not_tried_again(rows):
    sizes = BatchSizes(GPU, rows)
    for _ in range(4):
        sizes.grow(sizes.tokens, room=1e12)
    before = sizes.take([64] * 10_000)
    sizes.too_much(before, before * 64)
    assert sizes.take([64] * 10_000) == before // 2
    sizes.grow(sizes.tokens, room=1e12)
    assert sizes.take([64] * 10_000) == before // 2


def test_one_row_is_always_taken_however_long():
    sizes = BatchSizes(GPU, None)
    sizes.grow(1, room=1)
    assert sizes.take([900, 900]) == 1


def test_a_cpu_waits_for_nothing_and_nothing_is_copied_for_it():
    clock, values = Clock(CPU), torch.arange(3)
    with clock.working():
        pass
    assert clock.waiting_share() is None
    assert on_host(values) is values
    assert on_device(values, CPU) is values
