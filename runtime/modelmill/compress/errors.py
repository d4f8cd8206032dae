"""What can be wrong with a compression: the steps asked for, or the file of weights that was found."""

from modelmill.failures import Fault


class CompressionError(Fault):
    """The steps cannot be done on this model; somebody must change the TrainingJob."""

    reason = "CompressionRefused"
    fatal = True


class BadArtifact(Fault):
    """A weights file that is damaged, hostile, or made for another model; names the tensor and the value."""

    reason = "BadArtifact"
    fatal = True
