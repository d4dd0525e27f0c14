"""What a search for a prompt costs on one GPU: Qwen2-Audio-7B and a 3 B proposer in NF4, random weights of full size.

    python -m tests.bench.bench_prompts_gpu [--clips 150] [--rounds 5]

One run, ratios side by side: the answers of a full search by prompts that share a clip's audio, by prompts asked one after
another, and in the blocks of a race; then a round of proposals through the real child's code, from a folder on disk.
Clips are 1 s long. Nothing is downloaded; 6 GB of disk for the proposer while it runs.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from recipes.prompts import default_search
from tasks.functional.prompt_grammar import propose
from tasks.functional.prompt_meta import Scored, meta_prompt
from tasks.models import family, proposing, tiny
from tasks.models.encoding import kept_encodings
from tasks.models.prompt_jobs import ProposingJob
from tasks.models.scoring import Question, Scorer, questions
from tests.bench.real_size import make_model, quantise
from tests.bench.scoring_rows import make_clips

CLASSES, ANSWERS, CANDIDATES, BLOCKS = ("SPEECH", "NONSPEECH"), ("A", "B"), 8, 15
QWEN_3B = {
    "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 2, "max_position_embeddings": 32_768, "tie_word_embeddings": True,
}  # fmt: skip


def main() -> None:
    """Print a line a way of asking, then the proposer's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["EARSHOT_HOME"] = home
        processor = tiny.make_processor()
        known = [prompt.text for prompt in default_search().prompts if prompt.answers is None]
        asked = questions(processor, propose(known, given.rounds * CANDIDATES, ANSWERS, CLASSES, known, 0), ANSWERS)
        model = quantise(family.prepare(make_model(processor, "cuda")))
        scorer = Scorer(model, processor, kept_encodings(model, processor))
        show_asking(scorer, make_clips(given.clips, [1000]), asked)
        print(f"  {torch.cuda.max_memory_allocated() / 1e9:.1f} GB at most, base in NF4")
        del model, scorer
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        show_proposing(Path(home), processor.tokenizer, known)


def show_asking(scorer: Scorer, clips: Sequence[bytes], asked: Sequence[Question]) -> None:
    """Seconds for every prompt on every clip, each way."""
    rounds = [asked[k : k + CANDIDATES] for k in range(0, len(asked), CANDIDATES)]
    size = -(-len(clips) // BLOCKS)
    blocks = [clips[: 2 * size], *(clips[k : k + size] for k in range(2 * size, len(clips), size))]  # as a race begins

    def together() -> None:
        for some in rounds:
            scorer.score(clips, some)

    def alone() -> None:
        for question in asked:
            scorer.score(clips, [question])

    def in_blocks() -> None:
        for some in rounds:
            for block in blocks:
                scorer.score(block, some)

    scorer.score(clips, rounds[0])  # features, encodings and batch sizes are there from here on
    n = len(asked) * len(clips)
    first = timed(together)
    print(f"{torch.cuda.get_device_name()}: {len(asked)} prompts on {len(clips)} clips, {n:,} answers")
    print(
        f"  {CANDIDATES} prompts at once, a clip's audio gone through once: {first:.1f} s, {n / first:.0f} answers/s"
    )
    for name, way in (
        ("each prompt by itself", alone),
        (f"{CANDIDATES} at once, in the {BLOCKS} blocks of a race", in_blocks),
    ):
        seconds = timed(way)
        print(f"  {name}: {seconds:.1f} s, {seconds / first:.2f} x as long for the same answers", flush=True)


def timed(work: Callable[[], None]) -> float:
    """Seconds until the GPU has done it."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def show_proposing(home: Path, tokenizer: Any, known: Sequence[str]) -> None:
    """Seconds and memory of one round's proposals by a 3 B model that is loaded from disk, as the child does it."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    ends = {"bos_token_id": None, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.device("cuda"):
        Qwen2ForCausalLM(Qwen2Config(**QWEN_3B, **ends)).to(torch.bfloat16).save_pretrained(home / "llm")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    history = [Scored(text, 0.5 + 0.01 * k) for k, text in enumerate(known)]
    job = ProposingJob(
        model=str(home / "llm"), revision=None, device="cuda", load_in_4bit=True, n=CANDIDATES, temperature=1.0, tokens=96,
        seed=0, messages=meta_prompt(history, ANSWERS, CLASSES, [], most=20, most_words=60), output="",
    )  # fmt: skip
    begin = time.perf_counter()
    model = proposing.load(job, "cuda")
    loaded = time.perf_counter() - begin
    seconds = timed(lambda: proposing.said(model, tokenizer, job))
    print(f"  proposer: loaded in {loaded:.1f} s, {CANDIDATES} proposals of {job.tokens} tokens in {seconds:.1f} s, "
          f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB at most, NF4")  # fmt: skip


if __name__ == "__main__":
    main()
