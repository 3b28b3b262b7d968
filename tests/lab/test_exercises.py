import pytest

from lficam.lab.exercises import check


@pytest.mark.parametrize(
    ("answer", "said"),
    [(None, "No answer yet"), (40, "Right: 40."), (40.5, "Right: 40."), (30, "too low"), (50, "too high")],
)
def test_an_answer_is_told_in_a_sentence(answer, said):
    assert said in check(answer, 40.0)
    assert check(0, 0).startswith("Right")
