"""The library alone, in a process of its own: what the server's figures are divided by.

`python -m bench.raw FOLDER` reads one JSON job per line and answers each with one JSON line.
"""

import json
import sys
import time

import mlx.nn as nn
from mlx_lm import load, stream_generate
from mlx_lm.generate import BatchGenerator
from mlx_lm.tokenizer_utils import TokenizerWrapper

from app.handler import device


def single(model: nn.Module, tokenizer: TokenizerWrapper, prompt: list[int], num_tokens: int) -> dict[str, float]:
    """One row through `stream_generate`."""
    started = time.perf_counter()
    times = [time.perf_counter() for _ in stream_generate(model, tokenizer, prompt, max_tokens=num_tokens)]
    return _figures(started, times)


def batch(model: nn.Module, prompts: list[list[int]], num_tokens: int) -> dict[str, float]:
    """All rows at once through `BatchGenerator`, as big as the batch may get."""
    generator = BatchGenerator(model, completion_batch_size=64, prefill_batch_size=64)
    started = time.perf_counter()
    generator.insert(prompts, max_tokens=[num_tokens] * len(prompts))
    times: list[float] = []
    while len(times) < num_tokens * len(prompts):
        responses = generator.next_generated()
        times += [time.perf_counter()] * len(responses)
    generator.close()
    return _figures(started, times)


def _figures(started: float, times: list[float]) -> dict[str, float]:
    """Tokens per second from the first token on (decode) and from the start on (whole); TTFT in seconds."""
    return {
        "decode": (len(times) - 1) / (times[-1] - times[0]),
        "whole": len(times) / (times[-1] - started),
        "ttft": times[0] - started,
    }


def main() -> None:
    """Answer jobs until stdin ends."""
    model, tokenizer = load(sys.argv[1])[:2]
    device.prepare_weights(model)
    # An end of text would make rows of different lengths.
    tokenizer.eos_token_ids = []
    for line in sys.stdin:
        job = json.loads(line)
        prompts = [
            tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
            for text in job["prompts"]
        ]
        if len(prompts) == 1:
            figures = single(model, tokenizer, prompts[0], job["num_tokens"])
        else:
            figures = batch(model, prompts, job["num_tokens"])
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
