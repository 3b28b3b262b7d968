"""The ratios that were measured: kept in results.json, shown in README.md."""

import json
import re
from pathlib import Path

from benchmarks import timing
from lficam.errors import InputError
from lficam.files import atomic

NAMES = ("attention", "baselines", "mechanism", "newer", "evaluation", "fast_path", "loader")
FOLDER = Path(__file__).parent


def read(path):
    """All runs that are kept, none where there is no file. Raises `InputError` for another file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["runs"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no results of benchmarks ({error}): move it away.") from None


def keep(run, folder=FOLDER):
    """Put a run in the place of the earlier one on the same kind of machine, and write the tables anew."""
    path = folder / "results.json"
    runs = [other for other in read(path) if _key(other) != _key(run)] + [run]
    runs.sort(key=_key)
    with atomic(path, "w") as file:
        json.dump({"runs": runs}, file, indent=1, ensure_ascii=False)
    readme = folder / "README.md"
    text = tables(readme.read_text(encoding="utf-8"), runs)
    with atomic(readme, "w") as file:
        file.write(text)


def _key(run):
    return NAMES.index(run["benchmark"]), run["machine"]["gpu"], run["machine"]["cpu"]


def tables(text, runs):
    """The README with what stands between `<!-- results: NAME -->` and `<!-- end -->` written from the runs.

    What was never run stays as it is.
    """

    def fill(match):
        mine = [run for run in runs if run["benchmark"] == match[1]]
        parts = [f"{caption(run['machine'])}\n\n{timing.table(run['rows'])}" for run in mine]
        return f"<!-- results: {match[1]} -->\n" + "\n\n".join(parts) + "\n<!-- end -->" if parts else match[0]

    return re.sub(r"<!-- results: (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.S)


def caption(machine):
    """What a reader has to know about the numbers of a table."""
    versions, dirty = machine["versions"], ", with uncommitted changes" if machine["dirty"] else ""
    return (
        f"{machine['gpu'] or machine['cpu']}, {machine['threads']} threads of {machine['cores']} cores, "
        f"torch {versions['torch']}, {machine['date']}, commit {machine['commit'][:7]}{dirty}."
    )
