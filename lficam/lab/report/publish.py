"""The copies of finished results that git is to keep: figures/PROFILE."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

from ... import files
from ...errors import InputError
from ...plots import pictures
from . import latex, values
from .records import listed, read_record
from .tables import read_csv


def publish(profile: str = "desk") -> list[Path]:
    """Copy what git is to keep of every finished notebook to figures/PROFILE/NAME. Returns these folders.

    That is the record, every table as CSV and LaTeX, every figure as PNG, those of lines as SVG too. PDFs,
    the executed notebooks and the page stay in reports/; `lficam report --published` makes a page of what was copied.
    Of several seeds (`lficam reproduce --seeds`) tables have means and intervals over them, figures are of the first,
    but for "seeds", which is drawn here and has them all; all their numbers, in values.csv, are the reference that
    `lficam verify` judges by.
    Raises `InputError` when no notebook of the profile is finished.
    """
    source, target = files.root() / "reports" / profile, files.root() / "figures" / profile
    published, numbers = [], values.collect(source)
    for folder in sorted(path.parent for path in values.places(source)[0].glob("[!.]*/record.json")):
        try:
            record = read_record(folder)
        except ValueError as error:
            raise InputError(f"Cannot publish {folder.name}: {error}. Run it again.") from None
        files.sweep(target)
        copy = files.staging(target / folder.name)
        drawn = [str(Path(table).with_suffix(".tex")) for table in listed(record, "tables")]
        figures = listed(record, "figures")
        vectors = [str(pictures.sharper(folder / figure).relative_to(folder)) for figure in figures]
        kept = ["record.json", *listed(record, "tables"), *filter(lambda name: (folder / name).is_file(), drawn)]
        for file in {*kept, *figures, *vectors}:
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, copy / file)
        if len(numbers.seeds_of(folder.name)) > 1:
            for entry in record["tables"]:
                _over_seeds(copy / entry["file"], entry, numbers, folder.name)
            _draw(copy, record, numbers, folder.name)
        files.swap(copy, target / folder.name)
        published.append(target / folder.name)
    if not published:
        raise InputError(f"Nothing to publish in {source}: run `lficam run --profile {profile}` first.")
    if numbers.runs:
        values.write(numbers, target)
    return published


def _over_seeds(path: Path, entry: dict[str, Any], numbers: values.Values, notebook: str) -> None:
    """Put means and intervals over seeds into a copied table, as CSV and LaTeX."""
    header, rows = read_csv(path)
    rows = values.over_seeds(numbers, notebook, path.stem, header, rows, entry.get("of", ""))
    with files.atomic(path, "w") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    with files.atomic(path.with_suffix(".tex"), "w") as file:
        file.write(latex.table(path, entry, notebook, len(numbers.seeds_of(notebook))))


def _draw(copy: Path, record: dict[str, Any], numbers: values.Values, notebook: str) -> None:
    """Add the figure of all seeds to a copied notebook, and to its record."""
    from . import figures  # whose libraries take seconds to import

    if found := figures.over_seeds(numbers, notebook):
        figure, caption = found
        pictures.save(figure, copy, figures.NAME)
        (copy / f"{figures.NAME}.pdf").unlink()
        record["figures"].append({"file": f"{figures.NAME}.png", "title": figures.TITLE, "caption": caption})
        with files.atomic(copy / "record.json", "w") as file:
            json.dump(record, file, indent=1, ensure_ascii=False)
