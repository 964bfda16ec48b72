import pickle

import pytest

from ctx_runtime.errors import BundleError, CtxError, InputError, MissingExtraError, OverloadError


@pytest.mark.parametrize(
    "error",
    [
        InputError("wrong", hint="right it"),
        BundleError("link", "a link"),
        OverloadError("full", retry_after_s=1.5),
        MissingExtraError("ray", "ray", purpose="serving"),
    ],
)
def test_an_error_keeps_its_kind_and_attributes_between_processes(error: CtxError):
    came = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
    assert type(came) is type(error) and str(came) == str(error) and vars(came) == vars(error)
