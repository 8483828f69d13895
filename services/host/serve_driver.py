"""Makes this process a driver of a Ray cluster, and deploys or removes Baton's Serve applications there.

Works the same for Baton's own cluster and for one that someone else runs. Functions import Ray themselves: that is slow, and
most commands do not need it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from baton import logs
from baton.config.file import BatonConfig
from baton.errors import NotReady
from baton.wording import counted
from services.host.render import Application, applications
from services.names import CONTROL, application

Report = Callable[[str], None]
"""Receives one line of progress, or one of `startup_warnings`, for the terminal or the log."""

REDEPLOY_SECONDS = 300.0
"""Maximum time in which replaced and added replicas must start: replicas are replaced one after another."""

POLL_SECONDS = 0.2
"""Pause between two looks at applications that start."""

FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
"""States of Serve's applications whose replicas failed, while they were started or later. One that is deployed with other
arguments leaves them at once; one that only gets more replicas does not.
"""


def join(config: BatonConfig, address: str) -> None:
    """Make this process a driver of the cluster at ``address``, with Serve listening where ``config`` says.

    Raises:
        NotReady: no cluster answers there, or Serve does not start.
    """
    import ray
    from ray import serve

    from services.app import serve_logging

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, namespace="serve")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise NotReady(f"no Ray cluster answers at {address!r}: {_lines(error)[0]}") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    options = {"host": config.http.host, "port": config.http.port}
    start = partial(serve.start, http_options=options, logging_config=serve_logging(config.logging))
    try:
        with suppress(TimeoutError):  # a proxy loads its libraries for longer than Serve waits, whose controller goes on
            start()
        start()  # joins a controller that is there
    except (ray.exceptions.RayError, TimeoutError, RuntimeError) as error:
        lines = _lines(error)
        details = f"\n\n{error}" if len(lines) > 1 else ""  # the reason is the last line, often below a traceback
        raise NotReady(f"Ray Serve did not start: {lines[-1]}{details}") from error
    if config.logging.format == "json":
        logs.reformat("ray", "ray.serve")


def leave() -> None:
    """Stop being a driver; the applications keep running. A driver whose cluster is stopped would hang for a minute."""
    import ray

    ray.shutdown()


def deploy(config: BatonConfig, report: Report, store_urls: Mapping[str, str]) -> None:
    """Run all applications of ``config`` on the cluster that this process has joined.

    ``store_urls``: values for the keys of `services.environment.STORE_VARIABLES` that the applications get as arguments. Leave
    out those that are set in the environment of the cluster's nodes.

    Raises:
        NotReady: Serve could not start an application.
    """
    report(f"starting {counted(len(config.models), 'model')}: {', '.join(settings.name for settings in config.models)}")
    _run(applications(config), report, store_urls, wait=True)


def redeploy_models(config: BatonConfig, running: BatonConfig, report: Report, store_urls: Mapping[str, str]) -> None:
    """Run the models of ``config`` instead of those of ``running`` on the cluster that this process has joined.

    The rest of both is the same. Applications that do not change are left alone, and so are replicas of changed ones that need
    not be replaced. Models that ``config`` does not declare still run. ``store_urls`` as in `deploy`.

    One that does not change and does not run holds nothing up: it is reported.

    Raises:
        NotReady: the replicas of a model that changes did not start. Then all models are again as in ``running``.
    """
    before, after = applications(running), applications(config)[1:]
    changed = {model.name: spec not in before for model, spec in zip(config.models, after, strict=True)}
    _report_failed([name for name, differs in changed.items() if not differs], report)
    try:
        _run(after, report, store_urls, wait=False)
        _wait_until_running([name for name, differs in changed.items() if differs], report)
    except NotReady as error:
        report("putting back what was")
        _run(applications(running)[1:], report, store_urls, wait=False)
        remove_undeclared(running)
        raise NotReady(f"nothing was applied: {error}") from error


def redeploy_control(config: BatonConfig, report: Report, store_urls: Mapping[str, str]) -> None:
    """Let the control plane use the models of ``config``, which it takes up without a restart. Raises ``NotReady``."""
    _run(applications(config)[:1], report, store_urls, wait=True)


def remove_undeclared(config: BatonConfig) -> None:
    """Remove the applications of all models that ``config`` does not declare. They still answer what they were asked before."""
    from ray import serve

    declared = {application(settings.name) for settings in config.models}
    for name in serve.status().applications:
        if name.startswith(application("")) and name not in declared:
            serve.delete(name, _blocking=False)


def withdraw() -> None:
    """Remove all of Baton's applications from the cluster that this process has joined."""
    from ray import serve

    names = [name for name in serve.status().applications if name == CONTROL or name.startswith(application(""))]
    for name in names:
        serve.delete(name, _blocking=False)
    for name in names:  # each drains for half a minute: wait for all at once, not for one after the other
        serve.delete(name, _blocking=True)


def _run(specs: Sequence[Application], report: Report, store_urls: Mapping[str, str], *, wait: bool) -> None:
    """Deploy applications; with ``wait``, return when they run. Raises ``NotReady`` if Serve cannot start one."""
    from ray.serve.api import RunTarget, run_many

    from services import app

    targets = [
        RunTarget(app.build(spec.import_path, {**spec.args, **store_urls}), name=spec.name, route_prefix=spec.route)
        for spec in specs
    ]
    try:
        run_many(targets, wait_for_applications_running=wait)
    except TimeoutError as error:
        if not str(error).startswith("Proxies"):
            raise NotReady(f"Ray Serve could not start the applications: {error}") from error
        report("the applications run; a proxy is not ready yet")  # perhaps of another node, which `up` does not wait for
    except RuntimeError as error:
        why = _deployment_errors([spec.name for spec in specs]) or error
        raise NotReady(f"Ray Serve could not start the applications: {why}") from error


def _report_failed(models: Sequence[str], report: Report) -> None:
    """Report which of these models, whose replicas will stay as they are, do not run."""
    for name, state in _states(models).items():
        if state in FAILED:
            report(f"{name} is {state}, which this does not change: {_deployment_errors([application(name)])}")


def _wait_until_running(models: Sequence[str], report: Report) -> None:
    """Wait until models run as they were deployed last. Raises ``NotReady`` if one fails, or after `REDEPLOY_SECONDS`."""
    deadline = time.monotonic() + REDEPLOY_SECONDS
    now, said = "", ""
    while time.monotonic() < deadline:
        waiting = {name: state for name, state in _states(models).items() if state != "RUNNING"}
        if not waiting:
            return
        message = _deployment_errors([application(name) for name in waiting])
        now = f"replicas of {', '.join(waiting)}{f': {message}' if message else ''}"
        if failed := [f"{name} is {state}" for name, state in waiting.items() if state in FAILED]:
            raise NotReady(f"they do not start, {', '.join(failed)}: {now}")
        if now != said:
            report(f"waiting for {now}")
        said = now
        time.sleep(POLL_SECONDS)
    raise NotReady(
        f"they do not start within {REDEPLOY_SECONDS:.0f} s: {now}\nWhile replicas are replaced, one more must find "
        "room (serving.cpus, serving.gpus); if there is none, restart the service: `baton down`, `baton up`"
    )


def _states(models: Sequence[str]) -> dict[str, str]:
    """Return the states of models' applications, as Serve calls them."""
    from ray import serve

    found = {name: it.status.value for name, it in serve.status().applications.items()}
    return {name: found.get(application(name), "NOT_STARTED") for name in models}


def _deployment_errors(names: Sequence[str]) -> str:
    """Return the messages of the deployments of applications. Serve's own error only says that one of them failed."""
    from ray import serve

    found = serve.status().applications
    messages = [
        deployment.message
        for name in names
        if name in found
        for deployment in found[name].deployments.values()
        if deployment.message
    ]
    return "\n".join(messages)


def _lines(error: Exception) -> list[str]:
    """Return the lines of an error's message that are not empty, or the name of its type if it has none."""
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
