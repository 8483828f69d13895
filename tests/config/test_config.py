"""baton.yaml: what is accepted, and how each mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import sqlalchemy as sa
import yaml

from baton.config.file import BatonConfig, HttpSettings, json_schema, load_config, override, validate
from baton.config.model_settings import ModelSettings
from baton.config.serving_settings import MAX_INPUTS, ServingSettings
from baton.config.training_settings import TrainingSettings
from baton.errors import ConfigError, NotFound

GOOD: dict[str, Any] = {
    "storage": "artifacts",
    "database": "sqlite:///state/baton.db",
    "http": {"port": 9000},
    "models": [
        {
            "name": "support",
            "task": "classification",
            "base_model": "./base",
            "data": {"train": "train.jsonl", "holdout": 0.25},
            "training": {"epochs": 2, "learning_rate": 1e-4},
        }
    ],
}


def write(directory: Path, content: Any) -> Path:
    path = directory / "baton.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def changed(*keys: str | int, to: Any) -> dict[str, Any]:
    """A copy of the good file with one place set to a value."""
    copy = yaml.safe_load(yaml.safe_dump(GOOD))
    place = copy
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    return copy


def complaint(directory: Path, content: Any, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(directory, content), environ or {})
    return str(caught.value)


@pytest.fixture
def model(tmp_path: Path) -> ModelSettings:
    return load_config(write(tmp_path, GOOD), {}).model("support")


# --- reading -------------------------------------------------------------------------------------------------------------


def test_a_good_file_keeps_its_values_and_fills_in_defaults(tmp_path):
    config = load_config(write(tmp_path, GOOD), {})
    assert config.http.port == 9000
    assert config.http.host == "127.0.0.1"
    assert config.model("support").training.epochs == 2
    assert config.model("support").data.holdout == 0.25


def test_the_smallest_file_needs_only_a_model_with_name_task_and_train(tmp_path):
    smallest = {"models": [{"name": "m", "task": "classification", "data": {"train": "rows.csv"}}]}
    [model] = load_config(write(tmp_path, smallest), {}).models
    assert model.base_model == "sentence-transformers/all-MiniLM-L6-v2"


def test_relative_paths_are_relative_to_the_file_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_config(Path("../baton.yaml"), {})
    [model] = config.models
    assert config.storage == str(tmp_path / "artifacts")
    assert config.database == f"sqlite:///{tmp_path}/state/baton.db"
    assert model.data.train == str(tmp_path / "train.jsonl")
    assert model.base_model == str(tmp_path / "base")


@pytest.mark.parametrize(
    ("keys", "value", "read"),
    [
        (("storage",), "s3://bucket/baton", lambda config: config.storage),
        (("storage",), "/var/lib/baton", lambda config: config.storage),
        (("database",), "sqlite:////var/lib/baton.db", lambda config: config.database),
        (("database",), "sqlite:///:memory:", lambda config: config.database),
        (("database",), "postgresql+psycopg://user@host/baton", lambda config: config.database),
        (("models", 0, "base_model"), "google-bert/bert-base-cased", lambda config: config.models[0].base_model),
        (("models", 0, "data", "train"), "mteb/banking77", lambda config: config.models[0].data.train),
        (("models", 0, "data", "train"), "https://host/rows.csv", lambda config: config.models[0].data.train),
    ],
)
def test_absolute_paths_urls_and_hub_ids_stay_as_they_are(tmp_path, keys, value, read):
    assert read(load_config(write(tmp_path, changed(*keys, to=value)), {})) == value


def test_a_base_model_directory_next_to_the_file_wins_over_a_hub_id(tmp_path):
    (tmp_path / "bert" / "mine").mkdir(parents=True)
    config = load_config(write(tmp_path, changed("models", 0, "base_model", to="bert/mine")), {})
    assert config.models[0].base_model == str(tmp_path / "bert" / "mine")


def test_a_holdout_file_is_resolved_and_a_fraction_is_kept(tmp_path):
    config = load_config(write(tmp_path, changed("models", 0, "data", "holdout", to="holdout.csv")), {})
    assert config.models[0].data.holdout == str(tmp_path / "holdout.csv")


def test_the_environment_overrides_the_file(tmp_path):
    environ = {
        "BATON_DATABASE": "postgresql://db/baton",
        "BATON_STORAGE": "s3://bucket",
        "BATON_HTTP_HOST": "0.0.0.0",
        "BATON_HTTP_PORT": "8123",
    }
    config = load_config(write(tmp_path, GOOD), environ)
    assert (config.database, config.storage) == ("postgresql://db/baton", "s3://bucket")
    assert (config.http.host, config.http.port) == ("0.0.0.0", 8123)


def test_the_environment_creates_a_section_that_the_file_lacks(tmp_path):
    content = {key: value for key, value in GOOD.items() if key != "http"}
    assert load_config(write(tmp_path, content), {"BATON_HTTP_PORT": "8123"}).http.port == 8123


def test_only_the_given_environment_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("BATON_HTTP_PORT", "8123")
    assert load_config(write(tmp_path, GOOD), {}).http.port == 9000


def test_a_bad_environment_value_is_reported_with_its_key_value_and_variable_and_not_as_the_files(tmp_path):
    message = complaint(tmp_path, GOOD, {"BATON_HTTP_PORT": "http"})
    assert message.startswith(
        "the environment: 1 mistake\n  - http.port: 'http' is not allowed; input should be a valid integer"
    )
    assert message.endswith(" (from the environment variable BATON_HTTP_PORT)")
    both = complaint(tmp_path, GOOD | {"strage": "x"}, {"BATON_HTTP_PORT": "http"})
    assert both.startswith(f"{tmp_path / 'baton.yaml'}: 2 mistakes")
    assert both.count("from the environment variable") == 1


def test_a_configuration_cannot_be_changed_after_loading(tmp_path):
    config = load_config(write(tmp_path, GOOD), {})
    with pytest.raises(ValueError, match="frozen"):
        config.http.port = 1  # type: ignore[misc]


def test_a_dumped_configuration_validates_to_itself(tmp_path):
    config = load_config(write(tmp_path, GOOD), {})
    assert validate(BatonConfig, config.model_dump(), source="dump") == config
    assert validate(BatonConfig, config.model_dump(mode="json"), source="json dump") == config


# --- mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (("http", "port"), 0, "http.port: 0 is not allowed; at least 1"),
        (("models", 0, "task"), "summary", "models[0].task: 'summary' is not allowed; known tasks: "),
        (("models", 0, "name"), "My Model", "models[0].name: 'My Model' is not allowed; string should match pattern"),
        (("models", 0, "data", "holdout"), 1.5, "models[0].data.holdout: 1.5 is not allowed; give a fraction between 0 and 1"),
        (
            ("models", 0, "data", "holdout"),
            None,
            "models[0].data.holdout: None is not allowed; give a fraction between 0 and 1",
        ),
        (
            ("models", 0, "data", "holdout"),
            ["a"],
            "models[0].data.holdout: ['a'] is not allowed; give a fraction between 0 and 1",
        ),
        (("models", 0, "data", "holdout"), " ", "models[0].data.holdout: ' ' is not allowed; give a fraction between 0 and 1"),
        (("models", 0, "gate"), {"confidence": 1}, "models[0].gate.confidence: 1 is not allowed; below 1"),
        (
            ("models", 0, "training", "tune"),
            "adapter",
            "models[0].training.tune: 'adapter' is not allowed; input should be 'full', 'head', 'last_n' or 'lora'",
        ),
        (
            ("models", 0, "training", "start_from"),
            "v3",
            "models[0].training.start_from: 'v3' is not allowed; input should be 'base', 'probe' or 'champion'",
        ),
        (
            ("models", 0, "training", "replay"),
            -1,
            "models[0].training.replay: -1 is not allowed; at least 0",
        ),
        (
            ("models", 0, "training", "lora_rank"),
            0,
            "models[0].training.lora_rank: 0 is not allowed; at least 1",
        ),
        (
            ("models", 0, "training", "lora_alpha"),
            0,
            "models[0].training.lora_alpha: 0 is not allowed; above 0",
        ),
        (
            ("models", 0, "training", "lora_dropout"),
            1,
            "models[0].training.lora_dropout: 1 is not allowed; below 1",
        ),
        (
            ("models", 0, "training", "schedule"),
            "constant",
            "models[0].training.schedule: 'constant' is not allowed; input should be 'linear' or 'cosine'",
        ),
        (
            ("models", 0, "training", "accumulation"),
            0,
            "models[0].training.accumulation: 0 is not allowed; at least 1",
        ),
        (
            ("models", 0, "training", "augment"),
            {"deletion": 1},
            "models[0].training.augment.deletion: 1 is not allowed; below 1",
        ),
        (
            ("models", 0, "training", "augment"),
            {"synonyms": 0.1},
            "models[0].training.augment.synonyms: unknown key; allowed: deletion, swap, noise",
        ),
        (
            ("models", 0, "data", "conflicts"),
            "newest",
            "models[0].data.conflicts: 'newest' is not allowed; input should be 'latest' or 'majority'",
        ),
        (
            ("models", 0, "feedback"),
            {"audit": 1},
            "models[0].feedback.audit: 1 is not allowed; below 1",
        ),
        (
            ("models", 0, "gate"),
            {"max_drop": -0.1},
            "models[0].gate.max_drop: -0.1 is not allowed; at least 0",
        ),
        (
            ("models", 0, "data", "max_sender_share"),
            0,
            "models[0].data.max_sender_share: 0 is not allowed; above 0",
        ),
        (
            ("models", 0, "data", "feedback_holdout"),
            0.1,
            "models[0].data.feedback_holdout: was removed in version 0.2: corrections only train. Delete it; `feedback.audit`",
        ),
        (("storage",), "", "storage: '' is not allowed; string should have at least 1 character"),
    ],
)
def test_a_bad_value_is_reported_with_key_value_and_what_is_allowed(tmp_path, keys, value, expected):
    assert expected in complaint(tmp_path, changed(*keys, to=value))


def test_an_unknown_key_names_the_nearest_known_one(tmp_path):
    message = complaint(tmp_path, changed("models", 0, "training", "epoch", to=3))
    assert (
        "models[0].training.epoch: unknown key; did you mean 'epochs'? allowed: method, start_from, replay, tune, " in message
    )


def test_an_unknown_key_far_from_all_others_lists_the_allowed_ones(tmp_path):
    message = complaint(tmp_path, changed("http", "zzz", to=1))
    assert "http.zzz: unknown key; allowed: host, port" in message


def test_a_missing_key_is_named(tmp_path):
    content = changed("models", 0, "task", to="classification")
    del content["models"][0]["task"]
    assert "models[0].task: missing; it has no default" in complaint(tmp_path, content)


def test_a_model_that_is_never_trained_needs_no_data_and_has_no_triggers(tmp_path):
    for data, judges in (({}, False), ({"holdout": "test.jsonl"}, True), ({"train": "t.jsonl"}, True)):
        model = load_config(write(tmp_path, changed("models", 0, "data", to=data)), {}).models[0]
        assert model.data.judges is judges
    content = changed("models", 0, "data", to={})
    content["models"][0]["retrain"] = {"on_drift": True}
    assert "retrain: its runs need data to train on; declare data.train, or leave retrain out" in complaint(tmp_path, content)


def test_all_mistakes_are_reported_at_once(tmp_path):
    content = changed("http", to={"port": "x", "hots": "y"})
    content["models"][0] |= {"task": "summary", "gate": {"min_gain": -1}}
    content["models"][0]["data"]["train"] = 3
    message = complaint(tmp_path, content)
    assert message.splitlines()[0].endswith("baton.yaml: 5 mistakes")
    for key in ("http.port", "http.hots", "models[0].task", "models[0].gate.min_gain", "models[0].data.train"):
        assert f"  - {key}: " in message


def test_a_name_used_twice_is_reported(tmp_path):
    content = changed("models", to=[GOOD["models"][0]] * 2)
    assert "'support' is declared more than once; names must be unique" in complaint(tmp_path, content)


def test_a_file_without_models_is_refused(tmp_path):
    assert "declare at least one model" in complaint(tmp_path, changed("models", to=[]))


def test_a_missing_file_says_how_to_name_one(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration at .*nowhere.yaml; name one with -c FILE or BATON_CONFIG"):
        load_config(tmp_path / "nowhere.yaml", {})


def test_a_directory_in_place_of_the_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path, {})


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("database: sqlite:///a.db\nstorage: x\ndatabase: sqlite:///b.db\n", "'database' stands twice, in lines 1 and 3"),
        ("models:\n  - {name: m, task: ner, name: n}\n", "'name' stands twice, in lines 2 and 2"),
        ("models:\n  - name: m\n    gate:\n      min_f1: 0.5\n      min_f1: 0.9\n", "'min_f1' stands twice, in lines 4 and 5"),
    ],
)
def test_a_key_that_stands_twice_is_an_error(tmp_path, content, lines):
    assert f"the key {lines}" in complaint(tmp_path, content)


def test_anchors_may_be_merged(tmp_path):
    content = "models:\n  - &one {name: a, task: ner}\n  - &two {<<: *one, name: b}\n  - {<<: *two, name: c}\n"
    (tmp_path / "baton.yaml").write_text(content)
    assert [model.name for model in load_config(tmp_path / "baton.yaml", {}).models] == ["a", "b", "c"]


@pytest.mark.parametrize("content", ["models: [", "a: b: c", "a: 2024-13-45", "\t- x"])
def test_what_is_not_yaml_is_a_config_error(tmp_path, content):
    assert "is not valid YAML" in complaint(tmp_path, content)


@pytest.mark.parametrize("content", ["", "just text", "- a\n- b"])
def test_yaml_that_is_no_mapping_is_told_the_keys(tmp_path, content):
    assert "must contain a mapping with the keys storage, database, http, auth, logging, notify, traces, models" in complaint(
        tmp_path, content
    )


def test_bytes_that_are_not_utf8_are_a_config_error(tmp_path):
    path = tmp_path / "baton.yaml"
    path.write_bytes(b"storage: \xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path, {})


def test_an_unknown_model_name_lists_the_declared_ones(tmp_path):
    with pytest.raises(NotFound, match="unknown model 'suport'; declared models: support"):
        load_config(write(tmp_path, GOOD), {}).model("suport")


# --- override ------------------------------------------------------------------------------------------------------------


def test_override_changes_only_the_named_keys(model):
    after = override(model, ["training.epochs=5", " training.tune = head", "data.train=other.jsonl"])
    assert (after.training.epochs, after.training.tune, after.data.train) == (5, "head", "other.jsonl")
    assert after.training.learning_rate == model.training.learning_rate
    assert model.training.epochs == 2


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("training.epochs", "'training.epochs' is not KEY=VALUE; example: training.epochs=5"),
        ("training.epochs=many", "training.epochs: 'many' is not allowed; input should be a valid integer"),
        ("training.epoch=5", "training.epoch: unknown key; did you mean 'epochs'?"),
        ("trainning.epochs=5", "'trainning.epochs' cannot be overridden for one run; allowed: training., data.train"),
        ("training=5", "'training' cannot be overridden"),
        ("gate.min_gain=0", "'gate.min_gain' cannot be overridden"),
        ("data.holdout=easy.jsonl", "'data.holdout' cannot be overridden"),
        ("serving.precision=fp32", "'serving.precision' cannot be overridden"),
        ("training.epochs=[", "training.epochs: '[' is not valid YAML"),
        ("name=other", "'name' cannot be overridden"),
        (" name=other", "'name' cannot be overridden"),
        ("task=classification", "'task' cannot be overridden"),
    ],
)
def test_a_bad_override_is_a_config_error_that_says_why(model, assignment, expected):
    with pytest.raises(ConfigError) as caught:
        override(model, [assignment])
    assert expected in str(caught.value)


# --- JSON Schema ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    return jsonschema.Draft202012Validator(json_schema())


def test_the_json_schema_accepts_the_good_file(schema):
    assert list(schema.iter_errors(GOOD)) == []


@pytest.mark.parametrize(
    "content",
    [
        changed("models", 0, "training", "epoch", to=3),
        changed("models", 0, "task", to="summary"),
        changed("http", "port", to=0),
        changed("models", 0, "data", "train", to=3),
        changed("models", to=[]),
        changed("models", 0, "name", to="My Model"),
    ],
)
def test_the_json_schema_rejects_what_the_loader_rejects(schema, content):
    assert not schema.is_valid(content)


def test_every_key_of_the_file_has_a_description_or_is_a_section():
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    bare = [key for section in sections for key, value in section.get("properties", {}).items() if "description" not in value]
    assert sorted(set(bare)) == [
        "augment",
        "auth",
        "data",
        "feedback",
        "gate",
        "http",
        "logging",
        "retrain",
        "rollout",
        "serving",
        "training",
    ]


@pytest.mark.parametrize(("rows", "share"), [(100, 0.1), (2000, 0.1), (10_000, 0.02), (200_000, 0.001)])
def test_about_two_hundred_rows_validate_but_never_more_than_a_tenth(rows, share):
    assert TrainingSettings().validation_share(rows) == pytest.approx(share)
    assert TrainingSettings(validation=0.3).validation_share(rows) == 0.3


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"batch_size": 30, "workers": 4}, "batch_size 30 must be a multiple of workers (4)"),
        (
            {"batch_size": 30, "workers": 2, "accumulation": 4},
            "batch_size 30 must be a multiple of workers (2) times accumulation (4)",
        ),
        ({"batch_size": 30, "accumulation": 4}, "batch_size 30 must be a multiple of workers (1) times accumulation (4)"),
    ],
)
def test_a_batch_that_does_not_part_evenly_is_refused_with_what_it_must_be_a_multiple_of(tmp_path, training, said):
    assert f"models[0].training: {said}" in complaint(tmp_path, changed("models", 0, "training", to=training))


@pytest.mark.parametrize("task", ["ner", "qa"])
@pytest.mark.parametrize("way", ["deletion", "swap", "noise"])
def test_texts_whose_answers_are_places_in_them_are_not_augmented(tmp_path, task, way):
    content = changed("models", 0, "training", to={"augment": {way: 0.1}})
    content["models"][0]["task"] = task
    said = f"training.augment: altered texts would not fit their answers in {task}; only for classification, multi_label"
    assert said in complaint(tmp_path, content)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"training": {"tune": "head"}},
            "training.tune: 'head' is not allowed for seq2seq, whose models have no head to train",
        ),
        ({"training": {"adapt": {"data": "a.txt"}}}, "training.adapt: it is for encoders; models for seq2seq are not adapted"),
        ({"training": {"start_from": "probe"}}, "a probe classifies whole texts, and seq2seq does not"),
        ({"training": {"class_weights": "balanced"}}, "seq2seq has no labels to weight"),
        ({"training": {"long_text": "windows"}}, "'windows' is not allowed for seq2seq; allowed: truncate"),
        ({"training": {"generation": {"num_beams": 17}}}, "generation.num_beams: 17 is not allowed; at most 16"),
        ({"serving": {"engine": "onnx"}}, "models for seq2seq are run by torch; allowed: engine auto or torch"),
        ({"serving": {"precision": "int8"}}, "precision auto, fp32 or bf16"),
        ({"task": "ner", "training": {"generation": {}}}, "training.generation: models for ner write no texts; leave it out"),
    ],
)
def test_what_models_that_write_cannot_do_is_refused(tmp_path, changes, said):
    content = changed("models", 0, "task", to="seq2seq")
    content["models"][0].update(changes)
    assert said in complaint(tmp_path, content)


def test_an_augmentation_that_alters_nothing_is_for_every_task(tmp_path):
    content = changed("models", 0, "training", to={"augment": {"deletion": 0}})
    content["models"][0]["task"] = "qa"
    assert not load_config(write(tmp_path, content), {}).models[0].training.augment.active


def test_one_run_may_have_its_own_start_replay_and_augmentation(model):
    assigned = ["training.start_from=champion", "training.replay=null", "training.augment.noise=0.2", "training.tune=lora"]
    training = override(model, assigned).training
    assert (training.start_from, training.replay, training.augment.noise, training.tune) == ("champion", None, 0.2, "lora")


# --- feedback ------------------------------------------------------------------------------------------------------------


def test_feedback_is_taken_and_every_answer_logged_for_a_month_by_default(model):
    feedback = model.feedback
    assert (feedback.accept, feedback.log, feedback.max_per_day) == (True, 1.0, None)
    assert (feedback.retention_days, feedback.redact) == (30.0, ())


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("log", 1.5, "models[0].feedback.log: 1.5 is not allowed; at most 1"),
        ("log", -0.1, "models[0].feedback.log: -0.1 is not allowed; at least 0"),
        ("max_per_day", 0, "models[0].feedback.max_per_day: 0 is not allowed; at least 1"),
        ("retention_days", 0, "models[0].feedback.retention_days: 0 is not allowed; above 0"),
        ("accept", "perhaps", "models[0].feedback.accept: 'perhaps' is not allowed; input should be a valid boolean"),
        ("redact", ["ok", "(a"], "'(a' is not a regular expression: missing ) at position 2"),
        ("redact", r"\d+", "models[0].feedback.redact"),
        ("redct", [], "models[0].feedback.redct: unknown key; did you mean 'redact'? allowed: accept, log, max_per_day"),
    ],
)
def test_mistakes_in_the_feedback_section_are_told(tmp_path, key, value, expected):
    assert expected in complaint(tmp_path, changed("models", 0, "feedback", to={key: value}))


def test_one_run_cannot_change_what_is_logged(model):
    with pytest.raises(ConfigError, match=r"'feedback\.log' cannot be overridden for one run"):
        override(model, ["feedback.log=0"])


@pytest.mark.parametrize("task", ["multi_label", "qa"])
def test_tasks_that_learn_thresholds_cannot_do_without_validation(tmp_path, task):
    content = changed("models", 0, "training", "validation", to=0)
    content["models"][0]["task"] = task
    assert f"training.validation: 0 is not allowed for {task}" in complaint(tmp_path, content)


def test_a_bad_schedule_is_told_with_an_example(tmp_path):
    said = complaint(tmp_path, changed("models", 0, "retrain", to={"every": "at noon"}))
    assert "retrain.every" in said
    assert "at noon" in said
    assert "0 3 * * *" in said


@pytest.mark.parametrize("origin", ["shop.example", "https://shop.example/", "https://Shop.example", "ftp://a", ""])
def test_origins_of_web_pages_are_written_as_browsers_send_them(tmp_path, origin):
    good = ["https://shop.example", "http://[::1]:3000", "*"]
    assert ServingSettings(cors=good).cors == tuple(good)
    said = complaint(tmp_path, changed("models", 0, "serving", to={"cors": [*good, origin]}))
    assert f"{origin!r} is not an origin as browsers send it; allowed: *, or scheme, host and port" in said


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://127.0.0.1:8000"),
        ("[fd00::1]", "http://[fd00::1]:8000"),
        ("localhost", "http://localhost:8000"),
    ],
)
def test_the_service_is_asked_on_this_machine_at_an_address_of_any_family(host, url):
    assert HttpSettings(host=host).url == url


def test_a_request_has_at_most_as_many_inputs_as_a_header_can_name(tmp_path):
    assert ServingSettings(max_inputs=MAX_INPUTS).max_inputs == MAX_INPUTS
    serving = {"max_inputs": MAX_INPUTS + 1}
    told = complaint(tmp_path, changed("models", 0, "serving", to=serving))
    assert "models[0].serving.max_inputs: 2049 is not allowed; at most 2048" in told


def test_a_project_is_at_home_in_a_directory_of_any_name_but_for_a_question_mark(tmp_path):
    home = tmp_path / "Zoë's #1 100% project"
    home.mkdir()
    config = load_config(write(home, GOOD), {})
    assert config.database == f"sqlite:///{home}/state/baton.db"
    assert sa.make_url(config.database).database == f"{home}/state/baton.db"
    asked = tmp_path / "why?"
    asked.mkdir()
    assert f"database: a URL ends at the `?` in {asked}; rename it" in complaint(asked, GOOD)
    absolute = {**GOOD, "database": f"sqlite:///{home}/baton.db"}
    assert load_config(write(asked, absolute), {}).database == absolute["database"]
