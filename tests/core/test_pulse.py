import pytest

from app.core.frames import Pulse
from app.core.pulse import NUM_LOOKS, PulseWatch


def watched(*answers: Pulse | None) -> PulseWatch:
    """Asked once for each answer; None is no answer."""
    watch = PulseWatch()
    for answer in answers:
        watch.look()
        if answer is not None:
            watch.note(answer)
    return watch


@pytest.mark.parametrize(
    ("answer", "fault"),
    [(None, "did not answer"), (Pulse(7, None), "main thread"), (Pulse(None, 3), "preparing")],
)
def test_a_fault_is_what_lasts(answer: Pulse | None, fault: str) -> None:
    # A piece of work was met once before it is met again.
    first = [] if answer is None else [answer]
    assert watched(*first, *[answer] * (NUM_LOOKS - 1)).fault is None
    assert fault in (watched(*first, *[answer] * NUM_LOOKS).fault or "")
    assert watched(*first, *[answer] * (NUM_LOOKS - 1), Pulse(8, 4), answer).fault is None


def test_who_rests_or_gets_on_is_well() -> None:
    assert watched(*[Pulse(None, None)] * 20).fault is None
    assert watched(*[Pulse(turn, turn // 2) for turn in range(20)]).fault is None


def test_nobody_is_asked_again_before_he_has_answered() -> None:
    assert watched().is_answered
    assert not watched(None).is_answered
    assert watched(None, None, Pulse(None, None)).is_answered
