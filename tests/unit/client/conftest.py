import pytest

from tests.unit.client.support import Opener, awaited, blocking


@pytest.fixture(params=[blocking, awaited])
def opened(request: pytest.FixtureRequest) -> Opener:
    """Opens a client of either kind: `with opened(url, ...) as client`."""
    opener: Opener = request.param
    return opener
