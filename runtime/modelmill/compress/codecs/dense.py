"""The weight as it is. Also the codec of everything that no step touches: biases, norms, running statistics."""

NAME = "dense"
