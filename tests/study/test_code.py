"""Code that a study names: what is opened, what is refused, and how a difference is noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hpo.errors import StudyError
from hpo.study.code import check_files, code_hashes, load
from hpo.study.references import Reference, Sources, parse_reference

ALL = ("*",)


@pytest.mark.parametrize("text", ["cnn", "digit_pairs", "", "a.py"])
def test_what_has_no_colon_is_a_name(text: str) -> None:
    assert parse_reference(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *("a.py:", "a.py:b c", ":b", "../a.py:b", "/tmp/a.py:b", "x/../a.py:b", "a b:c", "a.txt:b:c", "a/b:c"),
        *("..\\a.py:b", "a.py:b.c", "a-b:c", "a..b:c"),
    ],
)
def test_what_can_be_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "allowed", "is_allowed"),
    [
        ("forest.py:objective", (), False),
        ("forest.py:objective", ("forest.py:*",), True),
        ("forest.py:objective", ("forest.py:objective",), True),
        ("forest.py:objective", ("Forest.py:*", "forest.py"), False),
        ("nets/forest.py:objective", ("forest.py:*",), False),
        ("subprocess:Popen", ("*.py:*",), False),
        ("subprocess:Popen", ("forest.py:*", "sub*"), True),
    ],
)
def test_code_is_opened_where_its_operator_allows_it(text: str, allowed: tuple[str, ...], is_allowed: bool) -> None:
    reference = parse_reference(text)
    assert reference is not None
    assert Sources(Path(), allowed=allowed).allows(reference) is is_allowed


def test_who_names_a_file_allows_that_alone() -> None:
    sources = Sources(Path()).allowing(Reference("a[1].py", "f"))
    assert sources.allows(Reference("a[1].py", "f"))
    assert not sources.allows(Reference("a1.py", "f"))
    assert not sources.allows(Reference("a[1].py", "g"))


def write(folder: Path, **files: str) -> Sources:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return Sources(folder, folder, ALL)


def run(folder: Path, program: str) -> str:
    """Runs a program where nothing else was imported."""
    imports = "from pathlib import Path", "from hpo.study.code import *", "from hpo.study.references import *"
    head = "\n".join([*imports, "here = Sources(Path('.'), Path('.'), ('*',))", ""])
    done = subprocess.run([sys.executable, "-P", "-c", head + program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_file_and_its_neighbours_are_imported_and_hashed(tmp_path: Path) -> None:
    write(tmp_path, main="import helper\nfrom nets import small\nf = small.f\n", helper="")
    (tmp_path / "nets").mkdir()
    write(tmp_path / "nets", small="import numpy\ndef f(): return 3\n")
    said = run(tmp_path, "r = parse_reference('main.py:f')\nprint(load(r, here)(), sorted(code_hashes([r], here)))")
    assert said == "3 ['helper.py', 'main.py', 'nets/small.py']"


@pytest.mark.parametrize("name", ["random", "statistics", "torch", "numpy", "hpo", "test-it", "2nd"])
def test_a_file_may_bear_the_name_of_a_module_that_everybody_needs(tmp_path: Path, name: str) -> None:
    write(tmp_path, **{name: "import random, json\ndef f(): return random.random() < 2\n"})
    said = run(tmp_path, f"r = parse_reference('{name}.py:f')\nprint(load(r, here)(), sorted(code_hashes([r], here)))")
    assert said == f"True ['{name}.py']"


def test_a_neighbour_comes_before_an_installed_package_of_its_name(tmp_path: Path) -> None:
    write(tmp_path, main="import models, tests\nf = models.f\n", models="def f(): return 'mine'\n", tests="")
    assert run(tmp_path, "print(load(parse_reference('main.py:f'), here)())") == "mine"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (broken.py, line 2)"),
        (
            "import nothing_of_this_name",
            "ModuleNotFoundError: No module named 'nothing_of_this_name' (broken.py, line 2)",
        ),
        ("raise SystemExit(3)", "it ends the program (exit code 3) (broken.py, line 2)"),
        ("def f(:", "SyntaxError: invalid syntax (broken.py, line 2)"),
        ("raise BaseException('so there')", "BaseException: so there (broken.py, line 2)"),
    ],
)
def test_what_a_file_raises_when_it_is_imported_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    sources = write(tmp_path, broken=f"\n{text}\n")
    with pytest.raises(StudyError) as raised:
        load(Reference("broken.py", "f"), sources)
    assert str(raised.value) == f"broken.py cannot be imported: {complaint}"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    sources = write(tmp_path, there="def g(): pass\n")
    with pytest.raises(StudyError, match=r"away\.py is not in .*; --code names the folder that has it"):
        load(Reference("away.py", "f"), sources)
    with pytest.raises(StudyError, match=r"there\.py has no 'f'; there are: g"):
        load(Reference("there.py", "f"), sources)


def test_a_link_leads_out_of_no_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    write(outside, secret="def f(): pass\n")
    (inside / "link.py").symlink_to(outside / "secret.py")
    (inside / "folder").symlink_to(outside)
    for place in ("link.py", "folder/secret.py"):
        with pytest.raises(StudyError, match="is a link that leads out of"):
            load(Reference(place, "f"), Sources(inside, inside, ALL))


def test_what_is_not_allowed_is_not_even_looked_for(tmp_path: Path) -> None:
    write(tmp_path, loud=f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for reference in (Reference("loud.py", "f"), Reference("subprocess", "Popen")):
        with pytest.raises(StudyError, match="is code that is not shipped with hpo, and is opened only where"):
            load(reference, Sources(tmp_path, tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_file_that_differs_is_noticed_before_it_is_imported(tmp_path: Path) -> None:
    sources = write(tmp_path, counted="def f(): return 1\n")
    load(Reference("counted.py", "f"), sources)
    known = code_hashes([Reference("counted.py", "f")], sources)
    check_files(known, sources)
    write(tmp_path, counted="def f(): return 2\n")
    with pytest.raises(StudyError, match=r"counted\.py in .* differs from the one that the study was created with"):
        check_files(known, sources)
    (tmp_path / "counted.py").unlink()
    with pytest.raises(StudyError, match=r"counted\.py is not in"):
        check_files(known, sources)
