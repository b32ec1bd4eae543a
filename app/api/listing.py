"""Pages of items."""

from collections.abc import Sequence

import msgspec
from fastapi import Response

from app.api.replies import json_reply
from app.core.store_objects import Listing, StoredObject
from app.errors import InvalidRequest
from app.schemas.responses import ListQuery


def list_reply(listing: Listing) -> Response:
    """A page of stored items."""
    items = listing.objects
    return json_reply(
        msgspec.json.encode(
            {
                "object": "list",
                "data": [msgspec.Raw(item.body) for item in items],
                "first_id": items[0].id if items else None,
                "last_id": items[-1].id if items else None,
                "has_more": listing.has_more,
            }
        )
    )


def page_of(objects: Sequence[StoredObject], query: ListQuery) -> Listing:
    """A page of objects, given in their order. Errors: InvalidRequest when there is none `query.after`."""
    ordered = list(objects) if query.order == "asc" else list(reversed(objects))
    start = 0
    if query.after is not None:
        ids = [one.id for one in ordered]
        if query.after not in ids:
            raise InvalidRequest(f"There is no '{query.after}' in this list.", param="after")
        start = ids.index(query.after) + 1
    return Listing(ordered[start : start + query.limit], len(ordered) > start + query.limit)
