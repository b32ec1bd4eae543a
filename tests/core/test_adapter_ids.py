"""The ids of adapters that are served beside a model: which model each means, and what is counted under it."""

from pathlib import Path

import pytest

from app.core.registry import Registry
from app.errors import ModelNotFound
from app.settings import ModelSpec

BASE = ModelSpec(model_path="base", on_demand=True, adapters={"sql": Path("a"), "chat": Path("b")})


def test_an_adapters_id_means_its_base() -> None:
    registry = Registry((BASE, ModelSpec(model_path="other")), Path("cache"))
    base, other = registry.models["base"], registry.models["other"]
    assert registry.served == {"base": base, "sql": base, "chat": base, "other": other}
    assert [registry.find(name) for name in registry.served] == [base, base, base, other]
    assert [base.id_of(name) for name in ("sql", "base", None)] == ["sql", "base", "base"]
    assert other.id_of("sql") == "other"


def test_beside_adapters_a_name_is_not_just_any() -> None:
    registry = Registry((BASE,), Path("cache"))
    assert registry.find(None) is registry.models["base"]
    with pytest.raises(ModelNotFound, match=r"'sq' is not served here; this server has 'base', 'sql', 'chat'"):
        registry.find("sq")
    alone = Registry((BASE.model_copy(update={"adapters": {}}),), Path("cache"))
    assert alone.find("sq") is alone.models["base"]
