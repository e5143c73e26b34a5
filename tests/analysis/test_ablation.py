from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage

from hpo.analysis.ablation import (
    BASE,
    WHOLE,
    by_gain,
    define_ablation,
    define_path,
    read_ablation,
)
from hpo.analysis.fresh_rounds import CONFIRMS, define_confirmation, first_fresh
from hpo.analysis.ingredients import Configuration, Ingredient, find_configuration, find_ingredients
from hpo.analysis.ledger import enter_ablation, read_ledger
from hpo.cli.measure.ablation_view import ablation_json, ablation_view
from hpo.errors import RequestError
from hpo.storage.backends import open_storage
from hpo.storage.queries import set_study_attribute
from hpo.storage.studies import read_definition
from hpo.study.definition import StudyDefinition, define_study
from tests.analysis.test_confirmation import add
from tests.conftest import SMALL_STUDY, create, defined
from tests.program import assert_one_line, hpo

COMMON: dict[str, Any] = {"weight_sharing": True, "auxiliary_loss": True}
PLAIN: dict[str, Any] = {
    **COMMON,
    **{"architecture": "cnn_bn", "activation": "elu", "elu_alpha": 0.7, "optimizer": "sgd", "learning_rate": 0.1},
}
RICH: dict[str, Any] = {
    **COMMON,
    **{"architecture": "deep_cnn", "depth": 4, "dropout": 0.3, "activation": "silu"},
    **{"optimizer": "adamw", "learning_rate": 0.01, "rotation": 10.0},
}
CONDITIONS: dict[str, dict[str, Any]] = {
    "elu_alpha": {"activation": "elu"},
    "depth": {"architecture": ("deep_cnn", "fnn")},
    "dropout": {"architecture": ("cnn_bn", "deep_cnn")},
}


def listing(params: dict[str, Any], *, epochs: int = 2) -> StudyDefinition:
    table = {name: SMALL_STUDY[name] for name in ("task", "protocol")}
    training = {"epochs": epochs, "batch_size": 50}
    return defined({**table, "title": "one", "training": training, "trial": [{"label": "it", "params": params}]}, "one")


def configurations(*, epochs: int = 2) -> tuple[Configuration, Configuration]:
    return (
        Configuration("plain", listing(PLAIN, epochs=2), PLAIN),
        Configuration("rich", listing(RICH, epochs=epochs), RICH),
    )


def ingredients(*together: str, epochs: int = 2) -> list[Ingredient]:
    return find_ingredients(*configurations(epochs=epochs), CONDITIONS, together)


def test_what_differs_is_an_ingredient_and_what_hangs_on_it_goes_along() -> None:
    assert [one.names for one in ingredients()] == [
        ("architecture", "depth"),
        ("dropout",),  # both architectures take it
        ("activation", "elu_alpha"),
        ("optimizer",),
        ("learning_rate",),
        ("rotation",),
    ]
    assert ingredients()[0].change == "cnn_bn → deep_cnn depth=4"
    assert ingredients()[1].change == "none → dropout=0.3"


def test_nesterov_goes_with_a_momentum_that_one_side_has_not() -> None:
    """Else it would be put into a base of plain SGD, where it has no effect, and is refused."""
    plain = {name: value for name, value in PLAIN.items() if name != "elu_alpha"} | {"activation": "relu"}
    accelerated = {**plain, "momentum": 0.9, "nesterov": True}
    base, slow, fast = (
        Configuration("of", listing(one), one) for one in (plain, {**accelerated, "momentum": 0.5}, accelerated)
    )
    assert [one.names for one in find_ingredients(base, fast, {})] == [("momentum", "nesterov")]
    assert [one.names for one in find_ingredients(slow, fast, {})] == [("momentum",)]


def test_both_sides_of_a_change_name_parameters_alike() -> None:
    """`e=2 → ensemble=2 epochs=4` would leave open of what there are two."""
    assert Ingredient(("ensemble", "epochs"), {"epochs": 2}, {"ensemble": 2, "epochs": 4}).change == (
        "epochs=2 → ensemble=2 epochs=4"
    )
    assert Ingredient(("depth", "dropout"), {"depth": 2}, {"depth": 2, "dropout": 0.5}).change == (
        "depth=2 → depth=2 dropout=0.5"
    )


def test_what_a_study_says_hangs_on_another_goes_along_too() -> None:
    """Of code the study alone knows."""
    space = {"layers": [1, 2], "second": {"low": 1, "high": 9, "when": {"layers": 2}}, "rate": {"low": 0.1, "high": 1}}
    searched = define_study({"title": "code", "task": {"name": "f.py:f"}, "space": space}, name="code")
    sides = ({"layers": 1, "rate": 0.2}, {"layers": 2, "second": 4, "rate": 0.3})
    base, whole = (Configuration(f"of {side['layers']}", searched, side) for side in sides)
    assert [one.names for one in find_ingredients(base, whole, {})] == [("layers", "second"), ("rate",)]


def test_studies_of_different_tasks_have_no_ingredients(created: RDBStorage, tmp_path: Path) -> None:
    (tmp_path / "code.toml").write_text(
        'title = "code"\ntask = { name = "f.py:f" }\n[[trial]]\nlabel = "it"\nparams = { x = 1 }\n'
    )
    add(created, "small", 0.1, [1.0, 1.0, 1.0])
    small = find_configuration(created, "small")
    with pytest.raises(RequestError) as raised:  # before any of it is imported
        find_configuration(created, str(tmp_path / "code.toml"), like=small)
    said = "study 'code' measures f.py:f, but study 'small' digit_pairs, so they have no ingredients"
    assert str(raised.value) == said


def test_parameters_can_be_put_together() -> None:
    found = ingredients("learning_rate, optimizer", "rotation,dropout")
    assert [one.names for one in found][1:] == [
        ("dropout", "rotation"),
        ("activation", "elu_alpha"),
        ("optimizer", "learning_rate"),
    ]
    with pytest.raises(
        RequestError, match="--together names 'weight_sharing', but what differs is architecture, depth"
    ):
        ingredients("weight_sharing,rotation")


def test_a_flag_that_is_off_is_said_to_be() -> None:
    assert Ingredient(("weight_sharing",), {"weight_sharing": False}, {"weight_sharing": True}).change == "off → +ws"


def test_two_of_the_same_have_no_ingredients() -> None:
    one, _ = configurations()
    with pytest.raises(RequestError, match="studies 'plain' and 'plain' have the same configuration"):
        find_ingredients(one, one, CONDITIONS)


def test_what_the_studies_say_of_training_is_an_ingredient_where_it_differs() -> None:
    assert ingredients(epochs=9)[-1] == Ingredient(("epochs",), {"epochs": 2}, {"epochs": 9})


def test_each_ingredient_is_taken_out_and_put_in_alone() -> None:
    base, whole = configurations(epochs=9)
    name, definition = define_ablation(None, base, whole, ingredients(epochs=9), 8)
    trials = {entry.label: entry.params for entry in definition.trial}
    assert name == "rich-ablation"
    assert (definition.protocol.first_round, definition.protocol.rounds) == (3, 8)
    assert trials[WHOLE] == {**RICH, "epochs": 9}
    assert trials[BASE] == {**PLAIN, "epochs": 2}
    without = {name: value for name, value in RICH.items() if name not in ("depth", "architecture")}
    assert trials["without architecture, depth"] == {**without, "architecture": "cnn_bn", "epochs": 9}
    assert trials["with dropout"] == {**PLAIN, "dropout": 0.3, "epochs": 2}
    assert len(trials) == 2 + 2 * 7


def test_the_way_goes_one_ingredient_at_a_time() -> None:
    base, whole = configurations()
    order = ingredients()
    path = define_path(None, base, whole, order, range(3, 11))
    assert path is not None
    assert [entry.label for entry in path[1].trial] == [
        "step 2: dropout",
        "step 3: activation, elu alpha",
        "step 4: optimizer",
    ]  # the first step and the last two are measured by the ablation
    last = {**path[1].trial[-1].params, "learning_rate": RICH["learning_rate"]}
    assert last in [entry.params for entry in define_ablation(None, base, whole, order, 8)[1].trial]
    assert {**last, "rotation": 10.0} == RICH
    assert define_path(None, base, whole, order[:3], range(3, 11)) is None


def test_a_configuration_is_a_stored_best_or_the_only_one_of_a_file(created: RDBStorage, tmp_path: Path) -> None:
    add(created, "small", 0.2, [3.0, 3.0, 3.0])
    add(created, "small", 0.1, [1.0, 1.0, 1.0])
    assert find_configuration(created, "small").params["learning_rate"] == 0.1
    assert find_configuration(created, "report_a_best").params["architecture"] == "cnn_bn"
    with pytest.raises(RequestError, match="'quickstart' is not in the storage, and does not list a single"):
        find_configuration(created, "quickstart")


def test_a_file_that_was_changed_since_its_study_was_made_is_refused(fresh_storage: RDBStorage, tmp_path: Path) -> None:
    file = tmp_path / "one.toml"
    file.write_text(FILE.replace("EPOCHS", "1") + 'optimizer = "sgd"\n')
    create(fresh_storage, "one", defined(tomllib.loads(file.read_text()), "one"), 1)
    add(fresh_storage, "one", 0.05, [3.0, 3.0])
    assert find_configuration(fresh_storage, str(file)).params["learning_rate"] == 0.05
    file.write_text(file.read_text().replace("0.05", "0.07"))
    with pytest.raises(
        RequestError, match=r"was created with another definition than .*one\.toml has: trial\.0\.params"
    ):
        find_configuration(fresh_storage, str(file))
    assert find_configuration(fresh_storage, "one").params["learning_rate"] == 0.05


def test_every_table_is_tested_for_itself(fresh_storage: RDBStorage) -> None:
    rates = {"learning_rate": 0.1}, {"learning_rate": 0.2}
    fnn = {**COMMON, "architecture": "fnn", "activation": "relu", "optimizer": "sgd"}
    base, whole = (Configuration(f"at {of}", listing({**fnn, **of}), {**fnn, **of}) for of in rates)
    (one,) = find_ingredients(base, whole, CONDITIONS)
    name, definition = define_ablation(fresh_storage, base, whole, [one], 6)
    assert [entry.label for entry in definition.trial] == [WHOLE, BASE]  # which is the whole without it
    create(fresh_storage, name, definition, 2)
    errors = [2.0, 2.1, 2.2, 1.9, 2.3, 2.0]
    add(fresh_storage, name, 0.2, errors, slot=0)
    with pytest.raises(RequestError, match="measured only in part, 1 of 2"):
        read_ablation(fresh_storage, name, [one], None)
    add(fresh_storage, name, 0.1, [error + 1 for error in errors], slot=1)
    found = read_ablation(fresh_storage, name, [one], ("", [one]))
    assert found.without[0].contrast.difference.estimate == pytest.approx(1.0)
    assert found.alone[0].contrast.difference.estimate == pytest.approx(-1.0)  # with all of it, the whole
    assert found.path == found.alone
    assert found.without[0].contrast.p_value == pytest.approx(2 / 64)
    assert define_ablation(fresh_storage, base, whole, [one], 6)[0] == name
    assert define_ablation(fresh_storage, base, whole, [one], 7)[0] == f"{name}-2"


@pytest.mark.parametrize("diverging", [4, 6])
def test_what_diverges_is_said_beside_what_it_changes(fresh_storage: RDBStorage, diverging: int) -> None:
    fnn = {**COMMON, "architecture": "fnn", "activation": "relu", "optimizer": "sgd"}
    base, whole = (
        Configuration(f"at {rate}", listing({**fnn, **of}), {**fnn, **of})
        for rate, of in ((rate, {"learning_rate": rate}) for rate in (0.1, 0.2))
    )
    (one,) = find_ingredients(base, whole, CONDITIONS)
    name, definition = define_ablation(fresh_storage, base, whole, [one], 6)
    create(fresh_storage, name, definition, 2)
    errors = [2.0, 2.1, 2.2, 1.9, 2.3, 2.0]
    out = list(range(diverging))
    add(fresh_storage, name, 0.2, [100.0] * diverging + errors[diverging:], slot=0, diverged_rounds=out)
    add(fresh_storage, name, 0.1, errors, slot=1)
    found = read_ablation(fresh_storage, name, [one], None)
    said = " ".join(str(line) for part in ablation_view(found) for line in (part if isinstance(part, list) else [part]))
    assert f"learning rate: diverged in none of 6 rounds, before in {diverging} (p " in said
    assert f"the whole diverged in {diverging} of 6 rounds (" in said
    (step,) = ablation_json(found)["without"]
    assert (step["difference"], step["diverged"]) == (0.0 if diverging < 6 else None, [diverging, 0])
    assert ablation_json(found)["whole"]["diverged_rounds"] == out


def test_the_way_begins_with_what_alone_gives_most_and_not_with_what_diverges(fresh_storage: RDBStorage) -> None:
    """In the rounds that are left it gives more."""
    fnn = {**COMMON, "architecture": "fnn", "activation": "relu", "optimizer": "sgd", "learning_rate": 0.1}
    after = {**fnn, "learning_rate": 0.5, "momentum": 0.9, "rotation": 5.0}
    base, whole = (Configuration(name, listing(of), of) for name, of in (("plain", fnn), ("rich", after)))
    found = find_ingredients(base, whole, CONDITIONS)
    assert [one.names for one in found] == [("learning_rate",), ("momentum",), ("rotation",)]
    name, definition = define_ablation(fresh_storage, base, whole, found, 6)
    create(fresh_storage, name, definition, 8)
    errors = [2.0, 2.1, 2.2, 1.9, 2.3, 2.0]
    for slot, entry in enumerate(definition.trial):
        less, out = {"with learning rate": (1.0, 5), "with momentum": (-0.3, 0), "with rotation": (0.5, 0)}.get(
            entry.label, (0.0, 0)
        )
        measured = [100.0] * out + [error - less for error in errors[out:]]
        add(fresh_storage, name, 0.1, measured, slot=slot, diverged_rounds=list(range(out)))
    read = read_ablation(fresh_storage, name, found, None)
    assert min(read.alone, key=lambda one: one.contrast.difference.estimate).ingredient.names == ("learning_rate",)
    assert [one.names for one in by_gain(read)] == [("rotation",), ("momentum",), ("learning_rate",)]


FILE = """
title = "one"
task = { name = "digit_pairs", dataset = "digits", train_pairs = 60, test_pairs = 60 }
training = { epochs = EPOCHS, batch_size = 30 }
protocol = { rounds = 2 }
[[trial]]
label = "it"
[trial.params]
architecture = "fnn"
weight_sharing = true
auxiliary_loss = true
activation = "relu"
learning_rate = 0.05
"""


def test_it_is_measured_once_and_then_read(tmp_path: Path) -> None:
    plain = FILE.replace("EPOCHS", "1").replace("test_pairs = 60", "test_pairs = 40")
    (tmp_path / "plain.toml").write_text(f'{plain}optimizer = "sgd"\n')
    (tmp_path / "rich.toml").write_text(
        FILE.replace("EPOCHS", "4") + 'optimizer = "sgd"\nmomentum = 0.9\nrotation = 5\nlabel_smoothing = 0.1\n'
    )
    command = ("ablate", "rich.toml", "--from", "plain.toml", "--rounds", "6", "--workers", "1")
    done = hpo(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rich-ablation-path: 1/1" in done.stderr
    assert "taken out of the whole, each alone:" in done.stdout
    assert "both are measured by the whole's study; the base's own has otherwise: test_pairs" in " ".join(
        done.stdout.split()
    )
    again = hpo(*command, "--json", folder=tmp_path)
    found = json.loads(again.stdout)
    names = [one["ingredient"]["names"] for one in found["without"]]
    assert sorted(names) == [["epochs"], ["label_smoothing"], ["momentum"], ["rotation"]]
    gains = [one["difference"] for one in found["alone"]]
    first = [one["ingredient"]["names"] for one in found["alone"]][gains.index(min(gains))]
    assert found["path"][0]["ingredient"]["names"] == first
    assert found["overruled"] == ["test_pairs"]
    *_, before, last = found["path"]
    assert len(found["path"]) == 4
    assert last["errors"] == found["whole"]["errors"]
    assert before["errors"] == found["without"][names.index(last["ingredient"]["names"])]["errors"]
    refused = hpo("ablate", "rich.toml", "--from", "rich.toml", folder=tmp_path)
    assert_one_line(refused, 2, "studies 'rich' and 'rich' have the same configuration")
    more = hpo(
        *command[:4],
        "--rounds",
        "7",
        "--together",
        "momentum,rotation,label_smoothing,epochs",
        "--json",
        folder=tmp_path,
    )
    assert json.loads(more.stdout)["study"] == "rich-ablation-2"
    there = open_storage(f"sqlite:///{tmp_path}/hpo.db")
    firsts = [read_definition(there, name).protocol.first_round for name in ("rich-ablation", "rich-ablation-2")]
    assert firsts == [2, 8]  # though both studies are files
    assert hpo("optimize", "rich.toml", "--workers", "1", folder=tmp_path).returncode == 0
    assert str(read_ledger(there, "rich")) == (
        "looks at the test: 3 (1 by which the list's configurations are compared, 2 ablations)"
    )
    assert first_fresh(there, "rich") == 15


def test_an_ablation_of_a_stored_study_is_entered_there_as_a_look(created: RDBStorage) -> None:
    add(created, "small", 0.1, [1.0, 1.0, 1.0])
    for _ in range(2):  # begun, and gone on with
        enter_ablation(created, {"small"}, "small-ablation", listing(PLAIN))
    assert str(read_ledger(created, "small")) == "looks at the test: 2 (1 trial while searching, 1 ablation)"


def test_it_is_on_rounds_that_no_confirmation_has_had(created: RDBStorage) -> None:
    add(created, "small", 0.1, [1.0, 1.0, 1.0])
    whole, base = find_configuration(created, "small"), configurations()[0]
    found = find_ingredients(base, whole, CONDITIONS)
    assert define_ablation(created, base, whole, found, 6)[1].protocol.first_round == 3
    name, definition, confirms = define_confirmation(created, "small", top=1, rounds=30)
    create(created, name, definition, 1)
    set_study_attribute(created, name, CONFIRMS, confirms)
    assert define_ablation(created, base, whole, found, 6)[1].protocol.first_round == 33


def test_it_is_found_again_though_there_is_a_confirmation_since(created: RDBStorage) -> None:
    add(created, "small", 0.1, [1.0, 1.0, 1.0])
    whole, base = find_configuration(created, "small"), configurations()[0]
    ingredients = find_ingredients(base, whole, CONDITIONS)
    begun = define_ablation(created, base, whole, ingredients, 6)
    create(created, *begun, len(begun[1].trial))
    name, definition, confirms = define_confirmation(created, "small", top=1, rounds=30)
    create(created, name, definition, 1)
    set_study_attribute(created, name, CONFIRMS, confirms)
    assert define_ablation(created, base, whole, ingredients, 6) == begun
    other, fresh = define_ablation(created, base, whole, ingredients, 7)
    assert (other, fresh.protocol.first_round) == (f"{begun[0]}-2", 33)


def test_it_is_on_rounds_that_chose_neither_configuration() -> None:
    """A base that was chosen on ten rounds is too good on all of them; those of another seed are other rounds."""
    base, whole = configurations()
    for seed, first in ((0, 10), (1, 3)):
        protocol = base.definition.protocol.model_copy(update={"rounds": 10, "seed": seed})
        longer = replace(base, definition=base.definition.model_copy(update={"protocol": protocol}))
        found = find_ingredients(longer, whole, CONDITIONS)
        assert define_ablation(None, longer, whole, found, 6)[1].protocol.first_round == first


FUNCTION = """
def loss(params, seed):
    print("called")
    more = params["second"] if params["layers"] == 2 else 5
    return 10 * params["rate"] + more + seed % 7 / 10
"""
SEARCH = """
title = "code"
task = { name = "f.py:loss", metric = "loss", unit = "" }
protocol = { rounds = 3 }
sampler = { name = "grid" }
[space]
layers = [1, 2]
rate = [0.1, 0.5]
extra = ["a", "b"]
[space.second]
choices = [3, 4]
when = { layers = 2 }
"""
PLAINER = """
title = "plainer"
task = { name = "f.py:loss", metric = "loss", unit = "" }
protocol = { rounds = 3 }
[[trial]]
label = "it"
params = { layers = 1, rate = 0.7, extra = "a" }
"""


def test_a_function_of_ones_own_is_taken_apart(tmp_path: Path) -> None:
    """Stored, or of a file; with a value that the one study does not have, but the other; and found again."""
    (tmp_path / "f.py").write_text(FUNCTION)
    (tmp_path / "code.toml").write_text(SEARCH)
    (tmp_path / "plainer.toml").write_text(PLAINER)
    (tmp_path / "better.toml").write_text(PLAINER.replace("0.7", "0.2").replace("plainer", "better"))
    done = hpo("optimize", "code.toml", "--workers", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    command = ("ablate", "code.toml", "--from", "plainer.toml", "--rounds", "6", "--workers", "1", "--json")
    done = hpo(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["ingredient"]["names"] for one in found["without"]] == [["layers", "second"], ["rate"]]
    assert [one["difference"] for one in found["without"]] == pytest.approx([2.0, 6.0])
    assert [one["difference"] for one in found["path"]] == pytest.approx([-6.0, -2.0])
    listed_once = read_definition(open_storage(f"sqlite:///{tmp_path}/hpo.db"), "code-ablation").trial
    assert len(listed_once) == 4  # what is without the one is with the other
    assert hpo("confirm", "code.toml", "--rounds", "6", "--workers", "1", folder=tmp_path).returncode == 0
    again = hpo(*command, folder=tmp_path)
    assert json.loads(again.stdout) == found
    listed = ("ablate", "better.toml", "--from", "code.toml", "--rounds", "6", "--workers", "1", "--json")
    of_files = hpo(*listed, folder=tmp_path)
    assert json.loads(of_files.stdout)["study"] == "better-ablation", of_files.stderr
    assert json.loads(hpo(*listed, folder=tmp_path).stdout) == json.loads(of_files.stdout)
    (tmp_path / "elsewhere").mkdir()
    for name, text in (("f.py", FUNCTION.replace("10 *", "12 *")), ("plainer.toml", PLAINER)):
        (tmp_path / "elsewhere" / name).write_text(text)
    other = ("ablate", "better.toml", "--from", "elsewhere/plainer.toml", *command[4:])
    assert json.loads(hpo(*other, folder=tmp_path).stdout)["overruled"] == ["f.py"]
    (tmp_path / "f.py").write_text(FUNCTION.replace("10 *", "11 *"))
    refused = hpo(*command, folder=tmp_path)
    said = "study 'code': f.py in {} differs from the one that the study was created with"
    assert_one_line(refused, 2, said.format(tmp_path.resolve()))


def test_networks_on_examples_are_taken_apart(tmp_path: Path) -> None:
    """A file's configuration has the defaults of its network, as a stored one does."""
    table = """
title = "mlp"
task = { name = "classification", network = "mlp", data = "sklearn:load_iris" }
training = { epochs = 2, batch_size = 20 }
protocol = { rounds = 3 }
[[trial]]
label = "it"
[trial.params]
optimizer = "sgd"
learning_rate = 0.1
"""
    (tmp_path / "plain.toml").write_text(table)
    (tmp_path / "wide.toml").write_text(f"{table}hidden = 16\nmomentum = 0.9\n")

    def command(whole: str, base: str) -> list[str]:
        return ["ablate", whole, "--from", base, "--rounds", "6", "--workers", "1"]

    done = hpo(*command("wide.toml", "plain.toml"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "h=64 → h=16" in done.stdout
    searched = table.split("[[trial]]")[0] + '[space]\noptimizer = ["sgd"]\nlearning_rate = [0.1, 0.2]\n'
    (tmp_path / "searched.toml").write_text(searched)  # a search leaves out what has a default, too
    assert hpo("optimize", "searched.toml", "--trials", "2", "--workers", "1", folder=tmp_path).returncode == 0
    done = hpo(*command("searched.toml", "wide.toml"), "--json", folder=tmp_path)
    names = [one["ingredient"]["names"] for one in json.loads(done.stdout)["without"]]
    assert [name for name in names if name != ["learning_rate"]] == [["hidden"], ["momentum"]]
    (tmp_path / "other.toml").write_text(table.replace('"mlp", d', '"convnet", d'))
    done = hpo("ablate", "wide.toml", "--from", "other.toml", folder=tmp_path)
    said = "study 'other' measures classification convnet, but study 'wide' classification mlp"
    assert_one_line(done, 2, f"{said}, so they have no ingredients")


def test_one_that_is_measured_is_found_again_though_its_study_was_confirmed_since(created: RDBStorage) -> None:
    add(created, "small", 0.1, [1.0, 1.0, 1.0])
    whole, base = find_configuration(created, "small"), configurations()[0]
    found = find_ingredients(base, whole, CONDITIONS)
    name, definition = define_ablation(created, base, whole, found, 6)
    create(created, name, definition, len(definition.trial))
    enter_ablation(created, {"small"}, name, definition)
    _, confirmation, _ = define_confirmation(created, "small", top=1, rounds=30)
    assert confirmation.protocol.first_round == 9  # after the ablation's
    assert define_ablation(created, base, whole, found, 6) == (name, definition)
    again, more = define_ablation(created, base, whole, found, 8)
    assert (again, more.protocol.first_round) == ("small-ablation-2", 9)


OWN = """
[task]
name = "own.py:objective"
[protocol]
rounds = 3
[[trial]]
label = "it"
"""


def test_a_function_of_ones_own_is_taken_apart_too(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def objective(params, seed):\n    return params['a'] + params['b'] + seed % 7 / 10\n"
    )
    for name, params in (("plain", "{ a = 2, b = 2 }"), ("rich", "{ a = 1, b = 0 }")):
        (tmp_path / f"{name}.toml").write_text(f'title = "{name}"{OWN}params = {params}\n')
    command = ("ablate", "rich.toml", "--from", "plain.toml", "--rounds", "6", "--workers", "1", "--json")
    done = hpo(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(one["ingredient"]["names"], one["difference"]) for one in found["path"]] == [
        (["b"], pytest.approx(-2.0)),
        (["a"], pytest.approx(-1.0)),
    ]
    assert hpo(*command, folder=tmp_path).stdout == done.stdout  # it only reads
