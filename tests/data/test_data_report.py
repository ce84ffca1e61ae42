"""What the report counts, and how it is shown."""

from array import array

from implicit_prm.data.data_report import LengthSummary, Report, table
from implicit_prm.data.tokenization import EncodedGroup, TrainingResponse
from implicit_prm.types import Group


def _group(labels, prompt="p", texts=None, finished=None):
    texts = texts or [f"{prompt}{place}" for place in range(len(labels))]
    return Group(prompt, prompt, texts, list(labels), finished or [True] * len(labels))


def _encoded(prompt, lengths, labels=()):
    responses = [TrainingResponse(array("i", range(length)), array("i", [length]), b"") for length in lengths]
    return EncodedGroup("g", array("i", range(prompt)), responses, list(labels))


def _described(*groups):
    report = Report()
    report.describe(groups)
    return report


def test_everything_is_counted():
    report = _described(
        _group([True, False, True]),
        _group([True, True], "q"),
        _group([False] * 4, "r", finished=[True, False, False, True]),
        _group([True, False, False, False], "p", texts=["a", "a", "b", "b"]),
    )
    assert (report.prompts, report.all_correct, report.all_incorrect, report.repeated_prompts) == (4, 1, 1, 1)
    assert (report.responses, report.correct, report.cut_off) == (13, 5, 2)
    assert report.pairs == 2 * 1 + 1 * 3
    assert (report.repeated_responses, report.contradictory) == (2, 1)


def test_lengths_are_of_prompts_and_responses():
    report = Report()
    report.measure([3, 5, 4], [10, 20, *range(100, 130), 7])
    assert report.prompt_tokens == LengthSummary(4, 5, 5)
    assert report.response_tokens == LengthSummary(113, 128, 129)


def test_the_table_has_a_column_for_each_set():
    train = _described(
        _group([True, False]), _group([True, True], "q"), *(_group([False], f"r{n}") for n in range(1000))
    )
    dev = _described(_group([True, False], "d", finished=[True, False]))
    train.measure([30], [10, 2000])
    train.dropped["responses over 1024 tokens"] += 1
    train.dropped["nothing"] += 0
    train.reset_used()
    train.count_used(_encoded(30, [10, 20], [True, False]))
    lines = table({"train": train, "dev": dev}, needs_pairs=True)
    assert lines == [
        "data                                                 train        dev",
        "prompts                                              1,002          1",
        "  all correct (unused by this loss)               1 (0.1%)          0",
        "  all incorrect (unused by this loss)        1,000 (99.8%)          0",
        "responses                                            1,004          2",
        "  correct                                         3 (0.3%)  1 (50.0%)",
        "  cut off                                                0  1 (50.0%)",
        "  repeated in their prompt                               0          0",
        "correct-incorrect pairs                                  1          1",
        "tokens: median, 95 %, longest",
        "  of a prompt                                   30  30  30          -",
        "  of a response                        2,000  2,000  2,000          -",
        "left out",
        "  responses over 1024 tokens                             1          0",
        "used",
        "  prompts                                                1          0",
        "  responses                                              2          0",
        "  pairs                                                  1          0",
    ]


def test_what_is_wrong_with_data_is_shown_where_there_is_any():
    twice = [_group([True, False], texts=["a", "a"]), _group([True, False])]
    lines = table({"train": _described(*twice), "dev": _described(_group([True, False]))})
    assert "  repeated                     1 (50.0%)          0" in lines
    assert "  both correct and incorrect   1 (25.0%)          0" in lines


def test_a_table_of_one_set_says_nothing_of_what_was_not_left_out():
    lines = table({"train": _described(_group([True, False]))})
    assert not any("left out" in line or "used" in line or "dev" in line for line in lines)
