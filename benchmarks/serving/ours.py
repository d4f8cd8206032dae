"""Our own server in the comparison: `python -m modelmill.serve.local`, as shipped; also with int8 and bfloat16 weights."""

from collections.abc import Callable, Mapping

from benchmarks.serving.peers.peer import Launch, Peer, Site
from benchmarks.serving.wires import Wire

NAME, INT8_NAME, BF16_NAME = "modelmill", "modelmill, int8", "modelmill, bf16"
GRPC_PORT_OFFSET = 2
"""From the port of HTTP, as `modelmill.serve.local` has it."""
INT8_MODEL, BF16_MODEL, CNN_BF16_MODEL = "encoder-int8", "encoder-bf16", "cnn-bf16"
TOLERANCE = 0.2
"""Of the largest value: rounded weights and activations are meant to differ (the worst sentence's cosine is 0.992 in int8),
another row's answer does by 1 and more; the answers' likeness is the business of evaluation."""


def _launch(
    model_of: Callable[[Site], str], *, wire: Wire | None = None, env: Mapping[str, str] | None = None
) -> Callable[[Site], Launch]:
    def launch(site: Site) -> Launch:
        model, registry = model_of(site), f"file://{site.weights.parent}/registry"
        arguments = ("--registry", registry, "--model", model, "--port", str(site.port))
        return Launch(
            command=(site.python, "-m", "modelmill.serve.local", *arguments),
            path=f"/v2/models/{model}/infer",
            wire=wire or site.workload.wire,
            env=env or {},
        )

    return launch


OURS = Peer(name=NAME, environment="", requirements=(), launch=_launch(lambda site: site.workload.name))
OURS_IN_JSON = Peer(
    name=f"{NAME} in JSON", environment="", requirements=(), launch=_launch(lambda site: site.workload.name, wire=Wire.V2_JSON)
)


def variant(name: str, model: str, *, env: Mapping[str, str] | None = None) -> Peer:
    return Peer(name=name, environment="", requirements=(), launch=_launch(lambda site: model, env=env), tolerance=TOLERANCE)


VARIANTS = {"encoder": (variant(INT8_NAME, INT8_MODEL), variant(BF16_NAME, BF16_MODEL))}
OWN = (NAME, INT8_NAME, BF16_NAME)
