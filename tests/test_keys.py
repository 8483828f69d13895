"""API keys at rest and in a process's memory: hashes, expiry, revocation, rates, and a database that is gone."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from baton.errors import Forbidden, InvalidInput, NotFound, NotReady, OverRate, RegistryError, Unauthenticated
from baton.keys import Scope, id_of, new_token
from baton.store.registry import Registry
from services import keyring as keyrings
from services.keyring import Bucket, Keyring

HOUR = timedelta(hours=1)


def bearer(token: str) -> bytes:
    return f"Bearer {token}".encode()


def ring(registry: Registry, *, required: bool = True) -> Keyring:
    """A process that has just read the keys."""
    keyring = Keyring(registry.keys, required=required)
    keyring.refresh()
    return keyring


def make(registry: Registry, *scopes: Scope, **options: object) -> str:
    return registry.keys.create("someone", scopes or (Scope.PREDICT,), **options)[1]


# --- at rest -------------------------------------------------------------------------------------------------------------


def test_a_token_has_256_random_bits_and_a_public_id():
    key_id, token = new_token()
    assert re.fullmatch(r"baton_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", token)
    assert id_of(token.encode()) == key_id
    assert new_token()[1] != token


@pytest.mark.parametrize(
    "token", [b"", b"baton", b"baton_", b"baton_1f2e", b"baton_1f2e_", b"other_1f2e_secret", b"\xff_\xff_\xff"]
)
def test_what_is_no_token_names_no_key(token):
    assert id_of(token) == ""


def test_the_database_has_the_hash_of_a_token_and_nothing_of_its_secret(registry, tmp_path):
    key, token = registry.keys.create("shop", [Scope.PREDICT])
    registry.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("baton.db*"))
    assert key.id.encode() in stored
    assert hashlib.sha256(token.encode()).digest() in stored
    assert token[-20:].encode() not in stored


def test_a_key_does_not_show_its_hash(registry):
    key, _ = registry.keys.create("shop", [Scope.PREDICT])
    assert key.digest.hex() not in repr(key)
    assert "digest" not in repr(key)


def test_a_key_comes_back_as_it_was_made(registry):
    expires = datetime(2031, 5, 1, 12, tzinfo=UTC)
    key, _ = registry.keys.create(" shop ", [Scope.FEEDBACK, Scope.PREDICT], models=["b", "a"], expires_at=expires, rate=50.0)
    assert registry.keys.all() == registry.keys.live() == [key]
    assert (key.name, key.scopes, key.models) == ("shop", {"predict", "feedback"}, {"a", "b"})
    assert (key.expires_at, key.rate, key.last_used_at, key.revoked_at) == (expires, 50.0, None, None)
    free, _ = registry.keys.create("any", [Scope.OPERATE])
    assert free.models is None


@pytest.mark.parametrize(
    ("name", "scopes", "rate", "said"),
    [
        ("  ", [Scope.PREDICT], None, "name: '  ' is not allowed; give 1 to 63 characters"),
        ("x" * 64, [Scope.PREDICT], None, "1 to 63 characters"),
        ("shop", [], None, "give at least one of predict, feedback, label, operate, metrics"),
        ("shop", [Scope.PREDICT], 0.0, "rate: 0.0 is not allowed"),
        ("shop", [Scope.PREDICT], float("nan"), "rate: nan is not allowed"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(registry, name, scopes, rate, said):
    with pytest.raises(InvalidInput, match=re.escape(said)):
        registry.keys.create(name, scopes, rate=rate)
    assert registry.keys.all() == []


def test_a_key_for_no_model_is_not_one_for_every_model(registry):
    with pytest.raises(InvalidInput, match="a key for an empty list of models allows nothing"):
        registry.keys.create("shop", [Scope.PREDICT], models=[])
    assert registry.keys.all() == []


def test_a_revoked_key_stays_in_the_list_and_revoking_it_again_changes_nothing(registry):
    key, _ = registry.keys.create("shop", [Scope.PREDICT])
    first = registry.keys.revoke(key.id).revoked_at
    assert first is not None
    assert registry.keys.revoke(key.id).revoked_at == first
    assert registry.keys.live() == []
    assert [found.revoked_at for found in registry.keys.all()] == [first]


def test_a_key_that_is_not_there_cannot_be_revoked(registry):
    with pytest.raises(NotFound, match="no key 'nobody'; `baton keys list` shows their ids"):
        registry.keys.revoke("nobody")


# --- who may pass --------------------------------------------------------------------------------------------------------


def test_a_right_key_passes_whatever_the_case_of_bearer(registry):
    token = make(registry)
    keyring = ring(registry)
    for scheme in ("Bearer", "bearer", "BEARER"):
        keyring.admit(f"{scheme} {token}".encode(), Scope.PREDICT, "m")


@pytest.mark.parametrize("header", [b"", b"Bearer", b"Bearer ", b"Basic dXNlcjpwYXNz"])
def test_without_a_key_the_way_to_get_one_is_told(registry, header):
    make(registry)
    with pytest.raises(Unauthenticated, match="`baton keys create` makes one") as refused:
        ring(registry).admit(header, Scope.PREDICT, "m")
    assert refused.value.headers == {"www-authenticate": "Bearer"}


def test_no_part_of_a_token_is_enough_and_no_other_secret_will_do(registry):
    token, other = make(registry), make(registry)
    keyring = ring(registry)
    mixed = f"baton_{id_of(token.encode())}_{other.split('_', 2)[2]}"
    for wrong in (token[:-1], token + "x", token.upper(), mixed, new_token()[1], token.split("_", 2)[2], "\xff\xfe"):
        with pytest.raises(Unauthenticated, match="this API key is not valid: it is unknown or was revoked") as refused:
            keyring.admit(f"Bearer {wrong}".encode("latin-1"), Scope.PREDICT, "m")
        assert refused.value.headers == {"www-authenticate": 'Bearer error="invalid_token"'}


def test_hashes_are_compared_in_constant_time_whether_the_id_is_known_or_not(registry, monkeypatch):
    token = make(registry)
    keyring = ring(registry)
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(keyrings, "hmac", type("Watched", (), {"compare_digest": staticmethod(compare)}))
    keyring.identify(bearer(token))
    for wrong in (token[:-1] + ("a" if token[-1] != "a" else "b"), new_token()[1]):
        with pytest.raises(Unauthenticated):
            keyring.identify(bearer(wrong))
    assert [len(one) for one, _ in compared] == [len(other) for _, other in compared] == [32, 32, 32]
    assert compared[0][0] == compared[0][1] == hashlib.sha256(token.encode()).digest()
    assert compared[1][1] == compared[0][1]
    assert compared[2][1] == keyrings.UNKNOWN_KEY_DIGEST


def test_a_key_without_the_scope_is_told_which_one_is_missing(registry):
    token = make(registry, Scope.FEEDBACK, Scope.PREDICT)
    keyring = ring(registry)
    with pytest.raises(Forbidden, match=r"lacks the scope 'operate', which this call needs; it has: feedback, predict"):
        keyring.admit(bearer(token), Scope.OPERATE, "m")


@pytest.mark.parametrize("scope", list(Scope))
def test_no_scope_includes_another_but_operate_which_includes_label(registry, scope):
    token = make(registry, scope)
    keyring = ring(registry)
    passed = []
    for wanted in Scope:
        try:
            keyring.admit(bearer(token), wanted, "m")
            passed.append(wanted)
        except Forbidden:
            continue
    assert passed == ([Scope.LABEL, Scope.OPERATE] if scope is Scope.OPERATE else [scope])


def test_a_key_of_some_models_is_for_no_other_and_for_no_call_about_all(registry):
    token = make(registry, models=["a", "b"])
    keyring = ring(registry)
    keyring.admit(bearer(token), Scope.PREDICT, "a")
    with pytest.raises(Forbidden, match="is only for a, b, not for 'c'"):
        keyring.admit(bearer(token), Scope.PREDICT, "c")
    with pytest.raises(Forbidden, match="is only for a, b, and this call is not about one model"):
        keyring.admit(bearer(token), Scope.PREDICT, None)


def test_a_key_is_refused_from_the_moment_on_that_it_expires(registry):
    token = make(registry, expires_at=datetime.now(UTC) + HOUR)
    over = make(registry, expires_at=datetime.now(UTC))
    keyring = ring(registry)
    keyring.admit(bearer(token), Scope.PREDICT, "m")
    with pytest.raises(Unauthenticated, match=r"API key [0-9a-f]{12} expired at 20\d\d-"):
        keyring.admit(bearer(over), Scope.PREDICT, "m")


def test_only_the_holder_of_the_secret_learns_that_a_key_expired(registry):
    over = make(registry, expires_at=datetime.now(UTC))
    with pytest.raises(Unauthenticated, match="unknown or was revoked"):
        ring(registry).admit(bearer(over + "x"), Scope.PREDICT, "m")


def test_where_no_keys_are_asked_for_anybody_passes(registry):
    Keyring(registry.keys, required=False).admit(b"", Scope.OPERATE, None)


# --- the copy in memory --------------------------------------------------------------------------------------------------


def test_new_and_revoked_keys_are_taken_up_at_the_next_look(registry):
    keyring = ring(registry)
    key, token = registry.keys.create("late", [Scope.PREDICT])
    with pytest.raises(Unauthenticated):
        keyring.admit(bearer(token), Scope.PREDICT, "m")
    keyring.refresh()
    keyring.admit(bearer(token), Scope.PREDICT, "m")
    registry.keys.revoke(key.id)
    keyring.refresh()
    with pytest.raises(Unauthenticated, match="unknown or was revoked"):
        keyring.admit(bearer(token), Scope.PREDICT, "m")


def test_while_the_database_is_down_the_last_known_keys_go_on(registry, tmp_path, caplog):
    token = make(registry)
    keyring = ring(registry)
    registry.close()
    (tmp_path / "baton.db").rename(tmp_path / "away")
    (tmp_path / "baton.db").mkdir()  # SQLite cannot open a directory
    with pytest.raises(RegistryError):
        keyring.refresh()
    asyncio.run(keyring.try_refresh())
    assert "the last copy stays in use" in caplog.text
    assert token not in caplog.text
    keyring.admit(bearer(token), Scope.PREDICT, "m")


def test_a_process_that_could_never_read_the_keys_lets_nobody_in(tmp_path):
    keyring = Keyring(Registry(f"sqlite:///{tmp_path}/none.db").keys, required=True)
    asyncio.run(keyring.try_refresh())
    with pytest.raises(NotReady, match="the API keys cannot be read yet"):
        keyring.admit(bearer(new_token()[1]), Scope.PREDICT, "m")


def test_the_last_use_of_a_key_is_noted_but_not_of_one_that_was_refused(registry):
    token, idle = make(registry), make(registry)
    keyring = ring(registry)
    before = datetime.now(UTC)
    keyring.admit(bearer(token), Scope.PREDICT, "m")
    with pytest.raises(Unauthenticated):
        keyring.admit(bearer(idle + "x"), Scope.PREDICT, "m")
    keyring.refresh()
    used = {key.id: key.last_used_at for key in registry.keys.all()}
    at = used[id_of(token.encode())]
    assert at is not None
    assert before <= at <= datetime.now(UTC)
    assert used[id_of(idle.encode())] is None


def test_a_busy_key_is_written_to_the_database_once_a_minute_at_most(registry):
    token = make(registry)
    keyring = ring(registry)

    def noted() -> datetime | None:
        keyring.admit(bearer(token), Scope.PREDICT, "m")
        keyring.refresh()
        return registry.keys.all()[0].last_used_at

    first = noted()
    assert noted() == first
    keyring._noted[id_of(token.encode())] -= keyrings.USE_WRITE_INTERVAL
    assert noted() > first


def test_the_last_use_never_goes_back(registry):
    key, _ = registry.keys.create("shop", [Scope.PREDICT])
    now = datetime.now(UTC)
    registry.keys.note_use({key.id: now})
    registry.keys.note_use({key.id: now - HOUR})
    assert registry.keys.all()[0].last_used_at == now


# --- rates ---------------------------------------------------------------------------------------------------------------


def test_a_bucket_gives_its_rate_and_a_second_of_it_at_once():
    bucket = Bucket.full(rate=4.0, now=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [0.0] * 4
    assert bucket.take(100.0) == pytest.approx(0.25)
    assert bucket.take(100.25) == 0.0
    assert bucket.take(100.375) == pytest.approx(0.125)
    assert [bucket.take(1000.0) for _ in range(5)][3:] == [0.0, pytest.approx(0.25)]  # what nobody took does not pile up


def test_a_slow_bucket_has_room_for_one():
    bucket = Bucket.full(rate=1 / 60, now=0.0)
    assert bucket.take(0.0) == 0.0
    assert bucket.take(0.0) == pytest.approx(60.0)
    assert bucket.take(60.0) == 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time that rates are counted by."""

    def at(seconds: float) -> None:
        monkeypatch.setattr(keyrings.time, "monotonic", lambda: seconds)

    at(0.0)
    return at


def test_a_key_over_its_rate_is_told_when_to_come_back_and_others_are_not_held_up(registry, clock):
    slow, fast = make(registry, rate=2.0), make(registry)
    keyring = ring(registry)
    for _ in range(2):
        keyring.admit(bearer(slow), Scope.PREDICT, "m")
    with pytest.raises(
        OverRate, match=r"API key [0-9a-f]{12} is over its rate of 2 requests per second; retry in 1 s"
    ) as refused:
        keyring.admit(bearer(slow), Scope.PREDICT, "m")
    assert (refused.value.status, refused.value.headers) == (429, {"retry-after": "1"})
    for _ in range(50):
        keyring.admit(bearer(fast), Scope.PREDICT, "m")
    clock(0.5)
    keyring.admit(bearer(slow), Scope.PREDICT, "m")


def test_reading_the_keys_anew_does_not_fill_the_buckets(registry, clock):
    token = make(registry, rate=1 / 30)
    keyring = ring(registry)
    keyring.admit(bearer(token), Scope.PREDICT, "m")
    keyring.refresh()
    with pytest.raises(OverRate) as refused:
        keyring.admit(bearer(token), Scope.PREDICT, "m")
    assert refused.value.headers == {"retry-after": "30"}


def test_a_call_that_the_key_does_not_allow_costs_nothing_of_its_rate(registry, clock):
    token = make(registry, rate=1.0)
    keyring = ring(registry)
    for _ in range(3):
        with pytest.raises(Forbidden):
            keyring.admit(bearer(token), Scope.OPERATE, "m")
    keyring.admit(bearer(token), Scope.PREDICT, "m")
