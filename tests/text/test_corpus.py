import pytest

from tests.text.corpus import cases, cuttings, is_right
from tests.text.corpus_adapter import parse


@pytest.mark.parametrize("family", cases())
def test_what_models_write_is_read_right_however_it_is_cut(family: str) -> None:
    for case in cases()[family]:
        results = [
            parse(family, pieces, case["tools"], case.get("prompt", ""))
            for pieces in cuttings(case["raw"], case["id"], num_random=6)
        ]
        assert is_right(case, results[0]), (case["id"], results[0])
        assert all(result == results[0] for result in results), case["id"]
