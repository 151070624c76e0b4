"""Environment of programs that read untrusted files: only the variables listed here are passed on.

They get no address and no secret: those of the database, Redis and storage, keys, and any other
setting of the operator.
"""

import re
from collections.abc import Mapping

HARMLESS_NAME = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TERM|TMPDIR|TMP|TEMP|VIRTUAL_ENV"
    # By these Conda, Nix and environment modules show a C compiler its headers and libraries.
    r"|LD_LIBRARY_PATH|CC|CXX|CPATH|C_INCLUDE_PATH|LIBRARY_PATH|XDG_\w+_HOME|PYTHON\w*"
    r"|(CUDA|CUBLAS|CUDNN|NVIDIA|NCCL|GLOO|UCX|ROCR|HIP|HSA)_\w+"
    r"|(OMP|GOMP|KMP|MKL|OPENBLAS|NUMEXPR|RAYON|MALLOC)_\w+"
    r"|(TORCH|TORCHINDUCTOR|PYTORCH|TRITON|TRANSFORMERS|TOKENIZERS|HF|FAULT)_\w+"
)
NETWORK_NAME = re.compile(
    r"(HTTP|HTTPS|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|HF_TOKEN"
)
SECRET_NAME = re.compile(r"SECRET|PASSWORD|CREDENTIAL|(^|_)(TOKEN|KEY)$")
URL_WITH_SECRET = re.compile(r"://[^/\s]*@")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def offline_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program that needs no network."""
    return _harmless(environment) | OFFLINE | {"PYTHONUNBUFFERED": "1"}


def hub_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a download from the Hugging Face Hub: also proxies, and the
    operator's token for the Hub.
    """
    variables = {
        name: value for name, value in environment.items() if NETWORK_NAME.fullmatch(name.upper())
    }
    variables |= _harmless(environment)
    return {name: value for name, value in variables.items() if name not in OFFLINE}


def _harmless(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if HARMLESS_NAME.fullmatch(name.upper())
        and not SECRET_NAME.search(name.upper())
        and not URL_WITH_SECRET.search(value)
    }
