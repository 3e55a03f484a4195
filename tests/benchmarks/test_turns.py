import pytest

from benchmarks.turns import Contestant, Turn, take_turns


def train(log, name, pacer):
    pacer.begin()
    while True:
        log.append(name)
        pacer.step_done(pairs=3, tokens=7)


def fail(pacer):
    raise ValueError("no such shape")


def test_contestants_work_only_in_their_turns_and_each_begins_a_round():
    log = []
    contestants = [Contestant(name, train, (log, name)) for name in "ab"]
    take_turns(contestants, rounds=3, seconds=0.0, threads=1)
    assert "".join(log) == "ab" + "ab" + "ba" + "ab"
    for contestant in contestants:
        total = contestant.total
        assert (total.steps, total.pairs, total.tokens) == (3, 9, 21)
        assert total.seconds > 0
        assert total.memory > 0


def test_a_turn_goes_on_until_its_time_is_up():
    log = []
    contestant = Contestant("a", train, (log, "a"))
    take_turns([contestant], rounds=1, seconds=0.05, threads=1)
    assert contestant.total.seconds >= 0.05
    assert contestant.total.steps == len(log) - 1


def test_totals_add_up_but_for_the_peak_of_memory():
    total = Turn(1.0, 2, 3, 4, memory=9) + Turn(1.0, 2, 3, 4, memory=5)
    assert total == Turn(2.0, 4, 6, 8, memory=9)


def test_a_failure_is_told_with_its_traceback():
    with pytest.raises(RuntimeError, match=r"(?s)b failed:.*ValueError: no such shape"):
        Contestant("b", fail, ()).start(threads=1)
