"""schemathesis reads the OpenAPI document and tries every endpoint, with what fits it and with what does not."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode

from ctx_runtime import Runtime
from ctx_runtime.serving.admission import Gate
from ctx_runtime.serving.app import Limits, create_app

EXAMPLES = 4
SETTINGS = settings(
    max_examples=EXAMPLES, database=None, derandomize=True, suppress_health_check=list(HealthCheck), deadline=None
)


@pytest.mark.parametrize(
    ("kind", "paths", "operations"),
    [("bundle", "^(?!.*/versions/)", 12), ("talker", "/v1/chat/completions", 1)],  # a version's paths do the same
)
def test_no_request_is_a_server_error(kind, paths, operations, request):
    with Runtime.open(request.getfixturevalue(kind)) as runtime:
        document = schemathesis.openapi.from_asgi("/openapi.json", create_app(runtime, Gate(warm=True), Limits()))
        found = [one.ok() for one in document.include(path_regex=paths).get_all_operations()]
        statuses = [status for operation in found for status in tried(operation, runtime.bundle.manifest.name)]
    assert len(found) == operations and {200, 400} <= set(statuses)


def tried(operation, model):
    """The statuses of what fits the document and, where there is a body to get wrong, of what does not."""
    statuses = []
    for mode in GenerationMode if operation.body else [GenerationMode.POSITIVE]:

        @SETTINGS
        @given(case=operation.as_strategy(generation_mode=mode))
        def try_it(case):
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = model
            response = case.call()
            statuses.append(response.status_code)
            case.validate_response(response, checks=[not_a_server_error])

        try_it()
    return statuses
