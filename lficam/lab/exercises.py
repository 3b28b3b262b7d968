"""Answers to the notebooks' exercises, checked against what the code computes."""


def check(answer: float | None, expected: float, tolerance: float = 0.02) -> str:
    """One sentence on an answer: whether it is there at all (None: not yet), too low, too high, or right.

    expected: the number that the notebook computes; tolerance: relative to it. The right number is told once it is met.
    """
    if answer is None:
        return "No answer yet: put your number in place of None and run the cell again."
    if abs(answer - expected) <= tolerance * max(abs(expected), 1e-9):
        return f"Right: {expected:.6g}."
    return f"Not yet: {answer:g} is too {'low' if answer < expected else 'high'}."
