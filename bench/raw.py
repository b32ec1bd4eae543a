"""The library alone, in a process of its own: what the server's figures are divided by.

`python -m bench.raw FOLDER` reads one JSON job per line and answers each with one JSON line: when it started, and when
each row's tokens came.
"""

import json
import sys
import time

import mlx.nn as nn
from mlx_lm import load, stream_generate
from mlx_lm.generate import BatchGenerator
from mlx_lm.tokenizer_utils import TokenizerWrapper

from app.handler import device


def single(model: nn.Module, tokenizer: TokenizerWrapper, prompt: list[int], num_tokens: int) -> list[list[float]]:
    """One row through `stream_generate`."""
    return [[time.perf_counter() for _ in stream_generate(model, tokenizer, prompt, max_tokens=num_tokens)]]


def batch(model: nn.Module, prompts: list[list[int]], num_tokens: list[int]) -> list[list[float]]:
    """All rows at once through `BatchGenerator`, as big as the batch may get."""
    most = max(64, len(prompts))
    generator = BatchGenerator(model, completion_batch_size=most, prefill_batch_size=most)
    rows: dict[int, list[float]] = {uid: [] for uid in generator.insert(prompts, max_tokens=num_tokens)}
    left = sum(num_tokens)
    while left:
        responses = generator.next_generated()
        now = time.perf_counter()
        for response in responses:
            rows[response.uid].append(now)
        left -= len(responses)
    generator.close()
    return list(rows.values())


def main() -> None:
    """Answer jobs until stdin ends."""
    model, tokenizer = load(sys.argv[1])[:2]
    device.prepare_weights(model)
    # An end of text would make rows of different lengths.
    tokenizer.eos_token_ids = []
    for line in sys.stdin:
        job = json.loads(line)
        started = time.perf_counter()
        prompts = [
            tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
            for text in job["texts"]
        ]
        if len(prompts) == 1:
            rows = single(model, tokenizer, prompts[0], job["num_tokens"][0])
        else:
            rows = batch(model, prompts, job["num_tokens"])
        print(json.dumps({"started_s": started, "rows": rows}), flush=True)


if __name__ == "__main__":
    main()
