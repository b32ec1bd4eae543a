"""`make soak`: many clients with all kinds of requests against our server for a while. Whatever goes wrong fails it."""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from app.bench.call import open_call
from app.bench.command import run, say
from app.bench.endpoint import CallFailed, Endpoint, endpoint
from bench.launched import Launched, launched
from bench.model import SAMPLE, model_folder
from bench.soak.cases import CONTEXT_TOKENS, cases
from bench.soak.clients import Clients
from bench.soak.verdict import Load, Soak, as_json, as_line, as_text
from bench.soak.vitals import cpu_s, look

_SAMPLE_S = 2.0
_LINE_S = 30.0
_PATIENCE_S = 30.0
# Longer than the server lets a request live: what takes longer ends with its error, and not with ours.
_ANSWER_S = 400.0
# A worker with nothing to do uses no CPU.
_REST_S = 1.0
_MOST_CPU_AT_REST_S = 0.3
# So little that clients wait in line, prefixes are evicted and rows must wait for memory.
_OPTIONS = ("--max-concurrency", "12", "--queue-size", "1000", "--context-length", str(CONTEXT_TOKENS))
_NANO_OPTIONS = ("--prompt-cache-bytes", "4MiB", "--max-kv-bytes", "1MiB")


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.01), default=10.0, show_default=True, help="How long.")
@click.option(
    "--clients", "num_clients", type=click.IntRange(1, 200), default=24, show_default=True, help="How many at once."
)
@click.option(
    "--cases", "num_of_each", type=click.IntRange(1, 100), default=6, show_default=True, help="How many of each kind."
)
@click.option("--seed", type=int, default=1, show_default=True, help="What is asked follows from it.")
@click.option(
    "--model-path", default=SAMPLE, show_default=True, metavar="PATH", help="Folder, hub id or sample name of a model."
)
@click.option(
    "--nano/--no-nano", default=True, show_default=True, help="A random model that costs nothing, with its tokenizer."
)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write everything there.")
@click.argument("server_arguments", nargs=-1)
def main(model_path: str, nano: bool, json_path: Path | None, server_arguments: tuple[str, ...], **values: Any) -> None:
    """Ask our server everything at once, and compare each answer with the one it gives alone.

    Arguments after -- are the server's.
    """
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        folder = model_folder(model_path, nano, Path(directory))
        arguments = (*_OPTIONS, *(_NANO_OPTIONS if nano else ()), *server_arguments)
        with launched(folder, Path(directory), *arguments) as ours:
            soak = run(_soak(ours, Load(**values)))
        log = (Path(directory) / "server.log").read_text(encoding="utf-8", errors="replace")
    soak.faults += [
        f"in the server's log: {line}" for line in log.splitlines() if "ERROR" in line or "Traceback" in line
    ]
    click.echo(as_text(soak), nl=False)
    if json_path is not None:
        json_path.write_text(as_json(soak), encoding="utf-8")
    sys.exit(bool(soak.all_faults))


async def _soak(ours: Launched, load: Load) -> Soak:
    to = endpoint(ours.base_url, timeout_s=_ANSWER_S)
    clients = Clients(to, cases(load.seed, load.num_of_each), load.seed)
    soak = Soak(load, clients.tally)
    say("asking everything alone")
    await clients.ask_alone()
    started_s = time.monotonic()
    soak.samples.append(look(ours.pid, started_s))
    watch = asyncio.create_task(_watch(soak, ours.pid, started_s))
    await clients.run(load.num_clients, started_s + 60 * load.minutes)
    watch.cancel()
    await _check_rest(soak, to, ours.pid)
    say("asking everything alone again")
    await clients.ask_alone()
    return soak


async def _watch(soak: Soak, server_pid: int, started_s: float) -> None:
    """Look at the processes every now and then, and say how it is."""
    said_s = started_s
    while True:
        await asyncio.sleep(_SAMPLE_S)
        now_s = time.monotonic()
        try:
            soak.samples.append(await asyncio.to_thread(look, server_pid, now_s))
        except CallFailed as failure:
            soak.faults.append(str(failure))
        if now_s - said_s >= _LINE_S:
            said_s = now_s
            say(as_line(soak, now_s - started_s))


async def _check_rest(soak: Soak, to: Endpoint, server_pid: int) -> None:
    """With nobody left to serve, nothing may be left of anybody."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while (stats := await _stats(to))["active_requests"] or stats["queue_size"]:
        if time.monotonic() > deadline_s:
            soak.faults.append(f"{stats['active_requests']} requests run and {stats['queue_size']} wait for nobody")
            break
        await asyncio.sleep(0.1)
    if stats["worker_restarts"]:
        soak.faults.append(f"the worker was restarted {stats['worker_restarts']} times")
    await asyncio.sleep(1)
    try:
        last = look(server_pid, time.monotonic())
    except CallFailed as failure:
        soak.faults.append(str(failure))
        return
    soak.samples.append(last)
    before_s = cpu_s(last.worker_pid)
    await asyncio.sleep(_REST_S)
    if cpu_s(last.worker_pid) - before_s > _MOST_CPU_AT_REST_S:
        soak.faults.append("the worker works for nobody")


async def _stats(to: Endpoint) -> dict[str, Any]:
    call = await open_call(to, "GET", "/queue/stats")
    await call.wait()
    return json.loads(call.body)["queue_stats"]


if __name__ == "__main__":
    main(prog_name="python -m bench.soak")
