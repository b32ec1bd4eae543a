"""What was used last, within a budget of bytes."""

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Whatever knows how many bytes it takes."""

    @property
    def nbytes(self) -> int:
        """In memory."""
        ...


ItemT = TypeVar("ItemT", bound=Sized)


class Recent(Generic[ItemT]):
    """Items by key, the least recently used forgotten first. Owned by the thread that made it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._items: OrderedDict[bytes, ItemT] = OrderedDict()
        self.num_bytes = 0
        self.num_lookups = self.num_hits = 0

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: bytes) -> ItemT | None:
        """None where it was never put, or is forgotten."""
        self.num_lookups += 1
        item = self._items.get(key)
        if item is not None:
            self._items.move_to_end(key)
            self.num_hits += 1
        return item

    def put(self, key: bytes, item: ItemT) -> None:
        """Keep an item that is not there yet; one that is larger than the whole budget is not kept."""
        if item.nbytes > self.max_bytes:
            return
        self._items[key] = item
        self.num_bytes += item.nbytes
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._items.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget all."""
        self._items.clear()
        self.num_bytes = 0
