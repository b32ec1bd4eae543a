import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from app.core.store import Store, open_store
from app.core.store_archive import Archive
from app.core.store_file import IN_MEMORY, SCHEMA_VERSION, StoreError, StoreInUse, open_file
from app.core.store_objects import Page, StoredObject
from app.core.store_tables import Bounds, Tables
from app.errors import InvalidRequest
from app.settings import Settings

TTL_S = 100.0
# SQLite makes a null of it, which no row may have.
NO_TIME = float("nan")


class Clock:
    """Time as the test has it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def tables(
    path: Path = IN_MEMORY, clock: Clock | None = None, archive: Archive | None = None, max_bytes: int = 2**30
) -> Tables:
    return Tables(open_file(path), Bounds(TTL_S, max_bytes), archive, clock or Clock())


def thing(id_: str, body: str = "{}", follows: str | None = None) -> StoredObject:
    return StoredObject("thing", id_, body.encode(), 1.0, follows=follows)


def part(id_: str, owner: str, body: str = "{}") -> StoredObject:
    return StoredObject("part", id_, body.encode(), 1.0, owner)


def ids(objects: list[StoredObject]) -> list[str]:
    return [one.id for one in objects]


class TestObjects:
    def test_come_back_as_they_were_put_in(self) -> None:
        one = StoredObject("thing", "a", b'{"x":1}', 5.5, follows="b", metadata={"k": "v"})
        kept = tables()
        kept.put([one, part("p", "a")])
        assert kept.get("thing", "a") == one
        assert kept.get("part", "p", "a") == part("p", "a")
        assert [kept.get("other", "a"), kept.get("part", "p"), kept.get("part", "p", "b")] == [None] * 3

    def test_put_in_again_keep_their_place(self) -> None:
        kept = tables()
        kept.put([thing("a"), thing("b")])
        kept.put([thing("a", '{"new":1}')])
        assert [one.body for one in kept.list_page(Page("thing")).objects] == [b'{"new":1}', b"{}"]

    def test_go_with_their_parts_and_leave_others(self) -> None:
        kept = tables()
        kept.put([thing("a"), part("p", "a"), thing("b"), part("p", "b")])
        assert kept.delete("thing", "a")
        assert not kept.delete("thing", "a")
        assert kept.get("thing", "a") is None
        assert kept.find_parts(["p"]) == {"p": part("p", "b")}
        assert kept.delete("part", "p", "b")
        assert kept.get("thing", "b") is not None

    def test_are_put_in_all_or_none(self) -> None:
        kept = tables()
        with pytest.raises(sqlite3.Error):
            kept.put([thing("a"), StoredObject("thing", "b", b"{}", NO_TIME)])
        assert kept.list_page(Page("thing")).objects == []
        kept.put([thing("a")])
        assert ids(kept.list_page(Page("thing")).objects) == ["a"]

    def test_that_are_parts_of_nothing_are_not_kept(self) -> None:
        kept = tables()
        kept.put([thing("a"), part("a1", "a")])
        kept.delete("thing", "a")
        kept.put([thing("b"), part("a2", "a"), part("b1", "b")])
        assert kept.find_parts(["a1", "a2", "b1"]).keys() == {"b1"}

    def test_of_one_part_id_the_last_is_found(self) -> None:
        kept = tables()
        kept.put([thing("a"), part("p", "a", '"old"'), thing("b"), part("p", "b", '"new"')])
        assert kept.find_parts(["p", "q", "a"]) == {"p": part("p", "b", '"new"')}


class TestPages:
    @pytest.mark.parametrize(
        ("page", "expected", "has_more"),
        [
            (Page("thing"), "abcde", False),
            (Page("thing", limit=5), "abcde", False),
            (Page("thing", limit=2), "ab", True),
            (Page("thing", limit=2, after="b"), "cd", True),
            (Page("thing", limit=2, after="c"), "de", False),
            (Page("thing", after="e"), "", False),
            (Page("thing", limit=2, is_ascending=False), "ed", True),
            (Page("thing", limit=3, after="c", is_ascending=False), "ba", False),
            (Page("thing", metadata={"odd": "yes"}), "ace", False),
            (Page("thing", metadata={"odd": "yes", '"] $': "'e'"}), "e", False),
            (Page("thing", metadata={"odd": "no"}), "", False),
            (Page("thing", metadata={"odd": "yes"}, after="a", limit=1), "c", True),
            (Page("other"), "", False),
        ],
    )
    def test_are_cut_from_what_was_asked_for(self, page: Page, expected: str, has_more: bool) -> None:
        kept = tables()
        for id_ in "abcde":
            metadata = ({"odd": "yes"} if id_ in "ace" else {}) | ({'"] $': "'e'"} if id_ == "e" else {})
            kept.put([StoredObject("thing", id_, b"{}", 1.0, metadata=metadata), part(f"{id_}1", id_)])
        listing = kept.list_page(page)
        assert ("".join(ids(listing.objects)), listing.has_more) == (expected, has_more)

    def test_of_parts_are_their_owners(self) -> None:
        kept = tables()
        kept.put([thing("a"), thing("b"), *(part(f"{owner}{n}", owner) for n in range(3) for owner in "ab")])
        assert ids(kept.list_page(Page("part", "b", limit=2)).objects) == ["b0", "b1"]

    def test_do_not_go_on_after_what_is_not_there(self) -> None:
        kept = tables()
        kept.put([thing("a"), part("p", "a")])
        with pytest.raises(InvalidRequest, match="'p'") as caught:
            kept.list_page(Page("thing", after="p"))
        assert caught.value.param == "after"


class TestHistories:
    def test_are_the_parts_of_all_that_is_continued(self) -> None:
        kept = tables()
        kept.put([thing("a"), part("a1", "a")])
        kept.put([thing("b", follows="a"), part("b1", "b"), part("b2", "b")])
        kept.put([thing("c", follows="a"), part("c1", "c")])
        kept.put([thing("d", follows="b"), part("d1", "d")])
        assert ids(kept.history("thing", "d").parts) == ["a1", "b1", "b2", "d1"]
        assert ids(kept.history("thing", "c").parts) == ["a1", "c1"]

    def test_say_what_is_missing(self) -> None:
        kept = tables()
        kept.put([thing("a"), part("a1", "a"), thing("b", follows="a"), thing("c", follows="b")])
        assert kept.history("thing", "x").missing == "x"
        kept.delete("thing", "a")
        assert (kept.history("thing", "c").missing, kept.history("thing", "c").parts) == ("a", [])

    def test_may_be_long(self) -> None:
        kept = tables()
        for number in range(1_500):
            kept.put([thing(str(number), follows=str(number - 1) if number else None), part("p", str(number))])
        assert len(kept.history("thing", "1499").parts) == 1_500


class TestTime:
    def test_ends_an_object_and_its_parts(self) -> None:
        clock = Clock()
        kept = tables(clock=clock)
        kept.put([thing("a"), part("p", "a")])
        clock.now += TTL_S - 1
        assert kept.get("thing", "a") is not None
        clock.now += 1
        gone = [kept.get("thing", "a"), kept.get("part", "p", "a"), kept.list_page(Page("thing")).objects]
        assert gone == [None, None, []]
        assert kept.history("thing", "a").missing == "a"
        assert not kept.delete("thing", "a")

    def test_starts_anew_with_each_use(self) -> None:
        clock = Clock()
        kept = tables(clock=clock)
        kept.put([thing("a"), part("a1", "a"), thing("owner")])
        clock.now += TTL_S - 1
        kept.put([thing("b", follows="a"), part("o1", "owner")])
        clock.now += TTL_S - 1
        assert ids(kept.history("thing", "b").parts) == ["a1"]
        clock.now += TTL_S - 1
        kept.sweep()
        assert ids(kept.list_page(Page("thing")).objects) == ["b"]

    def test_of_an_owner_starts_anew_with_each_part(self) -> None:
        clock = Clock()
        kept = tables(clock=clock)
        kept.put([thing("owner"), thing("other")])
        clock.now += TTL_S - 1
        kept.put([part("p", "owner")])
        clock.now += TTL_S - 1
        kept.sweep()
        assert ids(kept.list_page(Page("thing")).objects) == ["owner"]

    def test_of_what_is_continued_ends_with_what_continues_it(self) -> None:
        clock = Clock()
        kept = tables(clock=clock)
        kept.put([thing("a"), part("a1", "a")])
        kept.put([thing("b", follows="a"), part("b1", "b")])
        clock.now += TTL_S - 1
        kept.put([thing("c", follows="b")])
        clock.now += TTL_S - 1
        assert not kept.sweep()
        assert [kept.get("thing", "a"), kept.history("thing", "a").missing] == [None, "a"]
        assert ids(kept.history("thing", "c").parts) == ["a1", "b1"]
        clock.now += TTL_S
        assert [kept.sweep() for _ in range(4)] == [True, True, True, False]

    def test_sweeps_some_at_once_until_all_are_gone(self, tmp_path: Path) -> None:
        clock = Clock()
        kept = tables(tmp_path / "store", clock)
        kept.put(thing(str(number), json.dumps("x" * 10_000)) for number in range(250))
        size = (tmp_path / "store").stat().st_size
        clock.now += TTL_S
        kept.put([thing("new")])
        assert [kept.sweep() for _ in range(4)] == [True, True, True, False]
        kept.close()
        with closing(sqlite3.connect(tmp_path / "store")) as file:
            assert file.execute("SELECT id FROM objects").fetchall() == [("new",)]
        assert (tmp_path / "store").stat().st_size < size / 10 or size < 100_000


class TestRoom:
    def test_is_made_by_those_used_longest_ago(self) -> None:
        clock = Clock()
        kept = tables(clock=clock, max_bytes=4_000)
        for id_ in "abc":
            kept.put([thing(id_), part(f"{id_}1", id_, json.dumps("x" * 700))])
            clock.now += 1
        kept.history("thing", "a")
        kept.put([thing("d"), part("d1", "d", json.dumps("x" * 700))])
        assert ids(kept.list_page(Page("thing")).objects) == ["a", "c", "d"]

    def test_is_not_made_by_what_something_continues(self) -> None:
        clock = Clock()
        kept = tables(clock=clock, max_bytes=3_000)
        kept.put([thing("a"), part("a1", "a", json.dumps("x" * 700))])
        clock.now += 1
        kept.put([thing("other"), part("o1", "other", json.dumps("x" * 700))])
        clock.now += 1
        kept.put([thing("b", follows="a"), part("b1", "b", json.dumps("x" * 700))])
        assert ids(kept.list_page(Page("thing")).objects) == ["a", "b"]

    def test_is_not_made_by_what_just_came(self) -> None:
        kept = tables(max_bytes=1_000)
        kept.put([thing("old")])
        kept.put([thing("big"), part("p", "big", json.dumps("x" * 5_000))])
        assert ids(kept.list_page(Page("thing")).objects) == ["big"]
        kept.put([thing("new")])
        assert ids(kept.list_page(Page("thing")).objects) == ["new"]

    def test_is_not_taken_by_what_could_not_be_put_in(self) -> None:
        kept = tables(max_bytes=3_000)
        kept.put([thing("old")])
        with pytest.raises(sqlite3.Error):
            kept.put([thing("a", json.dumps("x" * 2_900)), StoredObject("thing", "b", b"{}", NO_TIME)])
        kept.put([thing("new")])
        assert ids(kept.list_page(Page("thing")).objects) == ["old", "new"]

    def test_is_counted_through_changes_and_restarts(self, tmp_path: Path) -> None:
        body = json.dumps("x" * 1_000)
        kept = tables(tmp_path / "store", max_bytes=3_000)
        for _ in range(5):
            kept.put([thing("a", body)])
        kept.put([thing("gone", body)])
        kept.delete("thing", "gone")
        kept.close()
        kept = tables(tmp_path / "store", max_bytes=3_000)
        kept.put([thing("b", body)])
        assert ids(kept.list_page(Page("thing")).objects) == ["a", "b"]
        kept.put([thing("c", body)])
        assert ids(kept.list_page(Page("thing")).objects) == ["b", "c"]


class TestArchive:
    def test_has_what_expired_or_was_pushed_out_but_not_what_was_deleted(self, tmp_path: Path) -> None:
        clock = Clock()
        kept = tables(clock=clock, archive=Archive(tmp_path / "logs"), max_bytes=2_000)
        kept.put([thing("expired", '{"x": 1}'), part("p", "expired", '{"y": "\u00e9"}')])
        kept.put([thing("deleted")])
        kept.delete("thing", "deleted")
        clock.now += TTL_S
        kept.sweep()
        kept.put([thing("pushed")])
        kept.put([thing("big", json.dumps("x" * 2_000))])
        files = {path.name: path for path in (tmp_path / "logs").iterdir()}
        assert files.keys() == {"expired.json", "pushed.json"}
        assert json.loads(files["expired.json"].read_bytes()) == {
            "id": "expired",
            "kind": "thing",
            "created_at": 1.0,
            "expired_at": 1_100.0,
            "object": {"x": 1},
            "parts": [{"kind": "part", "object": {"y": "\u00e9"}}],
        }
        assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
        assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700

    def test_that_cannot_be_written_is_said_at_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="--conversation-logs-dir"):
            Archive(tmp_path / "file" / "logs")

    def test_that_fails_later_holds_nothing_up(self, tmp_path: Path) -> None:
        clock = Clock()
        kept = tables(clock=clock, archive=Archive(tmp_path / "logs"))
        kept.put([thing("a")])
        (tmp_path / "logs").rmdir()
        clock.now += TTL_S
        assert kept.sweep()
        assert not kept.sweep()


class TestFile:
    def test_is_its_users_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "folder" / "store"
        kept = tables(path)
        kept.put([thing("a")])
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        assert modes["store"] == 0o600
        assert set(modes.values()) == {0o600}
        assert path.parent.stat().st_mode & 0o777 == 0o700

    def test_is_one_servers_at_a_time(self, tmp_path: Path) -> None:
        kept = tables(tmp_path / "store")
        for _ in range(2):
            with pytest.raises(StoreInUse, match="in use by another server: give this one another with --store-path"):
                open_file(tmp_path / "store")
        kept.put([thing("a")])
        kept.close()
        assert tables(tmp_path / "store").get("thing", "a") is not None

    def test_of_a_newer_schema_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        tables(path).close()
        with closing(sqlite3.connect(path)) as file:
            assert file.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
            file.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        with pytest.raises(StoreError, match=f"schema {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION}"):
            open_file(path)
        with closing(sqlite3.connect(path)) as file:
            assert file.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)

    def test_of_another_program_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "photos"
        with closing(sqlite3.connect(path)) as file:
            file.execute("CREATE TABLE photos (id)")
        before = path.read_bytes()
        with pytest.raises(StoreError, match="another program's database"):
            open_file(path)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("content", [b"not a database, " * 100, b"SQLite format 3\0" + b"\xff" * 4_000])
    def test_that_is_broken_is_said_to_be(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "store"
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"is broken \(.+\): delete it"):
            open_file(path)
        assert path.read_bytes() == content

    def test_that_cannot_be_made_is_said_to_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file" / "store", tmp_path):
            with pytest.raises(StoreError, match="--store-path"):
                open_file(path)

    def test_outlives_a_killed_process(self, tmp_path: Path) -> None:
        """What had been put in is there, though the process had no time to close anything."""
        script = (
            "import os, sys, pathlib, time\n"
            "from tests.core.test_store import tables, thing, part\n"
            "kept = tables(pathlib.Path(sys.argv[1]), time.time)\n"
            "for number in range(10_000_000):\n"
            "    kept.put([thing(str(number)), part('p', str(number), '\"' + 'x' * 500 + '\"')])\n"
            "    os.write(1, b'%d\\n' % number)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "store")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            for _ in range(200):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            last = 199 + len(process.stdout.read().splitlines())
        kept = Tables(open_file(tmp_path / "store"), Bounds(1e9, 2**40))
        listing = kept.list_page(Page("thing", limit=1_000_000))
        assert len(listing.objects) in (last + 1, last + 2)
        assert all(kept.get("part", "p", one.id) is not None for one in listing.objects)


@asynccontextmanager
async def opened(**fields: object) -> AsyncGenerator[Store]:
    store = open_store(Settings.model_validate(fields))
    store.start()
    try:
        yield store
    finally:
        await store.close()


class TestStore:
    async def test_does_what_its_tables_do_in_a_thread_of_its_own(self, tmp_path: Path) -> None:
        async with opened(store_path=tmp_path / "store") as store:
            await store.put([thing("a"), part("a1", "a"), thing("b", follows="a")])
            assert await store.get("thing", "a") == thing("a")
            assert ids((await store.list_page(Page("thing"))).objects) == ["a", "b"]
            assert ids((await store.history("thing", "b")).parts) == ["a1"]
            assert await store.find_parts(["a1"]) == {"a1": part("a1", "a")}
            assert await store.delete("thing", "a")
        async with opened(store_path=tmp_path / "store") as store:
            assert ids((await store.list_page(Page("thing"))).objects) == ["b"]

    async def test_drops_what_expires(self, tmp_path: Path) -> None:
        folder = tmp_path / "logs"
        async with opened(store_in_memory=True, store_ttl=0.05, conversation_logs_dir=folder) as store:
            await store.put([thing("a")])
            while not list(folder.iterdir()):
                await store.get("thing", "a")
            assert [path.name for path in folder.iterdir()] == ["a.json"]

    async def test_says_what_failed(self) -> None:
        async with opened(store_in_memory=True) as store:
            with pytest.raises(StoreError, match="NOT NULL"):
                await store.put([StoredObject("thing", "a", b"{}", NO_TIME)])

    async def test_in_memory_leaves_nothing(self, tmp_path: Path) -> None:
        async with opened(store_in_memory=True, store_path=tmp_path / "store") as store:
            await store.put([thing("a")])

    async def test_of_two_servers_is_shared_only_where_nobody_chose_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        chosen = Settings().store_path
        assert chosen.is_relative_to(tmp_path)
        async with opened() as first:
            await first.put([thing("a")])
            async with opened() as second:
                assert await second.get("thing", "a") is None
            with pytest.raises(StoreInUse):
                open_store(Settings(store_path=chosen))
        assert "store.sqlite3" in os.listdir(chosen.parent)  # noqa: PTH208
