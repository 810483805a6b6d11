"""What ranks tell each other, and whom they blame."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.distributed import clocks, joined, signs
from llem.distributed.board import STOPPED, Board
from llem.distributed.errand import GivenUpError, LocalStore, PatientStore, within
from llem.distributed.launch import Launch
from llem.distributed.orders import Orders, StopOrderError
from llem.distributed.words import Word
from llem.errors import ConfigError, IncompleteRunError


def boards(count: int, timeout_s: float = 0.5) -> list[Board]:
    """The board as each of *count* ranks has it."""
    store = LocalStore()
    return [Board(store, rank, count, timeout_s, lambda: None) for rank in range(count)]


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each of *calls* returns or raises."""

    def outcome(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except IncompleteRunError as error:
            return str(error)

    with ThreadPoolExecutor(len(calls)) as pool:
        return [*pool.map(outcome, calls)]


def test_values_are_exchanged() -> None:
    """Each has those of all, by rank, stage after stage."""
    three = boards(3, timeout_s=10)

    def talk(board: Board) -> list[Any]:
        return [board.exchange(f"s{i}", [board.rank, i]) for i in range(3)]

    told = at_once(*(lambda b=board: talk(b) for board in three))

    assert told == [[tuple([rank, i] for rank in range(3)) for i in range(3)]] * 3


def test_who_does_not_come_is_named() -> None:
    """With where it was last, and what to set."""
    zero, one, two = boards(3)
    at_once(*(lambda b=board: b.exchange("idle", None) for board in (zero, one, two)))

    told = at_once(lambda: zero.exchange("begin", None), lambda: two.exchange("begin", None))

    assert told[0] == told[1]
    assert told[0] == (
        "rank 1 did not come to the begin of the measured window within 0.5 s (rank 1 was last at "
        "the idle devices): hanging, killed, or slower than ranks wait for each other "
        "(--rank-timeout, timeout_s)"
    )


def test_ranks_that_call_other_things_are_told_so() -> None:
    """One warms up, and the other does not."""
    zero, one = boards(2)

    told = at_once(lambda: zero.exchange("end", None), lambda: one.exchange("begin", None))

    assert any("every rank must call warm_up, window and keep alike" in text for text in told)


def test_what_a_rank_says_of_itself_comes_first() -> None:
    """Before what others say of it, and before silence."""
    zero, one, two, _ = boards(4)
    told = at_once(lambda: two.exchange("end", None))
    two.fail(told[0])
    one.fail("out of memory")

    with pytest.raises(IncompleteRunError, match=r"^rank 1: out of memory$"):
        zero.exchange("end", None)


def test_what_a_rank_found_out_is_passed_on() -> None:
    """By one who waited longer than this one."""
    zero, _, two = boards(3)
    told = at_once(lambda: two.exchange("end", None))
    two.fail(told[0])

    with pytest.raises(IncompleteRunError, match=r"^ranks 0-1 did not come to the end"):
        zero.exchange("end", None)


def test_silence_is_told_where_nobody_is_at_fault(monkeypatch) -> None:
    """Ranks that were told to end are not to blame."""
    monkeypatch.setattr("llem.distributed.words.GRACE_S", 0.1)
    zero, one, _ = boards(3)
    one.fail(STOPPED)

    with pytest.raises(IncompleteRunError, match=r"^rank 2: no sign of life, last at being"):
        zero.exchange("end", None)


def test_all_that_were_stopped() -> None:
    """There is nobody else to name."""
    zero, one = boards(2)
    one.fail(STOPPED)

    with pytest.raises(IncompleteRunError, match=rf"^rank 1: {STOPPED}$"):
        zero.exchange("end", None)


def test_who_ends_as_another_was_told_to_says_nothing_of_its_own() -> None:
    """Whoever reads both reads of the one that was told to end, and once."""
    zero, one = boards(2)
    zero.fail(STOPPED)
    with pytest.raises(IncompleteRunError) as told:
        one.exchange("end", None)
    one.fail(str(told.value))

    assert str(told.value) == zero.report() == one.report() == f"rank 0: {STOPPED}"


def test_ranks_that_failed_once_are_done_for() -> None:
    """The next Experiment is refused in all of them alike, with why."""
    zero, one = boards(2)
    zero.check_whole()
    one.fail("ValueError: boom")

    for board in (zero, one):
        with pytest.raises(IncompleteRunError, match=r"^rank 1: ValueError: boom: nothing more"):
            board.check_whole()


def test_who_tells_a_person() -> None:
    """Rank 0 for all, and each of a fault of its own that rank 0 has not."""
    zero, one, two = boards(3)
    zero.fail("no such model")
    one.fail("no such model")
    two.fail("out of memory")

    assert zero.is_to_tell()
    assert not one.is_to_tell()
    assert two.is_to_tell()


def test_one_rank_of_each_machine_tells_there() -> None:
    """Of rank 0's it is rank 0, which the board knows of."""
    places = ("a:/x", "a:/x", "b:/x", "a:/x", "b:/x", "c:/y")
    about = {"channel": None, "run_id": "r", "clock_of": (), "places": places, "kept_before": ()}
    ranks = [joined.Joined(board=board, **about) for board in boards(6)]

    assert [rank.is_first_of_another_machine for rank in ranks] == [
        False, False, True, False, False, True,
    ]  # fmt: skip


def test_one_who_heard_of_a_failure_does_not_tell() -> None:
    """Rank 0 does, of its own fault too."""
    for culprit in (0, 2):
        three = boards(3)
        three[culprit].fail("out of memory")
        at_once(lambda one=three[1]: one.exchange("end", None))
        assert not three[1].is_to_tell()


def test_all_tell_where_rank_0_says_nothing() -> None:
    """They have waited for it in vain, or nobody knows whose fault it is."""
    _, one, two = boards(3)
    at_once(*(lambda b=board: b.exchange("end", None) for board in (one, two)))
    assert one.is_to_tell()
    assert two.is_to_tell()

    zero, one = boards(2)
    zero.signs.begin()
    with pytest.raises(IncompleteRunError, match="no route"):
        raise one.lost("no route")
    zero.signs.end()
    assert one.is_to_tell()


def test_a_rank_is_one_process(monkeypatch) -> None:
    """Another one may be it once that has left, and the same one may meet others again."""
    store = LocalStore()

    def meet() -> int:
        launch = Launch(rank=1, world_size=2, address="here:1")
        return joined._turn(PatientStore(store, 1.0, lambda: None), launch)

    assert [meet(), meet()] == [1, 2]
    monkeypatch.setattr(joined, "_PROCESS", "another")
    with pytest.raises(ConfigError, match="3 processes were started as rank 1"):
        meet()
    store.set("llem/0/3/bye/1", "1")
    assert meet() == 4


def test_rank_0_leaves_last(monkeypatch) -> None:
    """It may be the host of the board."""
    zero, one, two = boards(3)
    left: list[int] = []

    def leave(board: Board, after_s: float) -> None:
        time.sleep(after_s)
        if board.rank:
            left.append(board.rank)
        board.part()
        if not board.rank:
            left.append(0)

    at_once(*(lambda b=b, s=s: leave(b, s) for b, s in ((zero, 0), (one, 0.1), (two, 0.2))))
    assert left[-1] == 0

    monkeypatch.setattr("llem.distributed.board.FAREWELL_S", 0.05)
    boards(2)[0].part()


def test_what_does_not_return_is_given_up() -> None:
    """And orders are heeded meanwhile."""
    stuck = threading.Event()

    def order() -> None:
        raise KeyboardInterrupt

    with pytest.raises(GivenUpError, match=r"no answer within 0\.1 s"):
        within(0.1, stuck.wait, lambda: None)
    with pytest.raises(KeyboardInterrupt):
        within(60, stuck.wait, order)
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 / 0, order)
    assert within(60, lambda: 7, order) == 7
    stuck.set()


def test_a_store_that_did_not_answer_is_not_asked_again() -> None:
    """Each answer would be waited for anew."""
    stuck = threading.Event()

    class Deaf(LocalStore):
        def check(self, keys: Any) -> bool:
            return stuck.wait()

    store = PatientStore(Deaf(), 0.1, lambda: None)
    with pytest.raises(GivenUpError, match="no answer within"):
        store.check(["x"])
    with pytest.raises(GivenUpError, match="did not answer before"):
        store.get("x")
    stuck.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_order_is_followed_once(number) -> None:
    """Others that come while it is being followed do not cut that short."""
    before = signal.getsignal(number)
    orders = Orders()
    with orders:
        with pytest.raises((StopOrderError, KeyboardInterrupt)):
            signal.raise_signal(number)
        signal.raise_signal(number)
        orders.follow()
        with pytest.raises((StopOrderError, KeyboardInterrupt)):
            orders.heed()
    assert signal.getsignal(number) is before


def test_an_order_waits() -> None:
    """Until the end of what must not be given up, or until it is asked for."""
    done = []
    orders = Orders()
    with pytest.raises(StopOrderError), orders, orders.waiting():
        signal.raise_signal(signal.SIGTERM)
        orders.heed()
        done.append("all")
    assert done == ["all"]
    orders = Orders()
    with orders, orders.waiting():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopOrderError):
            orders.follow()


def test_the_quickest_answer_has_the_least_error() -> None:
    """Where the clocks go alike, the offset lies within its bound of the truth."""

    class Far(clocks.Line):
        """A clock 1000 s ahead; the way back takes three times as long as the way there."""

        def __init__(self) -> None:
            self.now_s, self.calls = 0.0, 0

        def send(self, _number: float, /) -> None:
            self.calls += 1
            self.now_s += 0.01 * self.calls

        def receive(self) -> float:
            answered_s = self.now_s + 1000.0
            self.now_s += 0.03 * self.calls
            return answered_s

    line = Far()

    offset_s, error_s = clocks.ask(line, lambda: line.now_s)

    assert error_s == pytest.approx(0.02)
    assert abs(offset_s - 1000.0) <= error_s


def test_who_gives_no_signs_any_more_is_gone(monkeypatch) -> None:
    """Those who compute or wait give them all the while, whatever they do not say."""
    monkeypatch.setattr(signs, "PERIOD_S", 0.02)
    monkeypatch.setattr(signs, "LOOK_S", 0.05)
    monkeypatch.setattr(signs, "SILENT_S", 0.5)
    zero, one, two = boards(3, timeout_s=20)
    one.signs.begin()
    two.signs.begin()
    threading.Timer(0.2, two.signs.end).start()
    began = time.monotonic()

    with pytest.raises(IncompleteRunError, match=r"^rank 2: no sign of life, last at being laun"):
        zero.exchange("end", None)

    one.signs.end()
    assert 0.5 < time.monotonic() - began < 5


def test_one_that_gave_none_yet_is_waited_for(monkeypatch) -> None:
    """Its machine may be the last to start."""
    monkeypatch.setattr(signs, "LOOK_S", 0.05)
    monkeypatch.setattr(signs, "SILENT_S", 0.1)
    zero, one = boards(2, timeout_s=20)
    late = threading.Timer(0.5, lambda: one.exchange("join", None))
    late.start()

    assert zero.exchange("join", 1)[0] == 1
    late.join()


def test_who_lives_and_does_not_come_is_not_called_killed(monkeypatch) -> None:
    """It hangs, or is slow."""
    monkeypatch.setattr(signs, "PERIOD_S", 0.02)
    monkeypatch.setattr(signs, "LOOK_S", 0.05)
    zero, one = boards(2)
    one.signs.begin()

    with pytest.raises(IncompleteRunError, match=r": hanging, or slower than ranks wait"):
        zero.exchange("end", None)

    one.signs.end()


def test_words_are_read_as_they_were_said() -> None:
    """The first of each rank; one who is interrupted in saying it may say it again."""
    zero, one, two = boards(3)
    one.fail("it said\nthis")
    one.fail("and that")
    two._words.say(Word(rank=2, text="first", kind="fault", blamed=[2]))
    two.fail("second")

    with pytest.raises(IncompleteRunError, match=r"^rank 1: it said\nthis; rank 2: first$"):
        zero.exchange("end", None)


def test_ranks_with_the_same_fault_are_told_together() -> None:
    """A thousand lines would hide what they say."""
    five = boards(5)
    for board in five[1:]:
        board.fail("no such model")

    with pytest.raises(IncompleteRunError, match=r"^ranks 1-4: no such model$"):
        five[0].exchange("end", None)


def test_what_was_said_outlives_the_store(monkeypatch) -> None:
    """Its host may have said why it leaves, and left."""
    zero, one = boards(2)
    zero.fail("the disk is full")
    assert one._words.said()

    def gone(*_: Any) -> None:
        raise ConnectionResetError

    for name in ("check", "get", "set", "multi_get", "add"):
        monkeypatch.setattr(one._bare, name, gone)
    with pytest.raises(IncompleteRunError, match=r"^rank 0: the disk is full$"):
        one.exchange("end", None)


def test_a_store_that_is_gone_is_told() -> None:
    """And that rank 0, or its machine, took it along."""

    class Gone(LocalStore):
        def check(self, keys: Any) -> bool:
            raise ConnectionResetError("reset by peer")

    one = Board(Gone(), 1, 2, 0.5, lambda: None)

    with pytest.raises(IncompleteRunError, match=r"cannot be reached any more: ConnectionResetE"):
        one.exchange("end", None)
    assert one.is_to_tell()


def test_a_store_that_goes_meanwhile_makes_nobody_silent(monkeypatch) -> None:
    """Nobody can be heard any more, and the others may well live."""
    monkeypatch.setattr("llem.distributed.words.GRACE_S", 0.3)
    _, one, _ = boards(3)

    def gone(*_: Any) -> None:
        raise ConnectionResetError("reset by peer")

    for name in ("check", "get", "multi_get"):
        monkeypatch.setattr(one._bare, name, gone)
    with pytest.raises(IncompleteRunError, match=r"^the store of the ranks cannot be reached"):
        raise one.lost("the ranks cannot be aligned")


def test_who_knows_more_is_believed() -> None:
    """One only knows that it could not go on, and another one who did not come."""
    zero, one, two, _ = boards(4)
    one._words.say(Word(rank=1, text="no route to host", kind="verdict"))
    two._words.say(Word(rank=2, text="rank 3 did not come", kind="verdict", blamed=[3]))

    with pytest.raises(IncompleteRunError, match=r"^rank 3 did not come$"):
        zero.exchange("end", None)


def test_who_is_behind_is_named_where_nobody_says_anything(monkeypatch) -> None:
    """One hangs before the window, and the others cannot begin it."""
    monkeypatch.setattr("llem.distributed.words.GRACE_S", 0.2)
    monkeypatch.setattr(signs, "PERIOD_S", 0.02)
    three = boards(3)
    at_once(*(lambda b=board: b.exchange("clocks", None) for board in three))
    for board in three:
        board.signs.begin()
    for board in (three[0], three[2]):
        board.come_to("align")

    with pytest.raises(
        IncompleteRunError,
        match=r"^rank 1 did not come to the begin of the measured window \(rank 1 was last at "
        r"comparing clocks\): no answer$",
    ):
        raise three[0].lost("no answer")

    for board in three:
        board.signs.end()


@given(st.sets(st.integers(0, 40)), st.integers(1, 40))
def test_what_is_present_is_found(present: set[int], count: int) -> None:
    """In few questions where all are, or few are not."""
    store, asked = LocalStore(), []
    for key in present:
        store.set(str(key), "1")
    check = store.check
    store.check = lambda keys: asked.append(keys) or check(keys)  # type: ignore[method-assign]
    keys = [str(key) for key in range(count)]

    found = PatientStore(store, 5.0, lambda: None).present(keys)

    assert found == [key for key in keys if int(key) in present]
    missing = count - len(found)
    assert len(asked) <= 1 + 2 * missing * max(count - 1, 1).bit_length()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_order_that_comes_on_the_way_out_is_held(number) -> None:
    """It is known, and cuts nothing short."""
    orders = Orders()
    with orders:
        assert not orders.is_given
        orders.hold()
        signal.raise_signal(number)
        orders.follow()
        orders.heed()
    assert orders.is_given


def test_a_child_that_was_forked_is_none_of_the_ranks() -> None:
    """It ends as it would without them."""
    with Orders():
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGTERM)
            os._exit(1)
        _, status = os.waitpid(child, 0)

    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_one_that_gets_on_is_waited_for_longer(monkeypatch) -> None:
    """It is given up only once it stands still for so long."""
    monkeypatch.setattr("llem.distributed.signs.PERIOD_S", 0.05)
    zero, one = boards(2, timeout_s=0.4)
    zero.signs.begin()

    def work() -> None:
        for _ in range(10):
            time.sleep(0.1)
            zero.step()

    def wait() -> tuple[str, float]:
        began_s = time.monotonic()
        with pytest.raises(IncompleteRunError) as caught:
            one.wait_for("kept", 0, "keep the result")
        return str(caught.value), time.monotonic() - began_s

    _, (told, waited_s) = at_once(work, wait)
    zero.signs.end()

    assert told == "rank 0 did not keep the result, nor get on with it, within 0.4 s"
    assert waited_s > 1.0
