"""The child process that asks a local instruct LLM for new prompts."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from tasks.models.prompt_jobs import ProposingJob

AT_ONCE = 8  # answers generated beside each other


def main(path: str) -> None:
    """Write the texts that were said, unread, as a JSON list."""
    job = ProposingJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    device = "cuda" if job.device != "cpu" and torch.cuda.is_available() else "cpu"
    if job.device == "cuda" and device == "cpu":
        raise ValueError("proposer.device is cuda and no NVIDIA GPU answers here; set it to auto or cpu")
    tokenizer = AutoTokenizer.from_pretrained(job.model, revision=job.revision, trust_remote_code=False)
    model = load(job, device)
    print(f"proposer: {job.model}, {device}", flush=True)
    Path(job.output).write_text(json.dumps(said(model, tokenizer, job)), encoding="utf-8")


def load(job: ProposingJob, device: str) -> Any:
    """The LLM, in NF4 where that is wanted and CUDA is there. Raises ValueError where its vocabulary or files do not do."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            job.model, revision=job.revision, dtype=dtype, device_map={"": device}, use_safetensors=True,
            trust_remote_code=False, quantization_config=four_bits if job.load_in_4bit and device == "cuda" else None,
        )  # fmt: skip
    except OSError as error:
        raise ValueError(
            f"the proposer {job.model} cannot be loaded ({str(error).splitlines()[0]}); download it, name another with "
            "search.proposer.model, or set search.proposer.kind=grammar"
        ) from error
    return model.eval()


@torch.inference_mode()
def said(model: Any, tokenizer: Any, job: ProposingJob) -> list[str]:
    """`n` sampled answers; the same job says the same on the same machine."""
    ids = tokenizer(chat(tokenizer, job.messages), return_tensors="pt", add_special_tokens=False)["input_ids"]
    ids = ids.to(model.device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    torch.manual_seed(job.seed)
    answers: list[str] = []
    while len(answers) < job.n:
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=job.temperature, top_p=1.0,
            top_k=0, repetition_penalty=1.0, num_return_sequences=min(AT_ONCE, job.n - len(answers)),
            max_new_tokens=job.tokens, pad_token_id=pad,
        )  # fmt: skip
        answers += tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return answers


def chat(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """The messages as the LLM was taught to read them; plain text for a tokenizer without a template."""
    if not getattr(tokenizer, "chat_template", None):
        return "\n\n".join(message["content"] for message in messages) + "\n\n"
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
