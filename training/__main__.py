"""``python -m training``: the job that makes and judges versions. Reads the environment; everything else is handed on."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from baton.artifacts.storage import Storage
from baton.config.file import DEFAULT_FILE, load_config, override
from baton.config.model_settings import ModelSettings
from baton.errors import BatonError, Conflict, DataError, RegistryError, TrainingFailed
from baton.store.records import RunState
from baton.store.registry import Registry
from training.fit.log import know, may_quote, set_up, speaks_json
from training.fit.priority import yield_to_serving

logger = logging.getLogger("baton")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Make and judge model versions. Jobs of a Ray cluster.")

HEARTBEAT_SECONDS = 5.0

PATIENCE_SECONDS = 600.0
"""How long a run waits for a database that is down; a match, which somebody waits for, does not."""


@app.command()
def run(
    target: Annotated[str, typer.Argument(help="A queued run's id, or with -c the name of a model to start a run for.")],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help=f"The configuration, {DEFAULT_FILE} for instance.")
    ] = None,
    assign: Annotated[list[str] | None, typer.Option("--set", help="Override, e.g. training.epochs=5 (with -c).")] = None,
) -> None:
    """Carry out one run, from data to a stored decision.

    As a job of the service: `run RUN_ID` with BATON_DATABASE and BATON_STORAGE in the environment.
    By hand: `run intents -c baton.yaml --set training.epochs=5`.
    """
    if config is None:
        registry, storage, database = _from_environment(PATIENCE_SECONDS)
        run_id = registry.runs.start(target).id
    else:
        loaded = load_config(config, os.environ)
        settings = override(loaded.model(target), assign or [])
        registry, storage, database = Registry(loaded.database), Storage(loaded.storage, patient=True), loaded.database
        registry.migrate()
        registry.declare_model(target, loaded.model(target).model_dump(mode="json"))
        run_id = registry.runs.create(target, settings.model_dump(mode="json"), started=True).id
    with _recorded(registry, run_id, quietly=config is None and not may_quote()):
        import ray

        from training import pipeline

        storage.check_writable()
        ray.init(log_to_driver=False, **_ray_logging())
        know(run_id=run_id, model=registry.runs.get(run_id).model)
        yield_to_serving(ModelSettings.model_validate(registry.runs.get(run_id).spec).training)
        decision = pipeline.run(run_id, registry, storage, database=database)
    _tell(decision.sentence)


@app.command()
def judge(model: str, version: int) -> None:
    """Play the match of a version against today's champion and store the decision."""
    from training import pipeline

    registry, storage, _ = _from_environment(0.0)
    know(model=model, version=version)
    yield_to_serving(ModelSettings.model_validate(registry.settings(model)).training)
    _tell(pipeline.judge(model, version, registry, storage).sentence)


def main() -> None:
    """Entry point: errors for people on one line, exit status 1."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    set_up()
    try:
        app()
    except BatonError as error:
        if speaks_json():
            logger.error(str(error))
        else:
            typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except Exception:
        logger.exception("the job failed")
        sys.exit(1)


def _tell(sentence: str) -> None:
    if speaks_json():
        logger.info(sentence)
    else:
        typer.echo(sentence)


def _ray_logging() -> dict[str, Any]:
    """How Ray is to log in this process and in those of its workers."""
    import ray

    if not speaks_json():
        return {"logging_level": logging.WARNING}
    logging.getLogger().handlers.clear()  # Ray brings its own, with the same keys
    return {
        "logging_config": ray.LoggingConfig(encoding="JSON", log_level="INFO", additional_log_standard_attrs=["name"]),
    }


def _from_environment(wait_s: float) -> tuple[Registry, Storage, str]:
    missing = [name for name in ("BATON_DATABASE", "BATON_STORAGE") if name not in os.environ]
    if missing:
        raise typer.BadParameter(f"set {' and '.join(missing)}, or name a file with -c")
    database = os.environ["BATON_DATABASE"]
    registry = Registry(database, wait_s=wait_s)
    registry.check()
    return registry, Storage(os.environ["BATON_STORAGE"], patient=wait_s > 0), database


@contextmanager
def _recorded(registry: Registry, run_id: str, *, quietly: bool) -> Iterator[None]:
    """Keep a started run's record alive, and end it with the reason whatever happens short of a SIGKILL. ``quietly``: a reason
    that may quote the data stands in the record only, and not in the job's log.
    """
    done = threading.Event()
    threading.Thread(target=_beat, args=(registry, run_id, done), daemon=True).start()
    try:
        yield
    except BaseException as error:
        cancelled = isinstance(error, KeyboardInterrupt)
        reason = (
            "cancelled" if cancelled else str(error) if isinstance(error, BatonError) else f"{type(error).__name__}: {error}"
        )
        with suppress(Conflict, RegistryError):  # ended by somebody else, or nobody to tell: the heartbeat stops anyway
            registry.runs.finish(run_id, RunState.CANCELLED if cancelled else RunState.FAILED, reason=reason)
        if quietly and isinstance(error, DataError):
            raise TrainingFailed(f"the data cannot be used; the record of run {run_id} says why") from None
        raise
    finally:
        done.set()


def _beat(registry: Registry, run_id: str, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        try:
            registry.runs.beat(run_id)
        except Conflict:  # cancelled or given up by the service: stop working
            os.kill(os.getpid(), signal.SIGINT)
            return
        except RegistryError:
            continue  # a lost database does not end a run


if __name__ == "__main__":
    main()
