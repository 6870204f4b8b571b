"""Whose turn it is."""

from aura_agent.daemon.slots import ALL, Slots


def test_they_take_turns_in_the_order_in_which_they_came() -> None:
    """One that gives up its place lets the next ones move up."""
    slots = Slots()
    slots.limit({ALL: 2})
    one, two, three, four, five = (slots.ask(None) for _ in range(5))
    assert [slot.given.is_set() for slot in (one, two, three)] == [True, True, False]
    slots.give_back(three)
    slots.give_back(one)

    assert [slot.given.is_set() for slot in (four, five)] == [True, False]


def test_a_full_group_lets_others_pass_and_is_not_passed_by_its_own() -> None:
    """Room for all of them is no room in the group, and the other way round."""
    slots = Slots()
    slots.limit({ALL: 3, "db": 1})
    first, second, other, third = slots.ask("db"), slots.ask("db"), slots.ask(None), slots.ask("db")
    assert [slot.given.is_set() for slot in (first, second, other, third)] == [True, False, True, False]
    assert slots.full(second) == "1 runs go on, and max_concurrent of job group db is 1"
    slots.give_back(first)

    assert [slot.given.is_set() for slot in (second, third)] == [True, False]


def test_new_limits_count_at_once() -> None:
    """More room is handed out; less ends nothing that goes on, but nothing begins before it fits."""
    slots = Slots()
    slots.limit({"db": 1})
    one, two, three = (slots.ask("db") for _ in range(3))
    slots.limit({"db": 2})
    assert [slot.given.is_set() for slot in (one, two, three)] == [True, True, False]
    slots.limit({"db": 1})
    slots.give_back(one)
    assert not three.given.is_set()
    slots.limit({})

    assert three.given.is_set()


def test_ten_thousand_that_wait_go_on_one_after_the_other() -> None:
    """In their order, those of a full group and all others; who has gone meanwhile is passed over."""
    slots = Slots()
    slots.limit({ALL: 2, "db": 1})
    wanted = [slots.ask("db" if number % 2 else None) for number in range(10_000)]
    for slot in wanted[100::100]:
        slots.give_back(slot)
    left = [slot for number, slot in enumerate(wanted) if number % 100 or number == 0]
    for at, slot in enumerate(left):
        assert slot.given.is_set()
        assert not any(later.given.is_set() for later in left[at + 3 :][:10])
        slots.give_back(slot)
