"""The key `traces` of `baton.yaml`."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from baton.config.traces_settings import TracesSettings


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://collector", "http://", "http://host:0", "http://host:99999", ""])
def test_an_endpoint_is_an_address_of_a_collector(endpoint):
    with pytest.raises(ValidationError, match="http://HOST:PORT or https://HOST"):
        TracesSettings(endpoint=endpoint)


def test_no_password_is_in_it_where_it_would_be_shown():
    with pytest.raises(ValidationError, match="no user and no password; the variable OTEL_EXPORTER_OTLP_HEADERS"):
        TracesSettings(endpoint="https://somebody:hidden@collector")


def test_paths_of_the_protocol_are_added_to_it():
    assert TracesSettings(endpoint="https://collector/otlp/").endpoint == "https://collector/otlp"


@pytest.mark.parametrize("sample", [-0.1, 1.1])
def test_a_share_is_between_none_and_all(sample):
    with pytest.raises(ValidationError):
        TracesSettings(endpoint="http://collector:4318", sample=sample)
