from worker.trainer import clean_environment


def test_only_what_is_no_address_and_no_secret_reaches_the_trainer() -> None:
    harmless = {"PATH": "/bin", "HOME": "/root", "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
    secret = dict.fromkeys(
        (
            "FALQON_ADMIN_KEY",
            "DATABASE_URL",
            "REDIS_URL",
            "STORAGE_URL",
            "AWS_REGION",
            "PGPASSWORD",
            "HF_TOKEN",
            "SESSION_SECRET",
            "API_KEY",
            "X_api_key",
        ),
        "canary",
    )
    assert clean_environment(harmless | secret).items() >= harmless.items()
    assert "canary" not in clean_environment(harmless | secret).values()
