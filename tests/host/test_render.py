"""`baton render`: what it writes is what `baton up` runs, means the same everywhere, and holds no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import serve
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as as_serve_does
from ray.serve.schema import ServeDeploySchema

from baton.config.file import load_config
from baton.errors import ConfigError
from services import app
from services.cli import app as command_line
from services.host import render, serve_driver

MODEL = {
    "name": "tickets",
    "task": "classification",
    "data": {"train": "/data/train.jsonl", "holdout": 0.25},
    "training": {"search": {"space": {"learning_rate": [1e-5, 1e-4]}}, "epochs": 7},
    "serving": {"replicas": 3, "cpus": 0.5},
}
SECRET = "postgresql+psycopg://baton:do-not-tell@db/baton"


def written(directory: Path, **changes: Any) -> Path:
    path = directory / "baton.yaml"
    whole = {"storage": "s3://bucket/baton", "database": SECRET, "http": {"port": 8123}, "models": [MODEL]}
    path.write_text(yaml.safe_dump({**whole, **changes}))
    return path


def rendered(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(render.serve_config(render.portable(path)))
    return config


def deployments(application: serve.Application) -> Any:
    """Return the options and arguments of the deployment that Serve would run."""
    bound = application._bound_deployment
    return bound.name, bound.num_replicas, bound.ray_actor_options, bound.init_args, bound.user_config


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["baton", *map(str, arguments)])
    try:
        command_line.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_serve_accepts_the_configuration_and_listens_where_the_file_says(tmp_path: Path) -> None:
    config = ServeDeploySchema.model_validate(rendered(written(tmp_path)))
    assert (config.http_options.host, config.http_options.port) == ("0.0.0.0", 8123)
    assert [(one.name, one.route_prefix) for one in config.applications] == [
        ("control", "/"),
        ("model-tickets", "/models/tickets"),
    ]


def test_serve_builds_the_applications_that_baton_up_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, http={"host": "0.0.0.0", "port": 8123})
    run: list[Any] = []
    monkeypatch.setattr("ray.serve.api.run_many", lambda targets, **_: run.extend(targets))
    serve_driver.deploy(load_config(path, {}), lambda text: None, {})
    ours = [
        (
            one["name"],
            one["route_prefix"],
            deployments(as_serve_does(import_attr(one["import_path"]), one["args"])),
        )
        for one in rendered(path)["applications"]
    ]
    assert len(run) == 2
    assert ours == [(one.name, one.route_prefix, deployments(one.target)) for one in run]


def test_neither_database_nor_storage_stands_in_the_serve_config(tmp_path: Path) -> None:
    config = render.portable(written(tmp_path))
    files = render.files(config)
    assert "do-not-tell" not in render.serve_config(config) + "".join(files.values())
    assert "s3://" not in files[render.SERVE]
    assert "BATON_STORAGE=s3://bucket/baton\n" in files[render.ENVIRONMENT]


def test_replicas_without_stores_take_them_from_the_environment_and_say_which_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"models": [MODEL]}
    monkeypatch.delenv("BATON_DATABASE", raising=False)
    monkeypatch.setenv("BATON_STORAGE", str(tmp_path))
    with pytest.raises(ConfigError, match="database is neither in the Serve config nor in the environment; set BATON_DATABASE"):
        app.EnvControlPlane(config)
    monkeypatch.setenv("BATON_DATABASE", f"sqlite:///{tmp_path}/here.db")
    plane = app.EnvControlPlane(config)
    assert plane.config.database == f"sqlite:///{tmp_path}/here.db"
    assert plane.config.storage == str(tmp_path)
    plane.registry.close()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"storage": "./storage"}, "storage './storage'"),
        ({"models": [{**MODEL, "data": {"train": "train.jsonl"}}]}, "models[0].data.train 'train.jsonl'"),
        ({"models": [{**MODEL, "base_model": "./base"}]}, "models[0].base_model './base'"),
    ],
)
def test_paths_that_only_this_machine_knows_are_refused_by_name(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        render.portable(written(tmp_path, **change))
    assert named in str(refused.value)
    assert "relative to this file, which pods do not have" in str(refused.value)


def test_an_absolute_path_is_rendered_as_it_stands_whatever_it_links_to_here(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    linked = str(tmp_path / "link" / "train.jsonl")
    config = rendered(written(tmp_path, models=[{**MODEL, "data": {"train": linked}}]))
    assert config["applications"][0]["args"]["models"][0]["data"]["train"] == linked


def test_the_environment_of_the_one_who_renders_has_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    before = render.files(render.portable(path))
    monkeypatch.setenv("BATON_STORAGE", "s3://elsewhere/x")
    monkeypatch.setenv("BATON_HTTP_PORT", "9999")
    assert render.files(render.portable(path)) == before


def test_check_fails_until_the_directory_is_rendered_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    assert command(monkeypatch, "render", "-c", path, "--out", out, "--check") == 1
    assert "out of date: serve-config.yaml, pods.env" in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()
    assert command(monkeypatch, "render", "-c", path, "--out", out) == 0
    assert command(monkeypatch, "render", "-c", path, "--out", out, "--check") == 0
    written(tmp_path, models=[{**MODEL, "serving": {"replicas": 4}}])
    assert command(monkeypatch, "render", "-c", path, "--out", out, "--check") == 1
    assert "out of date: serve-config.yaml;" in capsys.readouterr().err.replace("\n", " ")


def test_rules_become_a_resource_of_the_prometheus_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [{"name": "g", "rules": [{"alert": "A", "expr": "up == 0", "labels": {"severity": "page"}}]}]
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": groups}))
    assert command(monkeypatch, "render", "--rules", rules, "--out", tmp_path) == 0
    resource = yaml.safe_load((tmp_path / render.RULES).read_text())
    assert (resource["kind"], resource["spec"]) == ("PrometheusRule", {"groups": groups})


def version_of(path: Path, application: int, **changes: Any) -> str:
    """The version by which Serve knows whether replicas of an application must be replaced."""
    spec = render.applications(load_config(written(path, **changes), {}))[application]
    return str(app.build(spec.import_path, spec.args)._bound_deployment.version)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"gate": {"min_f1": 0.9}, "training": {"epochs": 3}, "data": {"train": "/elsewhere.jsonl"}}, True),
        ({"serving": {"replicas": 4, "cpus": 0.5}}, True),
        ({"serving": {"replicas": 3, "cpus": 0.5, "max_inputs": 2}}, False),
        ({"feedback": {"log": 0.5}}, False),
    ],
)
def test_replicas_are_replaced_only_if_what_they_read_has_changed(tmp_path: Path, changes: dict[str, Any], same: bool) -> None:
    before = version_of(tmp_path, 1)
    assert (version_of(tmp_path, 1, models=[{**MODEL, **changes}]) == before) is same


def test_replicas_are_replaced_if_the_service_asks_for_keys_or_logs_otherwise(tmp_path: Path) -> None:
    found = [
        version_of(tmp_path, 1, **change) for change in ({}, {"auth": {"required": True}}, {"logging": {"format": "json"}})
    ]
    assert len(set(found)) == 3


def test_the_control_plane_takes_other_models_up_and_is_replaced_for_everything_else(tmp_path: Path) -> None:
    before = version_of(tmp_path, 0)
    assert version_of(tmp_path, 0, models=[MODEL, {**MODEL, "name": "second"}]) == before
    assert version_of(tmp_path, 0, auth={"required": True}) != before


def test_replicas_are_the_same_to_serve_whatever_the_secrets_are(tmp_path):
    """`baton apply` does not compare secrets, and must not replace replicas for what it does not show."""

    def version(*, secret: str, password: str, path: str, host: str = "hooks") -> Any:
        database = f"postgresql+psycopg://baton:{password}@db/baton"
        config = load_config(
            written(tmp_path, database=database, notify=[{"url": f"https://{host}/{path}", "secret": secret * 16}]), {}
        )
        [control] = [it for it in render.applications(config) if it.name == "control"]
        return app.build(control.import_path, control.args)._bound_deployment.version

    before = version(secret="a", password="b", path="c")
    assert version(secret="d", password="e", path="f") == before
    assert version(secret="a", password="b", path="c", host="elsewhere") != before
