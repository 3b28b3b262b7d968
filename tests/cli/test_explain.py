"""`lficam explain` and `lficam layers`: files, table, sentences, exit codes; nothing of others is overwritten."""

import csv
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lficam
from lficam.cli import main
from lficam.errors import InputError
from lficam.explainers import controls, registry
from lficam.lab.explore import gallery
from lficam.lab.explore.gallery import Gallery, explanation_panels
from lficam.lab.photos import Explanation
from lficam.models import checkpoints

NAMES = ["tench", "tiger cat", "tiger", "crane", "crane", "a $x_1$ / _b", "日本", "../up", "7", "x" * 300]


RANDOM = ["--weights", "random"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of a plain classifier, an ABN, and TAME on the first."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    facts = {"settings": {"job": {"dataset": "photo-digits", "size": 0}, "classes": NAMES}}

    def save(name, model):
        checkpoints.save(folder / name, {"card": model.card, "model": model.state_dict()} | facts)
        return str(folder / name)

    files = {"plain": save("plain.pt", lficam.create("plain", "resnet-8", 10))}
    files["abn"] = save("abn.pt", lficam.create("abn", "resnet-8", 10))
    files["tame"] = save("tame.pt", lficam.attach(files["plain"], "tame"))
    return files


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch):
    """Three photos, two of one name, in the current folder."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name in ("a/x.jpg", "b/x.png", "b/y.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (40, 50, 3), np.uint8)).save(name)
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are files without content, where it is about something else."""
    monkeypatch.setattr(gallery, "explanation_panels", lambda *_: None)
    monkeypatch.setattr(gallery, "save_figure", lambda _, path: path.write_bytes(b"drawn"))


def table(folder="explanations"):
    with open(Path(folder) / "explanations.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files(folder="explanations"):
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_folder_and_a_photo_that_fails(trained, capsys):
    Path("b/bad.png").write_bytes(b"nothing")
    assert main(["explain", "a/x.jpg", "b", "--checkpoint", trained["tame"], "--target", "3"]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("lficam: Cannot read the image b/bad.png")
    lines = printed.out.splitlines()
    told = ["a/x.jpg", "b/x.png", "b/y.png", "photos", "3 photos explained, 1 failed"]
    assert [line.split(":")[0] for line in lines] == told
    assert "crane 3" in lines[0]
    rows = table()
    assert [row["photo"] for row in rows] == ["../a/x.jpg", "../b/x.png", "../b/y.png"]
    assert [row["figure"] for row in rows] == ["x-3-crane.png", "b-x-3-crane.png", "y-3-crane.png"]
    assert {row["explainer"] for row in rows} == {"tame of plain resnet-8"}
    for row in rows:
        before, after = float(row["probability"]), float(row["probability_masked"])
        assert float(row["drop_percent"]) == pytest.approx(100 * (1 - after / before), rel=0.01, abs=0.01)
        assert (row["class_index"], row["class_name"]) == ("3", "crane")
    maps = [row["figure"].replace(".png", "-map.png") for row in rows]
    assert files() == sorted(["explanations.csv", *maps, *(row["figure"] for row in rows)])
    with Image.open("explanations/x-3-crane-map.png") as grey:
        assert (grey.mode, grey.size, grey.getextrema()) == ("L", (32, 32), (0, 255))
    with Image.open("explanations/x-3-crane.png") as figure:
        assert figure.width > 900


@pytest.mark.usefixtures("undrawn")
def test_again_replaces_the_same_and_keeps_the_rest(trained, capsys):
    explain = ["--checkpoint", trained["tame"], "--target", "tench"]
    assert main(["explain", "a/x.jpg", *explain]) == 0
    assert main(["explain", "b/x.png", *explain]) == 0
    Path("explanations/y-0-tench-map.png").write_bytes(b"mine")
    assert main(["explain", "b", "a", *explain]) == 0
    assert [row["figure"] for row in table()] == ["b-x-0-tench.png", "b-y-0-tench.png", "x-0-tench.png"]
    assert Path("explanations/y-0-tench-map.png").read_bytes() == b"mine"
    Path("explanations/y-0-tench-map.png").unlink()
    capsys.readouterr()
    assert main(["explain", ".", *explain]) == 0  # where the explanations lie, too
    assert "3 photos explained, 0 failed" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_top_five_with_odd_names(trained, capsys):
    assert main(["explain", "b/y.png", "--checkpoint", trained["plain"], "--target", "all-top5", "--out", "o/p"]) == 0
    assert capsys.readouterr().out.count("\n") == 5
    rows = table("o/p")
    values = [float(row["probability"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert len(files("o/p")) == 11
    for k in (5, 6, 7, 9):
        assert main(["explain", "b/y.png", "--checkpoint", trained["plain"], "--target", str(k), "--out", "o/p"]) == 0
    figures = {row["class_index"]: row["figure"] for row in table("o/p")}
    assert figures["5"] == "y-5-a-x-1-b.png"
    assert figures["6"] == "y-6-日本.png"
    assert figures["7"] == "y-7-up.png"
    assert len(figures["9"]) < 80
    assert len(files("o/p")) == 2 * len(table("o/p")) + 1


@pytest.mark.usefixtures("undrawn")
def test_untrained_and_training_free_methods(trained, capsys, monkeypatch):
    of = ["--classifier", trained["plain"], "--target", "1"]
    assert main(["explain", "b/y.png", "--method", "tame", *of]) == 2
    error = capsys.readouterr().err
    assert "An untrained tame explains nothing: train it by `lficam train --method tame --classifier" in error
    assert not Path("explanations").exists()
    assert main(["explain", "b/y.png", "--method", "tame", "--untrained", *of]) == 0
    assert capsys.readouterr().out.count("WARNING: UNTRAINED: this map explains nothing.") == 2
    assert table()[0]["explainer"] == "tame of plain resnet-8, UNTRAINED: this map explains nothing"
    assert main(["explain", "b/y.png", "--method", "centre", *of]) == 0
    assert "WARNING" not in capsys.readouterr().out
    assert table()[0]["explainer"] == "centre of plain resnet-8"
    monkeypatch.setitem(registry.METHODS, "new", controls.Centre)
    assert main(["explain", "b/y.png", "--method", "new", *of]) == 0
    assert main(["explain", "b/y.png", "--method", "centre", "--classifier", "resnet18", *RANDOM, "--size", "64"]) == 0
    assert "WARNING: the classifier's weights are random." in capsys.readouterr().out
    assert main(["explain", "b/y.png", "--checkpoint", trained["abn"], "--target", "2"]) == 0
    assert "attention of abn resnet-8 belongs to the photo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["b/y.png", "--method", "centre", "--classifier", "PLAIN", "--untrained"], "centre needs no training"),
        (["b/y.png", "--method", "abn", "--classifier", "PLAIN"], "give its best.pt as --checkpoint"),
        (["b/y.png", "--checkpoint", "TAME", "--untrained"], "leave out --untrained"),
        (["b/y.png", "--checkpoint", "PLAIN", "--classifier", "PLAIN"], "leave out --classifier"),
        (["b/y.png", "--checkpoint", "TAME", "--classifier", "ABN"], "trained on another"),
        (["b/y.png", "--checkpoint", "TAME", "--target", "tig"], "may be 1 tiger cat, 2 tiger: give one number"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(trained, capsys, arguments, words):
    arguments = [trained.get(argument.lower(), argument) if argument.isupper() else argument for argument in arguments]
    assert main(["explain", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lficam: ")
    assert error.count("\n") == 1
    assert words in error


@pytest.mark.usefixtures("undrawn")
def test_a_classifier_that_moved(photos, trained, capsys):
    """The card's path leads nowhere: the user says where the classifier is."""
    moved = photos / "moved.pt"
    shutil.copy(trained["plain"], moved)
    content = checkpoints.read(trained["tame"])
    content["card"]["classifier"]["classifier"] = "lost/best.pt"
    checkpoints.save("tame.pt", content)
    assert main(["explain", "b/y.png", "--checkpoint", "tame.pt"]) == 2
    assert "No checkpoint lost/best.pt" in capsys.readouterr().err
    assert main(["explain", "b/y.png", "--checkpoint", "tame.pt", "--classifier", str(moved), "--size", "48"]) == 0


def test_an_interrupt_loses_nothing(trained, capsys, monkeypatch):
    """Neither a row of what was drawn, nor is there a file without a row."""
    draw, drawn = gallery.save_figure, []

    def interrupted(figure, path):
        draw(figure, path)
        drawn.append(path)
        if len(drawn) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(gallery, "save_figure", interrupted)
    assert main(["explain", "a", "b", "--checkpoint", trained["tame"], "--target", "0"]) == 130
    assert [row["photo"] for row in table()] == ["../a/x.jpg"]
    assert files() == ["explanations.csv", "x-0-tench-map.png", "x-0-tench.png"]
    assert "a/x.jpg: tench 0" in capsys.readouterr().out


def explanation(index=3, name="crane"):
    pixels = torch.rand(3, 8, 8)
    return Explanation(index, name, 0.5, 0.25, pixels, pixels[0], pixels[0, :2, :2])


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"", b"\xff\xfe", (",".join(gallery.COLUMNS) + "\n1,2\n").encode()])
def test_a_foreign_table_is_left_alone(tmp_path, content):
    (tmp_path / "explanations.csv").write_bytes(content)
    with pytest.raises(InputError, match="is no table of `lficam explain`: move it away"):
        Gallery(tmp_path)
    (tmp_path / "explanations.csv").write_text(",".join(gallery.COLUMNS) + "\np,1,n,0,0,0,e,../out.png\n")
    with pytest.raises(InputError, match="is no table"):
        Gallery(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_odd_photo_names(tmp_path):
    """Long, hidden, not UTF-8, with a line break, the same but for case: a file each; the table is read again."""
    names = ["l" * 200 + ".png", ".hidden.png", "n\udcff.png", 'line\nbreak, and "quote".png', "X.png", "x.png"]
    names.append("日" * 80)
    for _ in range(2):
        with Gallery(tmp_path / "o") as room:
            before, shown = len(room.rows), []
            for count, name in enumerate(names, start=1):
                shown.append(room.add(tmp_path / name, explanation()))
                assert len(table(tmp_path / "o")) == max(before, count)  # written as it grows
        assert len({path.name.casefold() for path in shown}) == len(names) == len(room.rows)
        assert len(files(tmp_path / "o")) == 2 * len(names) + 1
    assert Gallery(tmp_path / "o").rows == room.rows


@pytest.mark.usefixtures("undrawn")
def test_files_of_the_user_are_never_overwritten(tmp_path):
    for name in ("x-3-crane.png", tmp_path.name + "-x-3-crane-map.png", "x-2-3-crane.png"):
        (tmp_path / name).write_bytes(b"mine")
    with Gallery(tmp_path) as room:
        assert room.add(tmp_path / "x.png", explanation()).name == "x-3-3-crane.png"
    assert (tmp_path / "x-3-crane.png").read_bytes() == b"mine"


def test_panels(tmp_path):
    figure = explanation_panels(explanation(0, "a $x_{1$ name " * 9), "tame of resnet50", "UNTRAINED")
    titles = ["photo: 50.0 %", "heat map", "overlay", "photo × map: 25.0 %"]
    assert [axis.get_title() for axis in figure.axes[:4]] == titles
    texts = [text.get_text() for text in figure.texts]
    assert texts[0].endswith("...:  50.0 % → 25.0 %")
    assert texts[1:] == ["tame of resnet50", "UNTRAINED"]
    named = explanation(6, "日本")
    for name in ("x.png", "y.png"):
        gallery.save_figure(explanation_panels(named, "日本"), tmp_path / name)
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    attention = explanation_panels(dataclasses.replace(explanation(2, "2"), of_class=False))
    assert attention.texts[0].get_text().startswith("class 2:")
    assert attention.axes[1].get_title() == "attention (of no class)"


def test_layers(trained, capsys):
    assert main(["layers", trained["plain"]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "channels", "resolution", "default", "of"]
    assert lines[-2].split() == ["backbone.stages.2", "64", "8", "x", "8", "tame,", "l-cam"]
    assert lines[-1].endswith("plain.pt, images of 32 x 32: 31 layers, 6 shown, --all for the others")
    assert main(["layers", trained["plain"], "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 31 + 2
    assert sum("called 2 times: cannot be used" in line for line in lines) == 3


def test_layers_of_a_transformer(capsys):
    assert main(["layers", "vit_b_32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tokens" in lines[0]
    assert [line.split()[0] for line in lines if "tame" in line] == [
        f"encoder.layers.encoder_layer_{k}.ln_1" for k in (9, 10, 11)
    ]
    assert "7 x 7  49 + 1  tame, l-cam" in lines[-3]
    assert main(["layers", "vit_b_33"]) == 2
    assert "did you mean 'vit_b_32'" in capsys.readouterr().err
