"""What is told of faults in a worker."""

import pytest

from app.core.failures import from_event, of_exception, to_event
from app.errors import InternalError, OutOfMemory

SECRET = "secret"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("std::bad_alloc"),
        RuntimeError("[malloc] Unable to allocate 1099511627776 bytes."),
        RuntimeError("[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed"),
    ],
)
def test_that_memory_ran_out_is_told(error: Exception) -> None:
    told = of_exception(error)
    assert (type(told), told.status, told.error_code) == (OutOfMemory, 503, "out_of_memory")
    again = from_event(to_event(told))
    assert (type(again), again.message) == (OutOfMemory, told.message)


@pytest.mark.parametrize("error", [RuntimeError(SECRET), ValueError("Unable to allocate"), KeyError(SECRET)])
def test_of_anything_else_nothing_is(error: Exception) -> None:
    told = of_exception(error)
    assert type(told) is InternalError
    assert SECRET not in told.message
