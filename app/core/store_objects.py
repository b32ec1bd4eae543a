"""What the store keeps and gives: JSON objects, pages of them, and what belongs to them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A JSON object under an id that is its own among those of its kind and owner.

    One with an `owner` is a part of that object: it is listed under it, lives as long and goes with it. `follows` is
    the id of the object of the same kind that this one continues. `created` is in Unix seconds.
    """

    kind: str
    id: str
    body: bytes
    created: float
    owner: str = ""
    follows: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Page:
    """Which objects of a kind to list: those beyond the one with the id `after`, in the order they were put in.

    Those only whose metadata has everything that `metadata` has.
    """

    kind: str
    owner: str = ""
    limit: int = 20
    after: str | None = None
    is_ascending: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of objects, and whether there are more beyond it."""

    objects: list[StoredObject]
    has_more: bool


@dataclass(frozen=True, slots=True)
class History:
    """The parts of an object and of all that it continues, the oldest first.

    `missing` is the id of one of these that is not there any more: then there are no parts.
    """

    parts: list[StoredObject]
    missing: str | None = None
