"""Records from JSON: a field that may be none."""

import json
from dataclasses import asdict, replace

import pytest

from metamodel.config import InputError
from metamodel.config.editing import EditReportConfig
from metamodel.config.record import record_from_json


@pytest.mark.parametrize("workers", [None, 3])
def test_a_field_that_may_be_none_comes_back_as_it_was(workers):
    config = replace(EditReportConfig(), workers=workers)
    assert record_from_json(EditReportConfig, json.loads(json.dumps(asdict(config))), "x", do="") == config


@pytest.mark.parametrize("wrong", ["3", True, 2.5, [3]])
def test_anything_else_is_named_with_what_it_may_be(wrong):
    values = asdict(EditReportConfig()) | {"workers": wrong}
    with pytest.raises(InputError, match=r"^x\.workers: expected a whole number or null, got"):
        record_from_json(EditReportConfig, values, "x", do="Mend it.")
