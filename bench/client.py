"""A client that costs next to nothing: raw sockets, chunks counted and not parsed."""

import asyncio
import json
import re
import time

_CONTENT = b'"delta":{"content":'
_NUM_TOKENS = re.compile(rb'"completion_tokens":(\d+)')


async def _stream_chat(port: int, text: str, num_tokens: int) -> tuple[list[float], int]:
    """The arrival times of one stream's content chunks, and how many tokens they were."""
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": num_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
    times: list[float] = []
    end = b""
    while data := await reader.read(1 << 16):
        # The role's chunk comes first, before the prompt is even prefilled.
        times += [time.perf_counter()] * (data.count(_CONTENT))
        end = (end + data)[-1000:]
    writer.close()
    found = _NUM_TOKENS.search(end)
    if found is None:
        raise RuntimeError(f"the server did not finish a stream: {end.decode(errors='replace')}")
    return times, int(found[1])


async def measure(port: int, texts: list[str], num_tokens: int) -> dict[str, float]:
    """All texts at once: tokens per second from the first token on and from the start on, TTFT in seconds."""
    started = time.perf_counter()
    streams = await asyncio.gather(*(_stream_chat(port, text, num_tokens) for text in texts))
    times = sorted(moment for moments, _ in streams for moment in moments)
    count = sum(tokens for _, tokens in streams)
    if count != num_tokens * len(texts):
        raise RuntimeError(f"{count} tokens came instead of {num_tokens * len(texts)}: choose other prompts")
    return {
        "decode": (count - 1) / (times[-1] - times[0]),
        "whole": count / (times[-1] - started),
        "ttft": times[0] - started,
    }
