import pytest

from ctx_runtime.cli import main


@pytest.fixture
def command(capsys):
    """Runs `ctx-runtime`; its exit status, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return run
