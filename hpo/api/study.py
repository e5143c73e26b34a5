"""A study in Python: asked for, searched, confirmed, compared and reported as by the command line, in one storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from hpo import limits
from hpo.analysis.confirmation import Confirmation, read_confirmation
from hpo.analysis.fresh_rounds import define_confirmation
from hpo.analysis.ledger import enter
from hpo.analysis.until_sure import Series, next_batch, read_series
from hpo.api.arguments import check_given, check_of_function, in_python, overrides_of, table_of, whole
from hpo.api.progress import NowAndThen, Progress
from hpo.api.results import Results
from hpo.api.session import hash_of, in_session, name_of, reference_of
from hpo.cli.arguments import StudyName
from hpo.errors import RequestError, WorkError
from hpo.storage.backends import open_storage
from hpo.storage.studies import derived_card, read_card, read_definition
from hpo.storage.url import find_url
from hpo.study.definition import StudyDefinition, define_study
from hpo.study.overrides import override
from hpo.study.references import SESSION, Sources
from hpo.tasks.datasets import data_folder
from hpo.text.output import say
from hpo.workers.alone import Alone
from hpo.workers.devices import assign_devices, trials_at_once
from hpo.workers.launch import begin, run_study
from hpo.workers.messages import Check
from hpo.workers.plan import Plan, Wanted, check_same, find_defined, find_study, make_plan
from hpo.workers.process import end_if_imported
from hpo.workers.supervisor import Supervisor


class Study(Results):
    """A study: a function of yours, or one that has a name or a file.

    Nothing is created before it is optimized; made again with the same name, it goes on.

    >>> import hpo
    >>> def error(params, seed):
    ...     return (params["x"] - 0.3) ** 2 + 0.001 * (seed % 10)
    >>> study = hpo.Study(error, space={"x": {"low": 0.0, "high": 1.0}}, rounds=5)
    >>> study.optimize(trials=20, progress=False).best().params["x"] < 0.7
    True
    >>> len(study.trials())
    20

    Args:
        study: a function `(params, seed) -> number`; a study's name or its TOML file; or what such a file says, as a
            dictionary.
        space: of a function, parameter -> its values (a list), its range (`{"low": 1, "high": 9, "log": True}`), or its
            one value.
        configurations: of a function, in place of a space: label -> its parameters, each to be measured once.
        name: the study's in the storage; that of the function or of the file unless given.
        storage: a database URL; unless given `$HPO_STORAGE`, or what `$HPO_STORAGE_FILE` holds, else `sqlite:///hpo.db`.
        rounds, seed: of the protocol: every trial is a mean over so many rounds.
        sampler, pruner: a name, or a dictionary with a name and settings.
        metric, unit, direction: of a function's number; direction is `minimize` or `maximize`.
        settings: others of the study's file, by keys with points, as `{"run.max_failed_trials": 3}`.
        data, code: the folders of datasets, and of files that the study names.
        allow: patterns of code that the storage may ask for, as `forest.py:*`.
        device: `auto`, `cpu`, `cuda`, `cuda:0` …

    Raises:
        hpo.errors.RequestError: where there is no such study, or something of it breaks a rule.
    """

    @in_python
    def __init__(
        self,
        study: str | Path | Mapping[str, Any] | Callable[..., Any],
        *,
        space: Mapping[str, Any] | None = None,
        configurations: Mapping[str, Mapping[str, Any]] | None = None,
        name: str | None = None,
        storage: str | None = None,
        rounds: int | None = None,
        seed: int | None = None,
        sampler: str | Mapping[str, Any] | None = None,
        pruner: str | Mapping[str, Any] | None = None,
        metric: str | None = None,
        unit: str | None = None,
        direction: str | None = None,
        settings: Mapping[str, Any] | None = None,
        data: str | Path | None = None,
        code: str | Path | None = None,
        allow: Sequence[str] = (),
        device: str = "auto",
    ) -> None:
        check_given(study, space, configurations, settings, name)
        check_of_function(metric, unit, direction)
        assign_devices("1", device)
        self.storage, self._device = find_url(storage), device
        self._function = study if callable(study) else None
        self._file = ""
        self._overrides = overrides_of(rounds, seed, sampler, pruner, settings or {})
        of_function = {"space": space, "configurations": configurations, "metric": metric, "unit": unit}
        of_function |= {"direction": direction}
        given = [key for key, value in of_function.items() if value is not None]
        if self._function is None and given:
            raise RequestError(f"{given[0]} is of a function; the study's file says its own")
        self._definition: StudyDefinition | None = None
        sources = Sources.given(data_folder(Path(data) if data else None), Path(code or ""), allow)
        if self._function is not None:
            reference = reference_of(self._function)
            self.name = name or reference.name
            table = table_of(reference, space, configurations, {"metric": metric, "unit": unit, "direction": direction})
            self._define({"title": self.name, **table})
            self._sources = sources.allowing(reference)
        elif isinstance(study, Mapping):
            self.name = name or str(study.get("title", "study"))
            self._define(study)
            self._sources = sources.allowing_file(sources.code, self.definition.references, self.definition.network)
        else:
            self._file, self._given_name = StudyName().convert(str(study), None, None), name
            wanted = self._wanted(0)
            self.name = wanted.name
            self._sources = wanted.sources(sources, Path(code) if code else None)

    def __repr__(self) -> str:
        return f"hpo.Study({self.name!r})"

    @property
    def definition(self) -> StudyDefinition:
        """What the study is, as its storage has it, or as it was defined here."""
        return self._definition or self._wanted(0).definition

    @in_python
    def optimize(
        self, trials: int | None = None, *, workers: int | str = 1, lower_target: bool = False, progress: bool = True
    ) -> Study:
        """Brings the study to `trials` finished trials, over all workers and restarts; returns the study.

        Args:
            trials: of a list, all of it unless given; of a study that was begun, as many as were asked for before.
            workers: 1 works in this process. More are processes of their own, or `auto` for one on each core or GPU;
                they import the function, so it has to be in a module.
            lower_target: whether `trials` counts for other workers too, though more were asked for earlier.
            progress: whether to show how far it is.

        With one worker `run.trial_timeout_seconds` does not hold, which is said: nothing could end a trial but this
        process.

        Raises:
            hpo.errors.HpoError: where it cannot be measured, or the work failed.
        """
        if trials is not None:
            trials = whole("trials", trials, 1, limits.TRIALS)
        wanted = self._wanted(trials)
        devices = self._devices(workers)
        with self._supervised(devices[: wanted.asked], wanted.preload) as (supervisor, show):
            checked = None
            if wanted.must_be_checked:
                order = Check(wanted.name, wanted.definition, devices[0], self._sources)
                checked = supervisor.check_study(order, lambda doing: None)
                checked = replace(checked, card={**checked.card, "code": {**checked.card["code"], **self._session()}})
            plan = make_plan(self.storage, wanted, checked, lower=lower_target)
            opened = begin(self.storage, plan, self._sources)
            self._run(opened, plan, (devices, trials_at_once(str(workers))), supervisor, show, progress=progress)
        return self

    @in_python
    def confirm(self, top: int = 3, rounds: int = 30, *, workers: int | str = 1, progress: bool = True) -> Confirmation:
        """Measures the best again, on rounds that the study never used, which say by how much it looks too good.

        Args:
            top: so many of the best configurations.

        Raises:
            hpo.errors.HpoError: where there is nothing to confirm, or the work failed.
        """
        top = whole("top", top, 1, limits.TOP)
        rounds = whole("rounds", rounds, limits.FEWEST_FRESH_ROUNDS, limits.ROUNDS)
        read = open_storage(self.storage)
        self._refuse_other_function(read)
        batch = define_confirmation(read, self.name, top=top, rounds=rounds)
        self._measure(read, batch, workers, progress=progress)
        found = read_confirmation(read, batch[0])
        if found is None:
            raise WorkError(f"study {batch[0]!r} is not finished")
        return found

    @in_python
    def confirm_until_sure(
        self,
        top: int = 3,
        margin: float | None = None,
        most_rounds: int = 100,
        *,
        workers: int | str = 1,
        progress: bool = True,
    ) -> Series:
        """Measures those of the best that are close on more and more fresh rounds, until one is surely the best.

        Args:
            margin: a difference that does not matter: it ends when all that are left differ by no more.
            most_rounds: after which it ends in any case.
        """
        top = whole("top", top, 1, limits.TOP)
        most = whole("most_rounds", most_rounds, limits.FEWEST_FRESH_ROUNDS, limits.ROUNDS)
        read = open_storage(self.storage)
        self._refuse_other_function(read)
        while batch := next_batch(read, self.name, top=top, margin=margin, most=most):
            self._measure(read, batch, workers, progress=progress)
        found = read_series(read, self.name, top=top, margin=margin, most=most)
        if found is None:
            raise WorkError(f"study {self.name!r} has no confirmation that is finished")
        return found

    def _measure(
        self,
        read: RDBStorage,
        batch: tuple[str, StudyDefinition, dict[str, Any]],
        workers: int | str,
        *,
        progress: bool,
    ) -> None:
        """Measures a confirmation that was defined."""
        name, definition, confirms = batch
        plan = Plan(name, definition, len(definition.trial), card=derived_card(read, self.name, is_test=True))
        devices = self._devices(workers)
        with self._supervised(devices) as (supervisor, show):
            opened = begin(self.storage, plan, self._sources)
            enter(opened, self.name, name, definition, confirms)
            self._run(opened, plan, (devices, trials_at_once(str(workers))), supervisor, show, progress=progress)

    def _define(self, table: Mapping[str, Any]) -> None:
        self._definition = define_study(override(table, self._overrides), name=self.name)
        self._wanted(0)  # refuses a bad name, a storage that cannot be read, and another study of this name

    def _wanted(self, trials: int | None) -> Wanted:
        if self._definition is not None:
            return find_defined(self.storage, self.name, self._definition, trials=trials)
        how: dict[str, Any] = {"overrides": self._overrides, "name": self._given_name}
        return find_study(self.storage, self._file, trials=trials, **how)

    def _session(self) -> dict[str, str]:
        """Returns the hash of a function that no file has, by its name."""
        reference = self._function and reference_of(self._function)
        return {str(reference): hash_of(self._function)} if self._is_of_session and self._function else {}

    def _refuse_other_function(self, storage: RDBStorage) -> None:
        """Makes sure that a study was searched with the function of this one, where no file has it."""
        if code := self._session():
            card = read_card(storage, self.name)
            same = card.model_copy(update={"code": {**card.code, **code}})
            check_same(storage, self.name, read_definition(storage, self.name), same)

    @property
    def _is_of_session(self) -> bool:
        return self._function is not None and reference_of(self._function).place == SESSION

    def _devices(self, workers: int | str) -> list[str]:
        devices = assign_devices(str(workers), self._device)
        if len(devices) > 1 and self._is_of_session:
            raise RequestError(
                f"{len(devices)} workers are processes of their own, which cannot import "
                f"{name_of(self._function)}: put it into a module, or take workers=1"
            )
        return devices

    @contextmanager
    def _supervised(self, devices: list[str], preload: str = "") -> Iterator[tuple[Supervisor, NowAndThen]]:
        end_if_imported()
        show = NowAndThen()
        supervisor = Alone(devices, heard=show) if len(devices) == 1 else Supervisor(devices, preload)
        with in_session(self._function), supervisor:
            yield supervisor, show

    def _run(
        self,
        opened: RDBStorage,
        plan: Plan,
        where: tuple[list[str], int | None],
        supervisor: Supervisor,
        show: NowAndThen,
        *,
        progress: bool,
    ) -> None:
        if isinstance(supervisor, Alone) and plan.definition.run.trial_timeout_seconds:
            say(f"study {plan.name!r}: run.trial_timeout_seconds does not hold in this process", err=True)
        with Progress(plan, shown=progress) as shown:
            show.show = lambda: shown.read(opened, plan.name)
            (devices, at_once), sources = where, self._sources
            run_study(
                *(opened, plan),
                devices=devices,
                at_once=at_once,
                sources=sources,
                show=shown.show,
                supervisor=supervisor,
            )
