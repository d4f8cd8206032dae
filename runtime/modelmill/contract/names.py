"""Names that both sides use: labels, environment variables, paths in a pod, ports, exit codes."""

GROUP = "modelmill.io"

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "modelmill"
LABEL_TRAINING_JOB = f"{GROUP}/trainingjob"
LABEL_MODEL_SERVICE = f"{GROUP}/modelservice"
LABEL_UID = f"{GROUP}/uid"
LABEL_ROLE = f"{GROUP}/role"
LABEL_INDEX = f"{GROUP}/index"
LABEL_VERSION = f"{GROUP}/version"
LABEL_VARIANT = f"{GROUP}/variant"
LABEL_LEADER = f"{GROUP}/leader"

ROLE_WORKER = "worker"
ROLE_SERVER = "server"

ENV_JOB = "MODELMILL_JOB"
"""JSON of `jobfile.JobFile`."""
ENV_SERVICE = "MODELMILL_SERVICE"
"""JSON of `servicefile.ServiceFile`."""
ENV_INDEX = "MODELMILL_INDEX"
"""Index of a pod in its gang, from 0."""
ENV_ATTEMPT = "MODELMILL_ATTEMPT"
"""Attempt that a pod was created for; the launcher learns of later ones from the operator."""
ENV_POD_IP = "POD_IP"
ENV_PROGRESS_FILE = "MODELMILL_PROGRESS_FILE"
"""Where a rank may write `report.Progress` for its launcher (atomically: write beside, then rename)."""
ENV_ERROR_FILE = "MODELMILL_ERROR_FILE"
"""Where a rank may write `report.Failure` before it dies."""

ROOT = "/modelmill"
PATH_REGISTRY = f"{ROOT}/registry"
PATH_DATA = f"{ROOT}/data"
PATH_RECIPE = f"{ROOT}/recipe"
PATH_TOKEN = "/var/run/secrets/modelmill/token"
PATH_TERMINATION = "/dev/termination-log"
TOKEN_AUDIENCE = "modelmill"

PORT_SERVE = 8080
PORT_ADMIN = 8081
PORT_GRPC = 8082
PORT_GRPC_SERVICE = 8001
"""Of the Service: what clients of Triton and KServe expect."""
PORT_REPORT = 8443

EXIT_OK = 0
EXIT_FATAL = 64
"""The user must change something first (import error, data that is not there): never retried."""
