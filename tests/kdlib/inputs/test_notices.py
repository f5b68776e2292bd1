"""What readers noticed: counts and examples by kind, from one thread or many."""

from concurrent.futures import ThreadPoolExecutor

from kdlib.inputs.notices import EXAMPLES, Notices


def test_a_notice_counts_all_cases_and_keeps_the_first_examples():
    notices = Notices()
    assert not notices
    for number in range(1234):
        notices.add("areas computed from the box", f"annotation {number}")
    notices.add("images numbered", "id 'a'", count=2)
    assert notices.lines() == [
        "areas computed from the box: 1,234 (annotation 0, annotation 1, annotation 2, ...)",
        "images numbered: 2 (id 'a', ...)",
    ]
    assert notices.to_json() == {"areas computed from the box": 1234, "images numbered": 2}


def test_several_cases_are_added_at_once_and_none_adds_nothing():
    notices = Notices()
    notices.add_all("persons left out", [])
    assert not notices
    notices.add_all("persons left out", iter(range(2)))
    notices.add_all("persons left out", [7, 8], count=40)
    assert notices.lines() == ["persons left out: 42 (0, 1, 7, ...)"]


def test_threads_share_notices():
    notices = Notices()
    with ThreadPoolExecutor(8) as pool:
        for kind in ["a", "b"] * 500:
            pool.submit(notices.add, kind, 1)
    assert notices.to_json() == {"a": 500, "b": 500}
    assert all(line.count("1") == EXAMPLES for line in notices.lines())
