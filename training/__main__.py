"""``python -m training``: the job that makes and evaluates versions.

Reads the environment and passes everything on as parameters.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from pydantic_core import from_json

from baton import logs
from baton.artifacts.storage import Storage
from baton.config.file import DEFAULT_FILE, load_config, override
from baton.config.model_settings import ModelSettings
from baton.errors import BatonError, Conflict, DataError, RegistryError, TrainingFailed
from baton.store.records import RunState
from baton.store.registry import Registry
from baton.tasks import task_type
from training.fit.log import logs_json, may_log_texts, set_facts, set_up
from training.fit.priority import yield_to_serving

logger = logging.getLogger("baton")

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make and evaluate versions of a model, as a job on a Ray cluster."
)

HEARTBEAT_SECONDS = 5.0
"""How often a run records in the registry that it is alive."""

GRACE_SECONDS = 20.0
"""How long the work of a run that was cancelled may go on before its process is killed: it would keep its CPUs from others."""

DATABASE_WAIT_SECONDS = 600.0
"""How long a run waits for a database that is down. `judge` does not wait: a user is waiting for its answer."""


@app.command()
def run(
    target: Annotated[str, typer.Argument(help="The id of a queued run. With -c: the name of the model to train.")],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help=f"Path of the configuration file, for example {DEFAULT_FILE}.")
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="With -c: override a setting of the model, for example training.epochs=5.")
    ] = None,
) -> None:
    """Carry out one run: train a version or register one from elsewhere, up to a stored decision.

    As a job of the service: `run RUN_ID` with BATON_DATABASE and BATON_STORAGE in the environment.
    By hand: `run intents -c baton.yaml --set training.epochs=5`.
    """
    if config is None:
        registry, storage, database = _from_environment(DATABASE_WAIT_SECONDS)
        run_id = registry.runs.start(target).id
    else:
        loaded = load_config(config, os.environ)
        settings = override(loaded.model(target), assign or [])
        registry, storage, database = Registry(loaded.database), Storage(loaded.storage, patient=True), loaded.database
        registry.migrate()
        if target not in registry.declared():  # only the service changes what is declared: it has the data and gate that judge
            registry.declare_model(target, loaded.model(target).model_dump(mode="json"))
        run_id = registry.runs.create(target, settings.model_dump(mode="json"), started=True).id
    with _record_end(registry, run_id, conceal_data_errors=config is None and not may_log_texts()):
        storage.check_writable()
        record = registry.runs.get(run_id)
        yield_to_serving(ModelSettings.model_validate(record.spec).training)
        if record.source is not None:
            from training import registration

            set_facts(run_id=run_id, model=record.model)
            told = registration.register(run_id, registry, storage)
        else:
            import ray

            from training import pipeline

            ray.init(log_to_driver=False, **_ray_logging())
            set_facts(run_id=run_id, model=record.model)
            told = pipeline.run(run_id, registry, storage, database=database).sentence
    _print_or_log(told)


@app.command()
def judge(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[int, typer.Argument(help="Number of the published version to compare with the champion.")],
    settings: Annotated[
        str | None, typer.Option(help="Settings of the model as JSON, with the gate's policy; by default as last declared.")
    ] = None,
    overtaken: Annotated[
        bool, typer.Option("--overtaken", help="The version won, but another one took over first: replace its run's decision.")
    ] = False,
) -> None:
    """Compare a published version with the current champion on the newest holdout, and store the decision.

    Reads BATON_DATABASE and BATON_STORAGE from the environment.
    """
    from training import matches

    registry, storage, loaded = _begin(model, version, settings)
    _print_or_log(matches.judge(loaded, version, registry, storage, overtaken=overtaken).sentence)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[int, typer.Argument(help="Number of the published version to evaluate.")],
    settings: Annotated[
        str | None, typer.Option(help="Settings of the model as JSON, with its data; by default as last declared.")
    ] = None,
) -> None:
    """Evaluate a published version on the newest holdout, unless it is stored already. Nothing is decided.

    Reads BATON_DATABASE and BATON_STORAGE from the environment.
    """
    from training import matches

    registry, storage, loaded = _begin(model, version, settings)
    found = matches.evaluate_newest(loaded, version, registry, storage)
    _print_or_log(f"v{version} of {model} has F1 {found.metrics[task_type(loaded.task).metric]:.4f} on the newest holdout")


@app.command()
def data(
    settings: Annotated[str, typer.Argument(help="Settings of a model as JSON, with its data.")],
    guess: Annotated[bool, typer.Option("--guess", help="Find out the task from the rows.")] = False,
    suspects: Annotated[Path | None, typer.Option(help="Write rows that are probably mislabelled to this file.")] = None,
    storage: Annotated[str | None, typer.Option(help="URL of the storage that keeps them for the console's review.")] = None,
) -> None:
    """Look at the data files of a model, and print the report as JSON."""
    from training import looking

    loaded, kept = ModelSettings.model_validate_json(settings), None if storage is None else Storage(storage)
    typer.echo(looking.look(loaded, guess=guess, suspects_file=suspects, storage=kept))


def main() -> None:
    """Run the command line. Report an error that a user can fix on one line, and exit with status 1."""
    for number in (signal.SIGTERM, signal.SIGINT):  # SIGINT is ignored in what a script started in the background
        signal.signal(number, signal.default_int_handler)
    set_up()
    try:
        app()
    except BatonError as error:
        if logs_json():
            logger.error(str(error))
        else:
            typer.echo(_line(f"error: {error}", sys.stderr), err=True)
        sys.exit(1)
    except Exception:
        logger.exception("the training job failed with an unexpected error")
        sys.exit(1)


def _begin(model: str, version: int, settings: str | None) -> tuple[Registry, Storage, ModelSettings]:
    """Return what a job on one version works with: the registry, the storage, and the model's settings."""
    registry, storage, _ = _from_environment(0.0)
    set_facts(model=model, version=version)
    loaded = ModelSettings.model_validate(registry.settings(model) if settings is None else from_json(settings))
    yield_to_serving(loaded.training)
    return registry, storage, loaded


def _print_or_log(sentence: str) -> None:
    if logs_json():
        logger.info(sentence)
    else:
        typer.echo(_line(sentence, sys.stdout))


def _line(text: str, output: TextIO) -> str:
    """Return ``text`` as it is for a terminal, and with the time for a log."""
    return text if output.isatty() else logs.stamped(text)


def _ray_logging() -> dict[str, Any]:
    """Return the arguments of `ray.init` for logging in this process and its workers."""
    import ray

    if not logs_json():
        return {"logging_level": logging.WARNING}
    logging.getLogger().handlers.clear()  # Ray adds its own handler, which writes the same keys
    return {
        "logging_config": ray.LoggingConfig(encoding="JSON", log_level="INFO", additional_log_standard_attrs=["name"]),
    }


def _from_environment(wait_s: float) -> tuple[Registry, Storage, str]:
    missing = [name for name in ("BATON_DATABASE", "BATON_STORAGE") if name not in os.environ]
    if missing:
        raise typer.BadParameter(
            f"{' and '.join(missing)}: not set in the environment; set both (`run` can read a configuration with -c instead)"
        )
    database = os.environ["BATON_DATABASE"]
    registry = Registry(database, wait_s=wait_s)
    registry.check()
    return registry, Storage(os.environ["BATON_STORAGE"], patient=wait_s > 0), database


@contextmanager
def _record_end(registry: Registry, run_id: str, *, conceal_data_errors: bool) -> Iterator[None]:
    """Send heartbeats of a started run, and record the reason if it fails or is cancelled (but not if it is killed by SIGKILL).

    With ``conceal_data_errors``, the reason of a `DataError` is in the run's record only: it may quote the data, and the job's
    log must not.
    """
    done = threading.Event()
    threading.Thread(target=_send_heartbeats, args=(registry, run_id, done), daemon=True).start()
    try:
        yield
    except BaseException as error:
        state, reason = _end_of(error)
        # Conflict: the run has ended already. RegistryError: no database; without heartbeats, the service ends the run.
        with suppress(Conflict, RegistryError):
            registry.runs.finish(run_id, state, reason=reason)
        if conceal_data_errors and isinstance(error, DataError):
            raise TrainingFailed(f"the data cannot be used; see the reason in the record of run {run_id}") from None
        raise
    finally:
        done.set()


def _end_of(error: BaseException) -> tuple[RunState, str]:
    """Return the final state of a run that ``error`` ended, and the reason for users."""
    if isinstance(error, KeyboardInterrupt):
        return RunState.CANCELLED, "cancelled"
    return RunState.FAILED, str(error) if isinstance(error, BatonError) else f"{type(error).__name__}: {error}"


def _send_heartbeats(registry: Registry, run_id: str, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        with suppress(RegistryError):  # a run outlives an outage of the database
            if _was_ended(registry, run_id):
                os.kill(os.getpid(), signal.SIGINT)
                if not done.wait(GRACE_SECONDS):
                    os.kill(os.getpid(), signal.SIGKILL)  # the main thread hangs, or is in a library that ignores the signal
                return


def _was_ended(registry: Registry, run_id: str) -> bool:
    """Send a heartbeat, and return whether the run was cancelled, or ended by the service: its process must stop working."""
    try:
        registry.runs.beat(run_id)
    except Conflict:
        return registry.runs.get(run_id).state is not RunState.SUCCEEDED  # of one that succeeded, the process cleans up
    return False


if __name__ == "__main__":
    main()
