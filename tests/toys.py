"""Notebooks that do next to nothing, and the folder that a finished one leaves."""

import json

import nbformat

PARAMETERS = 'profile = "lab"\noutput = ""\nlr = 0.1\nepochs = 2\nname = "a"\nsteps = [1, 2]\nfast = True\nextra = None'
RECORD = """
import json, os, pathlib
folder = pathlib.Path(output)
(folder / "t.csv").write_text("method,score\\n<b>,0.123456789\\n")
(folder / "f.png").write_bytes(b"png")
record = {"notebook": NAME, "profile": profile, "command": os.environ["LFICAM_COMMAND"], "seconds": 1.5,
          "parameters": {"lr": lr, "name": name}, "versions": {"python": "3"}, "started": "today",
          "settings": json.loads(os.environ["LFICAM_SETTINGS"]),
          "tables": [{"file": "t.csv", "title": "A < B", "caption": "N = 2", "digits": {"score": 2}}],
          "figures": [{"file": "f.png", "title": "Maps", "caption": "c"}], "results": {}}
(folder / "record.json").write_text(json.dumps(record))
"""


def toy(home, name="01_toy", cells=None, parameters=PARAMETERS, settings="", tags=("parameters",), **tagged):
    """A notebook and its file in the profile smoke. tagged: cells by their tags, as jobs="jobs = {}"."""
    new = nbformat.v4
    head = [new.new_markdown_cell("# A toy <title>")]
    head += [new.new_code_cell(parameters, metadata={"tags": [tag]}) for tag in tags]
    head += [new.new_code_cell(cell, metadata={"tags": [tag]}) for tag, cell in tagged.items()]
    cells = [RECORD.replace("NAME", repr(name))] if cells is None else cells
    book = new.new_notebook(cells=[*head, *(new.new_code_cell(cell) for cell in cells)])
    profile = home / "notebooks" / "profiles" / "smoke"
    profile.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, home / "notebooks" / f"{name}.ipynb")
    (profile / f"{name}.yaml").write_text(settings)
    return name


def finished(home, name, **entries):
    """A report folder that was not run."""
    folder = home / "reports" / "smoke" / name
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("method,score,count\n<i>x</i>,0.98765,1234567\ny,,5\n")
    (folder / "b.png").write_bytes(b"")
    (folder / "b.pdf").write_bytes(b"")
    record = {
        "notebook": name,
        "profile": "smoke",
        "command": "lficam run & more",
        "seconds": 61,
        "commit": "abc123",
        "dirty": True,
        "versions": {"torch": "9.9"},
        "tables": [{"file": "a.csv", "title": "T<1>", "caption": "N = 7", "digits": {"score": 1}}],
        "figures": [{"file": "b.png", "title": 'says "hi"', "caption": ""}],
    } | entries
    (folder / "record.json").write_text(json.dumps(record))
    return folder
