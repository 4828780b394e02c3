"""The rate is held below its limit, and lifted when somebody is in a hurry."""

import threading
import time

from spot_agent.sync.throttle import Throttle


def seconds_for(throttle: Throttle, sends: int, count: int, *, deadline: float = float("inf")) -> float:
    began = time.monotonic()
    for _ in range(sends):
        throttle.wait(count, deadline=deadline)
    return time.monotonic() - began


def test_no_limit_holds_nothing_back() -> None:
    assert seconds_for(Throttle(None), 1000, 1 << 30) < 0.5


def test_bytes_are_spread_over_time() -> None:
    # The last of them is not waited for, and a tenth of a second's worth may go ahead.
    assert 0.35 <= seconds_for(Throttle(1e6), 6, 100_000) <= 1.0


def test_a_pause_is_no_licence_for_a_burst() -> None:
    throttle = Throttle(1e6)
    throttle.wait(1)
    time.sleep(0.5)
    assert seconds_for(throttle, 6, 100_000) >= 0.35


def test_who_is_in_a_hurry_is_not_held_back_nor_who_waits_already() -> None:
    throttle = Throttle(1e4)
    throttle.wait(1_000_000)
    timer = threading.Timer(0.2, throttle.lift)
    timer.start()
    assert seconds_for(throttle, 3, 1_000_000) < 5
    timer.join()
    throttle.lift(lifted=False)
    throttle.wait(10_000)
    assert seconds_for(throttle, 1, 1) >= 0.5


def test_a_wait_ends_with_its_deadline() -> None:
    throttle = Throttle(1e4)
    throttle.wait(1_000_000)
    assert seconds_for(throttle, 1, 1, deadline=time.monotonic() + 0.1) < 5
