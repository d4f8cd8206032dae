"""Why an evaluation cannot be done at all. A variant that cannot be measured is no error: it fails its gates."""

from modelmill.failures import Fault


class EvaluationError(Fault):
    reason = "EvaluationRefused"
    fatal = True


class TestDataNotFound(Fault):
    __test__ = False
    reason = "DataNotFound"
    fatal = True
