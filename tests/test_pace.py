"""Progress comes at a pace that a reader can follow."""

import pytest

from tasks import pace
from tasks.pace import Paced


def test_a_line_is_handed_on_where_the_last_is_long_enough_ago_and_what_is_quick_says_nothing(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    said: list[str] = []
    say = Paced(said.append)
    for at, line in ((100.5, "quick"), (102.0, "first"), (103.9, "too soon"), (104.0, "second"), (190.0, "third")):
        now[0] = at
        say(line)
    assert said == ["first", "second", "third"]


def test_by_itself_it_speaks_apart_from_what_a_command_answers(monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(pace, "EVERY_S", 0.0)
    Paced()("1/2 clips")
    assert capsys.readouterr() == ("", "1/2 clips\n")
