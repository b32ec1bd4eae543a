"""GET /anthropic/v1/models."""

from typing import Any

import anthropic
import pytest

from tests.e2e.messages.asking import KEY, open_client
from tests.e2e.processes import ServerProcess


class TestModels:
    def test_are_listed_in_pages(self, guarded: ServerProcess) -> None:
        with open_client(guarded, "/anthropic", api_key=KEY) as client:
            assert [model.id for model in client.models.list(limit=1)] == ["slow", "single"]
            page = client.models.list(limit=1)
            assert (page.has_more, page.first_id, page.last_id) == (True, "slow", "slow")
            assert [model.id for model in client.models.list(before_id="single", limit=5).data] == ["slow"]
            assert client.models.list(after_id="single").data == []

    def test_are_described(self, server: ServerProcess) -> None:
        with open_client(server, "/anthropic") as client:
            (model,) = client.models.list()
            assert (model.id, model.display_name, model.max_input_tokens) == ("tiny/llama", "tiny/llama", 131_072)
            assert model.created_at.utcoffset() is not None
            assert client.models.retrieve("tiny/llama") == model

    @pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"after_id": "x"}, {"before_id": "x"}])
    def test_are_not_found_after_what_is_not_there(self, server: ServerProcess, query: dict[str, Any]) -> None:
        with open_client(server, "/anthropic") as client, pytest.raises(anthropic.BadRequestError) as caught:
            client.models.list(**query)
        assert f"'{next(iter(query))}'" in str(caught.value.api_message)
