import pytest

from app.core.image_shelf import ImageShelf


def test_an_image_is_there_under_a_name_of_its_own() -> None:
    shelf = ImageShelf()
    names = [shelf.put(data, "png") for data in (b"a", b"b", b"a")]
    assert len(set(names)) == 3
    assert [kept.data for name in names if (kept := shelf.get(name))] == [b"a", b"b", b"a"]
    # As many random bits as a key has.
    assert min(map(len, names)) >= 32
    assert shelf.get("other") is None


def test_an_image_goes_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    shelf = ImageShelf(life_s=10)
    first = shelf.put(b"a", "png")
    now = 105.0
    second = shelf.put(b"b", "webp")
    now = 109.9
    assert shelf.get(first) is not None
    now = 110.0
    assert shelf.get(first) is None
    kept = shelf.get(second)
    assert kept is not None
    assert (kept.data, kept.format) == (b"b", "webp")


def test_the_oldest_make_room() -> None:
    shelf = ImageShelf(max_bytes=10)
    names = [shelf.put(bytes(4), "png") for _ in range(3)]
    assert [shelf.get(name) is not None for name in names] == [False, True, True]
    large = shelf.put(bytes(20), "png")
    assert [shelf.get(name) is not None for name in (*names, large)] == [False, False, False, True]
    # And what is gone counts no more.
    small = shelf.put(bytes(5), "png")
    assert [shelf.get(name) is not None for name in (large, small)] == [False, True]
    assert shelf.get(shelf.put(bytes(5), "png")) is not None
    assert shelf.get(small) is not None
