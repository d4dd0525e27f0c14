"""Prompts proposed by an LLM in a process of its own, each answer of it kept so that a killed search goes on as it was."""

import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recipes.prompts import ProposerBlock
from tasks import child
from tasks.functional.prompt_meta import Mistake, Scored, meta_prompt, read_proposals
from tasks.hub_client import endpoint
from tasks.models.prompt_jobs import ProposingJob
from tasks.store import home, make_home

TIMEOUT_MIN = 60.0


class Asked(NamedTuple):
    """What a proposer is told of a search, and how many new prompts it is to write."""

    proposer: ProposerBlock
    history: Sequence[Scored]
    mistakes: Sequence[Mistake]
    answers: tuple[str, str]
    classes: tuple[str, str]
    most_words: int
    n: int
    seed: int


def folder() -> Path:
    """Where answers of proposers lie."""
    return home() / "store" / "proposals"


def llm_proposals(asked: Asked) -> list[str]:
    """The prompts in what the LLM says, unchecked. Raises ValueError where it cannot be loaded."""
    return read_proposals(answers_of(asked))


def answers_of(asked: Asked) -> list[str]:
    """What the LLM says, from disk where it has been asked the very same before."""
    model, _, revision = asked.proposer.model.partition("@")
    telling: dict[str, Any] = {
        "model": model, "revision": revision or None, "device": asked.proposer.device,
        "load_in_4bit": asked.proposer.load_in_4bit, "n": asked.n, "temperature": asked.proposer.temperature,
        "tokens": asked.proposer.tokens, "seed": asked.seed,
        "messages": meta_prompt(asked.history, asked.answers, asked.classes, asked.mistakes,
                                most=asked.proposer.history, most_words=asked.most_words),
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()[:32]
    path = folder() / f"{name}.json"
    if not path.exists():
        make_home()
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=folder(), prefix=f".draft-{socket.gethostname()}-{os.getpid()}-"
        ) as aside:
            ask_child(ProposingJob(**telling, output=str(Path(aside, "answers.json"))), Path(aside, "job.json"))
            Path(aside, "answers.json").rename(path)
    found: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return found


def ask_child(job: ProposingJob, file: Path) -> None:
    """Let `tasks.models.proposing` do a job in a process that gives its memory back.

    Raises ValueError where HF_ENDPOINT may not have the token that libraries would send there.
    """
    endpoint()
    file.write_text(job.model_dump_json(), encoding="utf-8")
    starting = child.started(child.python("-m", "tasks.child", "tasks.models.proposing", str(file)))
    child.run(starting, what="the proposer", on_line=lambda line: print(line, flush=True), timeout_min=TIMEOUT_MIN)
