from app.base.processes.subprocess_env import hub_environment, offline_environment

HARMLESS = {
    "PATH": "/bin",
    "HOME": "/root",
    "CUDA_VISIBLE_DEVICES": "0",
    "OMP_NUM_THREADS": "2",
    "TOKENIZERS_PARALLELISM": "false",
    "LC_ALL": "C.UTF-8",
    "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
    "CPATH": "/opt/conda/include",
    "C_INCLUDE_PATH": "/nix/include",
    "LIBRARY_PATH": "/opt/conda/lib",
    "HF_HOME": "/cache",
    "PYTHONPATH": "/srv",
    "NCCL_DEBUG": "WARN",
    "TRITON_CACHE_DIR": "/cache",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "XDG_CACHE_HOME": "/cache",
}
SECRET = (
    "FALQON_ADMIN_KEY",
    "DATABASE_URL",
    "REDIS_URL",
    "STORAGE_URL",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "PGPASSWORD",
    "HF_TOKEN",
    "SESSION_SECRET",
    "API_KEY",
    "X_api_key",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_STORAGE_KEY",
    "SENTRY_DSN",
    "POSTGRES_DSN",
    "CELERY_BROKER_URL",
    "GITHUB_PAT",
    "WANDB_API_KEY",
    "SLACK_WEBHOOK",
    "SMTP_PASS",
    "HTTPS_PROXY",
    "SSH_AUTH_SOCK",
    "KUBECONFIG",
    "HF_HUB_TOKEN",
    "TORCH_SECRET",
    "PYTHON_KEYRING_PASSWORD",
)


def test_a_subprocess_gets_no_address_and_no_secret() -> None:
    environment = offline_environment(HARMLESS | dict.fromkeys(SECRET, "canary"))

    assert environment.items() >= HARMLESS.items()
    assert "canary" not in environment.values()
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"


def test_an_address_with_a_password_in_it_is_a_secret_whatever_its_name() -> None:
    assert "HF_ENDPOINT" not in offline_environment(
        {"HF_ENDPOINT": "https://me:canary@mirror.example"}
    )


def test_a_download_may_find_the_hub_and_nothing_else() -> None:
    way_out = {
        "https_proxy": "http://me:secret@proxy:3128",
        "HF_TOKEN": "hf_x",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }
    others = dict.fromkeys(set(SECRET) - {"HTTPS_PROXY", "HF_TOKEN"}, "canary")

    environment = hub_environment(HARMLESS | way_out | others | {"HF_HUB_OFFLINE": "1"})

    assert environment.items() >= (HARMLESS | way_out).items()
    assert "canary" not in environment.values()
    assert "HF_HUB_OFFLINE" not in environment
