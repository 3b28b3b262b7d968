"""The one exception that users are meant to read."""

import contextlib
import difflib
import math
import typing
from collections.abc import Collection, Mapping

_LIMITS = {
    "size": (16, 4096),  # pixels a side; a batch of larger images fills any memory
    "count": (1, math.inf),
    "seed": (0, math.inf),
    "num_classes": (1, math.inf),
    "batch_size": (1, math.inf),
    "workers": (0, math.inf),
}


class InputError(ValueError):
    """Something the user gave is wrong: one sentence naming the thing, what was expected and what to do.

    The command line prints it without a traceback and exits with 2.
    """


def reason(error: BaseException, limit: int = 120) -> str:
    """The first line of what an error says, its kind where it says nothing: for the middle of a sentence.

    >>> reason(EOFError())
    'EOFError'
    """
    text = "" if isinstance(error, KeyError) else str(error).strip()  # a KeyError says the bare key
    return (text or type(error).__name__).splitlines()[0][:limit]


def choose(kind: str, name: typing.Any, known: Collection) -> typing.Any:
    """Return ``known[name]``, or the name itself where known is no mapping; else raise `InputError` naming near ones.

    >>> choose("backbone", "a", {"a": 1}), choose("mode", "eval", ("eval", "train"))
    (1, 'eval')
    """
    if name in known:
        return known[name] if isinstance(known, Mapping) else name
    near = difflib.get_close_matches(str(name), list(known), n=3)
    listed = ", ".join(list(known)[:16]) + ", ..." * (len(known) > 16)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose one of: {listed}."
    raise InputError(f"Unknown {kind} {name!r}: {hint}")


def check_fields(settings: typing.Any) -> None:
    """Raise `InputError` when a field of a dataclass instance is not of its annotated type.

    Annotations are plain types, or tuples of one type as ``tuple[int, ...]``. An int is accepted where a float
    belongs; a bool is not accepted where a number belongs. YAML reads ``1e-3`` as a string: that is caught here.
    """
    for name, kind in typing.get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if typing.get_origin(kind) is tuple and isinstance(value, (tuple, list)):
            item = typing.get_args(kind)[0]
            bad = [v for v in value if not is_a(v, item)]
            if bad:
                raise InputError(wrong_type(name, item, bad[0]))
            object.__setattr__(settings, name, tuple(value))
        elif not is_a(value, typing.get_origin(kind) or kind):
            raise InputError(wrong_type(name, kind, value))


def is_a(value: typing.Any, kind: type) -> bool:
    """Whether value is of that type; int passes for float, bool does not pass for a number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def check_numbers(**given: typing.Any) -> None:
    """Raise `InputError` for a size, count, seed, num_classes, batch_size or workers that cannot be; None is not given.

    >>> check_numbers(size=32, count=None)
    """
    for what, value in given.items():
        least, most = _LIMITS[what]
        if value is not None and (not is_a(value, int) or not least <= value <= most):
            limits = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
            raise InputError(f"{what} must be a whole number {limits}, not {value!r}.")


def positive(name: str, value: typing.Any) -> int:
    """The value, if it is a whole number of at least 1; else `InputError`."""
    if not is_a(value, int) or value < 1:
        raise InputError(f"{name}: expected a whole number of at least 1, got {value!r}.")
    return value


def wrong_type(name: str, kind: type, value: typing.Any) -> str:
    """The sentence for a value of the wrong type."""
    text = f"{name}: expected {getattr(kind, '__name__', kind)}, got {type(value).__name__} {value!r}"
    if isinstance(value, str) and kind is float:
        with contextlib.suppress(ValueError):
            number = repr(float(value))
            number = number if "." in number else number.replace("e", ".0e")
            text += f" (in YAML write {number}, with a decimal point and no quotes)"
    return text + "."
