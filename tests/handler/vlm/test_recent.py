from dataclasses import dataclass

from app.handler.vlm.recent import Recent


@dataclass(frozen=True)
class Item:
    nbytes: int


def test_what_was_used_least_recently_is_forgotten_first() -> None:
    recent: Recent[Item] = Recent(100)
    items = {key: Item(40) for key in (b"a", b"b", b"c")}
    recent.put(b"a", items[b"a"])
    recent.put(b"b", items[b"b"])
    assert recent.get(b"a") is items[b"a"]
    recent.put(b"c", items[b"c"])
    assert recent.get(b"b") is None
    assert recent.get(b"a") is items[b"a"]
    assert recent.get(b"c") is items[b"c"]
    assert (recent.num_lookups, recent.num_hits) == (4, 3)
    assert (len(recent), recent.num_bytes) == (2, 80)


def test_what_is_larger_than_all_is_not_kept() -> None:
    recent: Recent[Item] = Recent(100)
    recent.put(b"small", Item(60))
    recent.put(b"large", Item(101))
    assert recent.get(b"large") is None
    assert recent.get(b"small") is not None


def test_what_was_cleared_gives_its_room_back() -> None:
    recent: Recent[Item] = Recent(100)
    recent.put(b"a", Item(100))
    recent.clear()
    assert recent.get(b"a") is None
    assert (len(recent), recent.num_bytes) == (0, 0)
    recent.put(b"b", Item(60))
    recent.put(b"c", Item(40))
    assert recent.get(b"b") is not None
