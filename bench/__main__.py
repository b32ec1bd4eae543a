"""`make bench`: the server against the library alone, in the same run, as ratios.

The two take turns on the same machine, round by round; a ratio is of the medians.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from app.core.machine import worker_environment
from app.handler.source import resolve
from bench.client import measure

_TOPICS = (
    *("a fox in the snow", "a ship at sea", "a clockmaker", "two brothers", "the first winter", "a lost letter"),
    *("an old bridge", "a city of glass"),
)


def prompts(count: int) -> list[str]:
    """Prompts of about the same length, no two alike, that the sample model answers at length."""
    return [f"Write a long story about {_TOPICS[i % len(_TOPICS)]}, chapter {i + 1}." for i in range(count)]


@contextmanager
def server(model_path: str) -> Generator[int]:
    """A running server of the model; gives its port."""
    command = [sys.executable, "-m", "app.main", "--port", "0", "--model-path", model_path, "--max-concurrency", "64"]
    # Every round asks the same: with a prefix cache the server would not compute what the library computes.
    command += ["--prompt-cache-bytes", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    if process.stderr is None:
        raise RuntimeError("no stderr")
    try:
        port = 0
        for line in process.stderr:
            if found := re.search(r"at http://127\.0\.0\.1:(\d+)", line):
                port = int(found[1])
            if ": ready in" in line:
                break
        with urlopen(f"http://127.0.0.1:{port}/health") as reply:
            reply.read()
        yield port
    finally:
        process.terminate()
        process.wait()


class Raw:
    """The library alone, in its process."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.raw", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=worker_environment(os.environ),
        )

    def measure(self, texts: list[str], num_tokens: int) -> dict[str, float]:
        """The same job as the server's."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes")
        self._process.stdin.write(json.dumps({"prompts": texts, "num_tokens": num_tokens}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--model-path", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-tokens", type=int, default=48)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache_dir:
        folder = resolve(args.model_path, Path(cache_dir), print)
        raw = Raw(folder)
        try:
            with server(str(folder)) as port:
                rows = {n: compare(port, raw, n, args.num_tokens, args.rounds) for n in args.concurrency}
        finally:
            raw.close()
    print(f"{'rows':>5} {'figure':>8} {'server':>9} {'library':>9} {'ratio':>6}")
    for count, figures in rows.items():
        for name in ("decode", "whole"):
            ours, theirs = figures[name]
            print(f"{count:5} {name:>8} {ours:9.1f} {theirs:9.1f} {ours / theirs:6.3f}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def compare(port: int, raw: Raw, count: int, num_tokens: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Medians of (server, library), in tokens per second, after a round that does not count."""
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        ours.append(asyncio.run(measure(port, prompts(count), num_tokens)))
        theirs.append(raw.measure(prompts(count), num_tokens))
    return {name: (_median(ours, name), _median(theirs, name)) for name in ("decode", "whole", "ttft")}


def _median(rounds: list[dict[str, float]], name: str) -> float:
    """Of a figure over the rounds, without the first."""
    return statistics.median(one[name] for one in rounds[1:])


if __name__ == "__main__":
    main()
