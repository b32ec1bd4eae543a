import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.core import frames
from app.core.completion import fold
from app.core.conversation import Conversation, Message
from app.core.events import Event, Failed, Finished, Started, TextDelta
from app.core.requests import EmbeddingRequest, GenerationRequest, Sampling
from app.settings import ModelSpec
from tests.fixtures.driving import check_order

ROOT = Path(__file__).parents[2]
# Far more than any wait here should take; what is waited for is always an event, never the clock.
DEADLINE_S = 30
HELLO = [Message("user", "hello")]


class Worker:
    """A worker process at the other end of a socketpair."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(DEADLINE_S)
        self.reader = frames.reader_of_server()
        self.events: dict[int, list[Event]] = {}
        self.lines: list[frames.LogLine] = []
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "app.worker", str(theirs.fileno())],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        self._arrived: list[frames.ToServer] = []

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]

    def send(self, *messages: frames.ToWorker) -> None:
        self.socket.sendall(b"".join(map(frames.encode, messages)))

    def load(self, folder: Path, **settings: object) -> frames.Load:
        spec = ModelSpec.model_validate({"model_path": str(folder), "warmup": False} | settings)
        return frames.Load(spec.model_dump_json(), str(folder.parent / "cache"))

    def next_frame(self) -> frames.ToServer:
        """The next frame but for progress and log lines."""
        while True:
            while not self._arrived:
                data = self.socket.recv(1 << 16)
                if not data:
                    raise EOFError(self.output())
                self._arrived += self.reader.feed(data)
            match message := self._arrived.pop(0):
                case frames.LogLine():
                    self.lines.append(message)
                case frames.Progress():
                    pass
                case _:
                    return message

    def ready(self) -> frames.ModelInfo:
        match self.next_frame():
            case frames.Ready(info):
                return info
            case other:
                raise AssertionError(other)

    def take_turn(self) -> None:
        match self.next_frame():
            case frames.Turn(events):
                assert events
                for request_id, event in events:
                    self.events.setdefault(request_id, []).append(event)
            case other:
                raise AssertionError(other)

    def caches(self) -> frames.CacheStats:
        """What is told next about the caches; turns on the way are taken."""
        while not isinstance(message := self.next_frame(), frames.Inspected):
            self._arrived.insert(0, message)
            self.take_turn()
        return message.caches

    def pulse(self) -> frames.Pulse:
        """What is answered to a ping; turns on the way are taken."""
        self.send(frames.Ping())
        while not isinstance(message := self.next_frame(), frames.Pulse):
            self._arrived.insert(0, message)
            self.take_turn()
        return message

    def until_text(self, request_id: int) -> None:
        """Until the answer has begun."""
        while not any(isinstance(event, TextDelta) for event in self.events.get(request_id, [])):
            self.take_turn()
            assert not isinstance(self.events.get(request_id, [None])[-1], Failed), self.lines

    def finish(self, *request_ids: int) -> None:
        """Until each of these has its last event, in the right order."""
        while not all(isinstance(self.events.get(one, [None])[-1], Finished | Failed) for one in request_ids):
            self.take_turn()
        for one in request_ids:
            if not isinstance(self.events[one][0], Failed):
                check_order(self.events[one])

    def exit_code(self) -> int:
        return self.process.wait(DEADLINE_S)

    def output(self) -> str:
        return self.process.communicate(timeout=DEADLINE_S)[0].decode()


@pytest.fixture
def fresh() -> Iterator[Worker]:
    """A worker that was told nothing yet."""
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def running(llama_folder: Path) -> Iterator[Worker]:
    """A worker with a model, for the tests that leave it alive."""
    worker = Worker()
    worker.send(worker.load(llama_folder))
    worker.ready()
    yield worker
    worker.close()


def ask(max_tokens: int | None = None, **fields: object) -> GenerationRequest:
    return GenerationRequest(Conversation(HELLO), Sampling(temperature=0.0), max_tokens=max_tokens, **fields)  # type: ignore[arg-type]


class TestServing:
    def test_an_answer(self, running: Worker) -> None:
        running.send(frames.Submit(1, ask(8)))
        running.finish(1)
        done = fold(running.events[1])
        started = running.events[1][0]
        assert isinstance(started, Started)
        assert (done.choices[0].reason, done.usage.completion_tokens) == ("length", 8)
        assert done.usage.prompt_tokens == started.prompt_tokens > 8
        assert done.choices[0].text

    def test_the_same_alone_and_among_others(self, running: Worker) -> None:
        running.send(frames.Submit(10, ask(30)))
        running.finish(10)
        running.send(*(frames.Submit(request_id, ask(30)) for request_id in range(11, 17)))
        running.finish(*range(11, 17))
        assert {fold(running.events[request_id]).choices[0].text for request_id in range(10, 17)} == {
            fold(running.events[10]).choices[0].text
        }

    def test_one_that_is_refused_and_one_that_is_not(self, running: Worker) -> None:
        running.send(
            frames.Submit(20, GenerationRequest(Conversation(HELLO, template_arguments={"tools": []}))),
            frames.Submit(21, ask(3)),
            frames.Submit(22, GenerationRequest(Conversation([Message("user", "word " * 5000)]))),
        )
        running.finish(20, 21, 22)
        (refused,) = running.events[20]
        assert isinstance(refused, Failed)
        assert (refused.error, refused.param) == ("InvalidRequest", "chat_template_kwargs")
        assert fold(running.events[21]).usage.completion_tokens == 3
        (too_long,) = running.events[22]
        assert isinstance(too_long, Failed)
        assert too_long.error == "ContextLengthExceeded"

    def test_a_cancelled_one_falls_silent(self, running: Worker) -> None:
        running.send(frames.Submit(30, ask(450)), frames.Submit(31, ask(20)))
        running.until_text(30)
        running.send(frames.Cancel(30), frames.Cancel(30), frames.Cancel(999))
        running.finish(31)
        # Whatever was on its way has come with or before this one's answer.
        running.send(frames.Submit(32, ask(2)))
        running.finish(32)
        told = len(running.events[30])
        running.send(frames.Submit(33, ask(20)))
        running.finish(33)
        assert len(running.events[30]) == told
        assert not isinstance(running.events[30][-1], Finished | Failed)

    def test_cancelled_at_once(self, running: Worker) -> None:
        running.send(frames.Submit(40, ask(450)), frames.Cancel(40), frames.Submit(41, ask(3)))
        running.finish(41)
        assert not any(isinstance(event, Finished | Failed) for event in running.events.get(40, []))
        assert fold(running.events[41]).usage.completion_tokens == 3

    def test_frames_in_single_bytes(self, running: Worker) -> None:
        for byte in frames.encode(frames.Submit(50, ask(2))):
            running.socket.sendall(bytes([byte]))
        running.finish(50)
        assert fold(running.events[50]).usage.completion_tokens == 2

    def test_an_embedding_request_to_a_language_model_harms_nobody(self, running: Worker) -> None:
        running.send(frames.Submit(60, EmbeddingRequest(["text"])), frames.Submit(61, ask(2)))
        running.finish(60, 61)
        assert isinstance(running.events[60][-1], Failed)
        assert fold(running.events[61]).usage.completion_tokens == 2


class TestCaches:
    def test_are_told_and_cleared_in_the_middle_of_a_generation(self, running: Worker) -> None:
        running.send(frames.Submit(70, ask(3)))
        running.finish(70)
        running.send(frames.Submit(71, ask(450)))
        running.until_text(71)
        running.send(frames.Inspect(1, clears=True), frames.Inspect(2))
        before, after = running.caches(), running.caches()
        assert before.num_bytes > after.num_bytes == after.num_sequences == 0
        assert before.lookups == after.lookups > 1
        assert not isinstance(running.events[71][-1], Finished | Failed)
        running.send(frames.Cancel(71))

    def test_outlive_a_worker_that_is_closed(self, llama_folder: Path, tmp_path: Path) -> None:
        cached: list[int] = []
        for _ in range(2):
            worker = Worker()
            worker.send(worker.load(llama_folder, prompt_cache_dir=str(tmp_path)))
            worker.ready()
            worker.send(
                frames.Submit(1, GenerationRequest(Conversation([Message("user", "word " * 50)]), max_tokens=2))
            )
            worker.finish(1)
            cached.append(fold(worker.events[1]).usage.cached_tokens)
            # The one that still runs is kept, too.
            worker.send(frames.Submit(2, ask(450)))
            worker.until_text(2)
            worker.send(frames.Cancel(2), frames.Close())
            assert worker.exit_code() == 0
            assert "Traceback" not in worker.output()
            worker.close()
        assert cached[0] == 0
        assert cached[1] > 50
        assert len(list(tmp_path.glob("*/*.safetensors"))) >= 2


def test_a_ping_is_answered_with_how_far_the_threads_are(fresh: Worker, llama_folder: Path) -> None:
    fresh.send(fresh.load(llama_folder))
    fresh.ready()
    fresh.send(frames.Submit(1, ask(450)))
    fresh.until_text(1)
    first = fresh.pulse().turn
    assert first is not None
    assert any((fresh.pulse().turn or 0) > first for _ in range(2000)), "it does not get on"
    fresh.finish(1)
    assert any(fresh.pulse() == frames.Pulse(None, None) for _ in range(2000)), "it does not rest"


def test_a_signal_asks_for_the_stacks(fresh: Worker, llama_folder: Path) -> None:
    fresh.send(fresh.load(llama_folder))
    fresh.ready()
    fresh.process.send_signal(signal.SIGUSR1)
    # It goes on all the same.
    fresh.send(frames.Submit(1, ask(2)))
    fresh.finish(1)
    fresh.socket.close()
    assert "in _read" in fresh.output()


class TestLoading:
    def test_what_is_known_when_it_is_loaded(self, fresh: Worker, llama_folder: Path) -> None:
        data = frames.encode(fresh.load(llama_folder, warmup=True, context_length=100))
        for piece in (data[:3], data[3:9], data[9:]):
            fresh.socket.sendall(piece)
        info = fresh.ready()
        assert (info.kind, info.architecture, info.context_length) == ("lm", "llama", 100)
        assert info.load_s > 0

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (None, "no config.json"),
            ("{", "cannot be read"),
            ("[]", "JSON object"),
            ("{}", "names no model_type"),
            ('{"model_type": "llama"}', "cannot be loaded: No safetensors"),
        ],
    )
    def test_a_broken_folder(self, fresh: Worker, tmp_path: Path, content: str | None, sentence: str) -> None:
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        fresh.send(fresh.load(tmp_path))
        failed = fresh.next_frame()
        assert isinstance(failed, frames.LoadFailed)
        assert sentence in failed.message
        assert "\n" not in failed.message
        assert fresh.exit_code() == 0

    def test_an_architecture_that_mlx_lm_does_not_have(self, fresh: Worker, llama_folder: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(llama_folder, tmp_path / "model"))
        (folder / "config.json").write_text('{"model_type": "no-such-model"}')
        fresh.send(fresh.load(folder))
        failed = fresh.next_frame()
        assert isinstance(failed, frames.LoadFailed)
        assert "no-such-model" in failed.message


class TestTheEnd:
    def test_a_socket_that_closes_before_the_first_frame(self, fresh: Worker) -> None:
        fresh.socket.close()
        assert fresh.exit_code() == 0

    def test_a_socket_that_closes_while_it_loads(self, fresh: Worker, llama_folder: Path) -> None:
        fresh.send(fresh.load(llama_folder))
        fresh.socket.close()
        assert fresh.exit_code() == 0
        assert "Traceback" not in fresh.output()

    def test_a_socket_that_closes_while_idle(self, fresh: Worker, llama_folder: Path) -> None:
        fresh.send(fresh.load(llama_folder))
        fresh.ready()
        fresh.socket.close()
        assert fresh.exit_code() == 0

    def test_a_server_that_is_killed_with_frames_unread(self, fresh: Worker, llama_folder: Path) -> None:
        fresh.send(fresh.load(llama_folder))
        fresh.ready()
        fresh.send(frames.Inspect(1, False))
        select.select([fresh.socket], [], [], DEADLINE_S)
        # The connection is reset then, and nobody reads what the worker has to say of it.
        fresh.process.stdout.close()  # type: ignore[union-attr]
        fresh.socket.close()
        assert fresh.exit_code() == 1

    @pytest.mark.skipif(sys.platform == "darwin", reason="limits of other processes can be set on Linux only")
    def test_a_thread_that_ends_is_the_end(self, fresh: Worker, llama_folder: Path) -> None:
        fresh.send(fresh.load(llama_folder))
        fresh.ready()
        # All of its threads have begun when it answers.
        fresh.send(frames.Inspect(1))
        fresh.caches()
        resource.prlimit(fresh.process.pid, resource.RLIMIT_AS, (2**20, resource.RLIM_INFINITY))
        # More than there is memory for.
        big = GenerationRequest(Conversation([Message("user", "x" * 2**26)]))
        with suppress(ConnectionError):
            fresh.send(frames.Submit(1, big))
        assert fresh.exit_code() == 1
        assert "MemoryError" in fresh.output()

    def test_a_socket_that_closes_in_the_middle_of_a_generation(self, fresh: Worker, llama_folder: Path) -> None:
        fresh.send(fresh.load(llama_folder))
        fresh.ready()
        fresh.send(frames.Submit(1, ask(450)))
        fresh.until_text(1)
        fresh.socket.close()
        assert fresh.exit_code() == 0
        assert "Traceback" not in fresh.output()

    def test_a_signal_meant_for_the_server_does_not_end_it(self, fresh: Worker, llama_folder: Path) -> None:
        fresh.send(fresh.load(llama_folder))
        fresh.ready()
        fresh.process.send_signal(signal.SIGINT)
        fresh.process.send_signal(signal.SIGTERM)
        fresh.send(frames.Submit(1, ask(2)))
        fresh.finish(1)
        assert fold(fresh.events[1]).usage.completion_tokens == 2

    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x01\x00\x00\x00\xc1",
            b"\x06\x00\x00\x00\x93\xa4load\xff",
            frames.encode(frames.Cancel(1)),
        ],
        ids=["text", "no msgpack", "cut off", "another frame"],
    )
    def test_garbage_before_the_first_frame(self, fresh: Worker, data: bytes) -> None:
        fresh.socket.sendall(data)
        assert fresh.exit_code() == 1
        assert fresh.output().splitlines()[-1].startswith("the connection to the server broke: ")
        assert "Traceback" not in fresh.output()

    @pytest.mark.parametrize(
        "data", [b"\xff\xff\xff\xff", b"\x05\x00\x00\x00\x93\xa4loa", b"\x06\x00\x00\x00\x92\xa6\xff\xff\xff\xff"]
    )
    def test_garbage_while_it_serves(self, fresh: Worker, llama_folder: Path, data: bytes) -> None:
        fresh.send(fresh.load(llama_folder))
        fresh.ready()
        fresh.send(frames.Submit(1, ask(450)))
        fresh.take_turn()
        fresh.socket.sendall(data)
        assert fresh.exit_code() == 1
        last = fresh.output().splitlines()[-1]
        assert last.startswith("the connection to the server broke: a frame ")

    def test_a_second_load(self, fresh: Worker, llama_folder: Path) -> None:
        fresh.send(fresh.load(llama_folder))
        fresh.ready()
        fresh.send(fresh.load(llama_folder))
        assert fresh.exit_code() == 1
        assert "Load was sent twice" in fresh.output()
