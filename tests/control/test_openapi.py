"""Every operation of the OpenAPI document, with requests that schemathesis makes from it: none ends in a server error."""

from __future__ import annotations

from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.generation import GenerationMode

from baton.tasks import TASKS
from baton.tasks.classification import Classification
from services.control.api.app import build_api
from services.control.openapi.predictions import paths
from tests.cli.test_cli import serving
from tests.control.test_api import nothing
from tests.support.local_control import configured, control_of, publish

OF_REPLICAS = paths([Classification])

NOT_READY = 503
"""What nobody can do here: there are no files of the versions, and no cluster."""


def cases(operation: schemathesis.APIOperation) -> st.SearchStrategy[schemathesis.Case]:
    """Requests that the document allows, and others that it forbids."""
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    return st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))


def test_no_request_that_the_document_allows_or_forbids_ends_in_a_server_error(tmp_path: Path) -> None:
    control = control_of(configured(tmp_path, "m", "other"))
    for right in (60, 90, 50):
        publish(control.registry, "m", right)
    seen: dict[str, set[int]] = {}
    with serving(build_api(control, nothing)) as url:
        for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
            operation = found.ok()
            if operation.path in OF_REPLICAS:
                continue  # tests/replica/test_described.py and test_dialect_fuzz.py ask replicas

            @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
            @given(case=cases(operation), model=st.sampled_from(("m", "other", None)), version=st.integers(0, 4) | st.none())
            def ask(case: schemathesis.Case, model: str | None, version: int | None) -> None:
                for name, value in (("model", model), ("version", version)):
                    if value is not None and name in case.path_parameters:
                        case.path_parameters[name] = value
                answer = case.call(timeout=60)
                assert answer.status_code < 500 or answer.status_code == NOT_READY, (case.as_curl_command(), answer.text)
                seen.setdefault(operation.label, set()).add(answer.status_code)  # noqa: B023  it is called at once

            ask()
    assert len(seen) > 30
    assert {200, 404, 409, 422} <= set().union(*seen.values())


@pytest.mark.parametrize("tasks", [("classification",), ("qa", "ner"), tuple(TASKS)], ids=",".join)
def test_the_document_is_valid_openapi_whatever_the_tasks_of_the_models(tmp_path: Path, tasks: tuple[str, ...]) -> None:
    config = configured(tmp_path, *(task.replace("_", "-") for task in tasks))
    models = tuple(model.model_copy(update={"task": task}) for model, task in zip(config.models, tasks, strict=True))
    api = build_api(control_of(config.model_copy(update={"models": models})), nothing)
    document = api.openapi()
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    assert api.openapi() == document, "it is made once"
    ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))
    assert ("/models/{model}/predict" in document["paths"]) == bool({"classification", "multi_label"} & set(tasks))
    model = document["paths"]["/models/{model}"]["post"]["parameters"][0]
    assert model["schema"]["enum"] == [settings.name for settings in models]
