"""`baton keys`, the key that every command sends, and what `baton up` says about being open."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from baton.config.file import AuthSettings, BatonConfig, load_config
from baton.errors import ConfigError
from baton.keys import Scope
from baton.store.registry import Registry
from baton.urls import without_passwords
from services.control import plane
from services.host.checks import startup_warnings
from services.keyring import Keyring
from tests.cli.test_cli import GOOD, Baton, failed, serving, words, write
from tests.cli.test_cli import baton as baton  # noqa: PLC0414  a fixture
from tests.support.local_control import configured, control_of
from tests.support.stores import raw_sql

TOKEN = re.compile(r"baton_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATON_KEY", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path, GOOD)


def registry_of(file: Path) -> Registry:
    return Registry(load_config(file, {}).database)


# --- create, list, revoke ------------------------------------------------------------------------------------------------


def test_the_first_key_is_made_before_anything_runs_and_its_token_printed_once_and_alone(baton, file):
    done = baton("keys", "create", "admin", "--scope", "operate", "-c", file)
    assert done.code == 0
    assert TOKEN.fullmatch(done.out.strip())
    assert "it is not shown again" in done.err
    keyring = Keyring(registry_of(file).keys, required=True)
    keyring.refresh()
    keyring.admit(f"Bearer {done.out.strip()}".encode(), Scope.OPERATE, None)
    secret = done.out.strip().split("_", 2)[2]
    for arguments in (["keys", "list"], ["keys", "list", "--json"]):
        shown = baton(*arguments, "-c", file)
        assert secret not in shown.out + shown.err
        assert "admin" in shown.out


def test_a_key_is_made_as_it_is_asked_for(baton, file):
    before = datetime.now(UTC)
    options = ["--scope", "predict", "--scope", "feedback", "--model", "m", "--expires", "90d", "--rate", "600/m", "--json"]
    made = baton("keys", "create", "shop", *options, "-c", file).json
    assert TOKEN.fullmatch(made.pop("token"))
    expires = datetime.fromisoformat(made["expires_at"])
    assert timedelta(days=90) - timedelta(seconds=1) <= expires - before <= timedelta(days=90, seconds=300)
    wanted = {"name": "shop", "scopes": ["feedback", "predict"], "models": ["m"], "rate": 10.0, "state": "valid"}
    assert {key: made[key] for key in wanted} == wanted
    assert baton("keys", "list", "--json", "-c", file).json == [made]


def test_without_keys_the_list_says_how_to_make_one(baton, file):
    assert words(baton("keys", "list", "-c", file).out) == "no keys yet; `baton keys create NAME --scope SCOPE` creates one"
    assert baton("keys", "list", "--json", "-c", file).json == []


def test_a_revoked_key_is_listed_as_such(baton, file):
    made = baton("keys", "create", "shop", "--scope", "predict", "--json", "-c", file).json
    assert f"key {made['id']} (shop) is revoked" in words(baton("keys", "revoke", made["id"], "-c", file).out)
    [listed] = baton("keys", "list", "--json", "-c", file).json
    assert listed["state"] == "revoked"
    assert datetime.fromisoformat(listed["revoked_at"]) >= datetime.fromisoformat(listed["created_at"])
    assert "revoked" in baton("keys", "list", "-c", file).out


def test_a_key_that_leaked_can_be_revoked_by_itself(baton, file):
    made = baton("keys", "create", "shop", "--scope", "predict", "--json", "-c", file).json
    assert f"key {made['id']} (shop) is revoked" in words(baton("keys", "revoke", made["token"], "-c", file).out)
    assert made["token"] not in failed(baton("keys", "revoke", made["token"].replace(made["id"], "0" * 12), "-c", file))


def test_an_expired_key_is_listed_as_such(baton, file):
    baton("keys", "list", "-c", file)
    registry_of(file).keys.create("old", [Scope.PREDICT], expires_at=datetime.now(UTC))
    assert baton("keys", "list", "--json", "-c", file).json[0]["state"] == "expired"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["create", "x"],
            "a key without a scope allows nothing; give at least one of predict, feedback, label, operate, metrics",
        ),
        (["create", "x", "--scope", "predict", "--model", "intnets"], "unknown model 'intnets'; declared models: m"),
        (
            ["create", "x", "--scope", "predict", "--expires", "90"],
            "--expires '90' is not allowed; give a whole number followed by d, h or m",
        ),
        (["create", "x", "--scope", "predict", "--expires", "-1d"], "--expires '-1d' is not allowed"),
        (
            ["create", "x", "--scope", "predict", "--rate", "50"],
            "--rate '50' is not allowed; give a whole number per s, m or h",
        ),
        (["create", "x", "--scope", "predict", "--rate", "0/s"], "--rate '0/s' is not allowed"),
        (["create", " ", "--scope", "predict"], "1 to 63 characters that say who uses the key"),
        (["revoke", "nobody"], "no key 'nobody'; `baton keys list` shows their ids"),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed_and_makes_no_key(baton, file, arguments, said):
    assert said in words(failed(baton("keys", *arguments, "-c", file)))
    assert baton("keys", "list", "--json", "-c", file).json == []


def test_a_model_of_the_running_service_may_be_named_though_this_file_does_not_know_it(baton, file):
    baton("keys", "list", "-c", file)
    registry_of(file).declare_model("elsewhere")
    assert baton("keys", "create", "x", "--scope", "predict", "--model", "elsewhere", "-c", file).code == 0
    said = failed(baton("keys", "create", "x", "--scope", "predict", "--model", "nobody", "-c", file))
    assert "unknown model 'nobody'; declared models: elsewhere, m" in words(said)


@pytest.mark.parametrize(
    ("schema", "said"), [("0004_retrain", "`baton up` migrates it"), ("9999", "does not know; upgrade Baton")]
)
def test_a_command_about_keys_leaves_the_schema_of_a_database_in_use_as_it_is(baton, file, schema, said):
    baton("keys", "list", "-c", file)
    url = load_config(file, {}).database
    raw_sql(url, f"UPDATE alembic_version SET version_num = '{schema}'")
    for arguments in (["list"], ["create", "x", "--scope", "predict"], ["revoke", "x"]):
        assert said in words(failed(baton("keys", *arguments, "-c", file)))
    assert raw_sql(url, "SELECT version_num FROM alembic_version") == [(schema,)]


def test_a_scope_that_does_not_exist_is_told_which_do(baton, file):
    done = baton("keys", "create", "x", "--scope", "admin", "-c", file)
    assert done.code == 2
    assert "'predict', 'feedback', 'label', 'operate', 'metrics'" in words(done.err)


# --- the key that commands send ------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(baton: Baton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Scope], str]]:
    """A running control plane that asks for keys, where the commands find it; makes keys for it."""
    monkeypatch.setattr(plane, "KEYS_SECONDS", 0.01)
    config = configured(tmp_path, "m").model_copy(update={"auth": AuthSettings(required=True)})
    control = control_of(config)
    made = {scope: control.registry.keys.create("test", [scope])[1] for scope in Scope}
    with serving(control.__serve_build_asgi_app__()) as url:
        monkeypatch.setenv("BATON_CONFIG", str(write(tmp_path, yaml.safe_load(config.model_dump_json()))))
        monkeypatch.setenv("BATON_URL", url)
        yield made.__getitem__


def test_a_command_sends_the_key_of_the_environment(baton, guarded, monkeypatch):
    monkeypatch.setenv("BATON_KEY", guarded(Scope.OPERATE))
    assert [model["name"] for model in baton("status", "--json").json["models"]] == ["m"]


def test_a_key_on_the_command_line_wins_over_the_environment(baton, guarded, monkeypatch):
    monkeypatch.setenv("BATON_KEY", guarded(Scope.PREDICT))
    assert "lacks the scope 'operate'" in failed(baton("status"))
    assert baton("--key", guarded(Scope.OPERATE), "status").code == 0
    assert "lacks the scope 'operate'" in failed(baton("status"))


def test_without_a_key_a_command_says_that_one_is_needed(baton, guarded):
    said = failed(baton("status"))
    assert "an API key is needed" in said
    assert said.endswith("set BATON_KEY to a valid key, or pass one with --key")


def test_a_key_with_odd_characters_is_refused_without_showing_it(baton, guarded, monkeypatch):
    monkeypatch.setenv("BATON_KEY", "sec\nret")
    assert "ret" not in failed(baton("status")).replace("characters", "")


def test_a_wrong_key_is_not_repeated_to_whoever_sees_the_screen(baton, guarded):
    wrong = guarded(Scope.OPERATE)[:-1] + "!"
    done = baton("--key", wrong, "status")
    assert "unknown or was revoked" in failed(done)
    assert wrong not in done.out + done.err


# --- when keys are asked for ---------------------------------------------------------------------------------------------


def config_with(host: str, required: object = "auto") -> BatonConfig:
    return BatonConfig.model_validate({**GOOD, "http": {"host": host}, "auth": {"required": required}})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "[::1]", "localhost"])
def test_on_loopback_no_keys_are_asked_for_unless_one_says_so(host):
    assert not config_with(host).keys_required
    assert config_with(host, True).keys_required


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "192.168.1.5", "baton.example", "localhost.example", ""])
def test_anywhere_else_they_are_unless_one_says_not(host):
    assert config_with(host).keys_required
    assert not config_with(host, False).keys_required


def test_a_configuration_without_a_word_on_it_is_closed_or_on_loopback():
    assert BatonConfig.model_validate(GOOD).auth.required == "auto"
    assert BatonConfig.model_validate({**GOOD, "http": {"host": "0.0.0.0"}}).keys_required


@pytest.mark.parametrize("value", ["maybe", 2, None, "yes please"])
def test_a_bad_value_is_told_with_what_is_allowed(tmp_path, value):
    with pytest.raises(ConfigError, match=r"1 mistake\n  - auth.required: .* is not allowed; true, false or auto"):
        load_config(write(tmp_path, {**GOOD, "auth": {"required": value}}), {})


def test_on_somebody_elses_cluster_auto_asks_for_keys():
    assert startup_warnings.with_keys_by_default(config_with("127.0.0.1")).keys_required
    assert not startup_warnings.with_keys_by_default(config_with("127.0.0.1", False)).keys_required


# --- what `up` says ------------------------------------------------------------------------------------------------------

PORTS = {"haproxy_stats": 8405, "haproxy_metrics": 9101}


def told(config: BatonConfig, registry: Registry) -> str:
    said = startup_warnings.messages(config, registry, PORTS)
    assert all(text.startswith(startup_warnings.WARNING) for text in said)
    return "\n".join(said)


def test_a_service_on_loopback_warns_of_nothing_and_notes_what_listens_everywhere_all_the_same(registry):
    [said] = startup_warnings.messages(config_with("127.0.0.1"), registry, PORTS)
    assert said.startswith(startup_warnings.NOTE)
    assert "(8405, 9101) and Serve's gRPC (random ports) listen on all addresses" in said


@pytest.mark.parametrize(
    ("database", "shown"),
    [
        ("postgresql+psycopg://baton:secret@db/baton", "postgresql+psycopg://baton:***@db/baton"),
        ("postgresql+psycopg://baton@tenant:secret@db/baton", "postgresql+psycopg://baton@tenant:***@db/baton"),
        ("postgresql+psycopg://baton:se@cret@db:5432/baton", "postgresql+psycopg://baton:***@db:5432/baton"),
        ("postgresql+psycopg://db/baton?user=baton&password=secret", "postgresql+psycopg://db/baton?user=baton&password=***"),
        ("postgresql+psycopg://db/baton?sslpassword=secret&x=1", "postgresql+psycopg://db/baton?sslpassword=***&x=1"),
    ],
)
def test_on_somebody_elses_cluster_a_password_in_the_databases_url_is_warned_of(registry, database, shown):
    assert without_passwords(database) == shown
    config = config_with("0.0.0.0").model_copy(update={"database": database})
    said = "\n".join(startup_warnings.messages(config, registry, {}))
    assert "WARNING: this cluster stores and logs the arguments of its applications" in said
    assert "the database's URL with its password is one of them" in said
    assert "secret" not in said
    assert "password" not in told(config, registry)


@pytest.mark.parametrize(
    "database",
    ["sqlite:////var/lib/baton.db", "postgresql+psycopg://baton@db:5432/baton", "postgresql+psycopg://db:5432/baton"],
)
def test_on_somebody_elses_cluster_a_database_without_a_password_is_not_warned_of(registry, database):
    assert without_passwords(database) == database
    config = config_with("0.0.0.0").model_copy(update={"database": database})
    assert "password" not in "\n".join(startup_warnings.messages(config, registry, {}))


def test_a_service_that_is_open_without_keys_warns_of_it(registry):
    said = told(config_with("0.0.0.0", False), registry)
    assert "0.0.0.0:8000 and the replicas' own ports (30000 and up) can be reached from outside, and no API key" in said
    assert "(8405, 9101) and Serve's gRPC (random ports) listen on all addresses" in said
    assert "there is no valid one" not in said


def test_a_service_that_asks_for_keys_and_has_none_that_is_valid_says_how_to_make_one(registry):
    config = config_with("0.0.0.0")
    revoked, _ = registry.keys.create("revoked", [Scope.OPERATE])
    registry.keys.revoke(revoked.id)
    registry.keys.create("expired", [Scope.OPERATE], expires_at=datetime.now(UTC))
    assert "baton keys create NAME --scope operate" in told(config, registry)
    assert "no API key is required" not in told(config, registry)
    registry.keys.create("shop", [Scope.PREDICT])
    assert "none of the existing keys has the scope operate" in told(config, registry)
    registry.keys.create("admin", [Scope.OPERATE])
    assert "NAME --scope operate" not in told(config, registry)
    assert "listen on all addresses" in told(config, registry)


def test_the_schema_for_editors_knows_the_setting(baton):
    schema = json.loads(baton("config", "schema").out)
    required = schema["$defs"]["AuthSettings"]["properties"]["required"]
    assert required["default"] == "auto"
    assert "auto: required, unless `http.host` is a loopback address" in required["description"]
