"""Lines and events on their way to the terminal and the user's callback."""

import signal
import threading

import pytest

from processes import wait_until
from sparkdl.launch.driver import console
from sparkdl.launch.driver.console import ConsoleQueue

pytestmark = pytest.mark.timeout(60)
LIMIT_S = 20


class Gate:
    """A consumer that stops at its first call until it is let go, and keeps what it gets."""

    def __init__(self):
        self.got = []
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, *item):
        self.reached.set()
        assert self.open.wait(LIMIT_S)
        self.got.append(item[0] if len(item) == 1 else item)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "console"]


def test_lines_and_events_are_delivered_in_order_and_all_of_them_before_the_end():
    got = []
    with ConsoleQueue(got.append, lambda rank, event: got.append((rank, event))) as teller:
        for number in range(1000):
            teller.line(str(number))
            teller.event(number % 4, {"number": number})
    assert got == [item for n in range(1000) for item in (str(n), (n % 4, {"number": n}))]
    assert teller.error is None
    wait_until(lambda: not threads())


def test_lines_of_several_threads_keep_each_threads_order():
    got = []
    with ConsoleQueue(got.append, None) as teller:
        speakers = [
            threading.Thread(target=lambda name=name: [teller.line(f"{name} {n}") for n in range(500)])
            for name in ("a", "b", "c")
        ]
        for speaker in speakers:
            speaker.start()
        for speaker in speakers:
            speaker.join(LIMIT_S)
    for name in ("a", "b", "c"):
        assert [line for line in got if line.startswith(name)] == [f"{name} {n}" for n in range(500)]


def test_nobody_waits_for_a_consumer_that_does_not_answer(gate):
    with ConsoleQueue(gate, gate) as teller:
        teller.line("first")
        assert gate.reached.wait(LIMIT_S)
        for number in range(3):
            teller.line(str(number))
            teller.event(0, {"number": number})
        assert gate.got == []  # all of these returned while the first line was still being shown
        gate.open.set()
    assert gate.got == ["first", *(item for n in range(3) for item in (str(n), (0, {"number": n})))]


def test_lines_that_nobody_reads_are_counted_and_events_are_kept(gate, monkeypatch):
    monkeypatch.setattr(console, "QUEUED_LINES", 10)
    with ConsoleQueue(gate, gate) as told:
        told.line("first")
        assert gate.reached.wait(LIMIT_S)
        for number in range(1500):
            told.line(str(number))
            told.event(0, {"number": number})
        gate.open.set()
    lines = [item for item in gate.got if isinstance(item, str)]
    assert lines == [
        "first",
        *map(str, range(10)),
        "(1,490 lines are left out here: they came faster than they could be shown)",
    ]
    assert [item for item in gate.got if not isinstance(item, str)] == [(0, {"number": n}) for n in range(1500)]


def test_after_a_gap_lines_are_shown_again_once_half_of_those_before_were():
    shown = []
    step, done = threading.Semaphore(0), threading.Semaphore(0)

    def show(text):
        assert step.acquire(timeout=LIMIT_S)
        shown.append(text)
        done.release()

    def let_show(count):
        for _ in range(count):
            step.release()
        for _ in range(count):
            assert done.acquire(timeout=LIMIT_S)

    limit = 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "QUEUED_LINES", limit)
        with ConsoleQueue(show, None) as told:
            for number in range(limit + 3):
                told.line(str(number))
            let_show(3)
            told.line("still too many")  # up to 8 wait, more than half
            let_show(limit - 4)
            told.line("room again")
            for _ in range(10):
                step.release()
    assert shown.count("room again") == 1 and "still too many" not in shown
    gaps = [line for line in shown if "left out" in line]
    assert len(gaps) == 1 and shown.index(gaps[0]) == shown.index("room again") - 1


def test_long_lines_fill_the_queue_too(gate, monkeypatch):
    monkeypatch.setattr(console, "QUEUED_CHARACTERS", 1000)
    with ConsoleQueue(gate, None) as told:
        told.line("first")
        assert gate.reached.wait(LIMIT_S)
        for _ in range(5):
            told.line("x" * 400)
        gate.open.set()
    assert gate.got[1:4] == ["x" * 400] * 3 and gate.got[4].startswith("(2 lines are left out")


def test_the_first_error_of_on_event_is_kept_and_told_and_ends_the_events():
    calls, shown, told = [], [], threading.Event()

    def fail(rank, event):
        calls.append(event["number"])
        raise ValueError(f"number {event['number']}")

    with ConsoleQueue(shown.append, fail, on_error=told.set) as teller:
        for number in range(3):
            teller.event(0, {"number": number})
        assert told.wait(LIMIT_S)
        teller.event(0, {"number": 3})
        teller.line("shown all the same")
    assert calls == [0]
    assert isinstance(teller.error, ValueError) and str(teller.error) == "number 0"
    assert shown == ["shown all the same"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_on_event_that_wants_to_exit_is_an_error_too(error):
    def leave(rank, event):
        raise error

    with ConsoleQueue(print, leave) as teller:
        teller.event(0, {})
    assert teller.error is error


def test_a_terminal_that_is_gone_stops_lines_but_not_events(caplog):
    got = []

    def broken(text):
        raise BrokenPipeError(f"no terminal for {text}")

    with ConsoleQueue(broken, lambda rank, event: got.append(event)) as teller:
        teller.line("a")
        teller.line("b")
        teller.event(0, {"number": 1})
    assert got == [{"number": 1}] and teller.error is None
    assert [record.getMessage() for record in caplog.records] == [
        "the ranks' output is shown no more: no terminal for a"
    ]


def test_after_its_end_it_takes_nothing_and_may_be_closed_again():
    got = []
    with ConsoleQueue(got.append, lambda rank, event: got.append(event)) as teller:
        pass
    teller.line("late")
    teller.event(0, {})
    teller.close()
    assert got == []


@pytest.fixture
def interruptible():
    """Ctrl-C raises: a suite that a shell started in the background inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_closing_can_be_interrupted_and_the_thread_ends_after_the_call_that_it_is_in(gate, interruptible):
    told = ConsoleQueue(gate, gate)
    told.__enter__()
    told.line("first")
    told.line("second")
    assert gate.reached.wait(LIMIT_S)
    interrupt = threading.Timer(0.5, signal.pthread_kill, args=(threading.main_thread().ident, signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        told.close()
    interrupt.join(LIMIT_S)
    gate.open.set()
    told.close()
    wait_until(lambda: not threads())
    assert gate.got == ["first"]
