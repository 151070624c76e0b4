"""Secrets and rows of data, planted in the service that all tests here share."""


def canary(name: str) -> str:
    return f"canary{name}0123456789"


KEY = f"{canary('Admin')}-key"
ENVIRONMENT = {
    "FALQON_ADMIN_KEY": KEY,
    "FALQON_SESSION_SECRET": canary("Session"),
    "AWS_ACCESS_KEY_ID": canary("AwsId"),
    "AWS_SECRET_ACCESS_KEY": canary("AwsSecret"),
    "HF_TOKEN": canary("Hub"),
    "WANDB_API_KEY": canary("Wandb"),
    "SENTRY_DSN": f"https://{canary('Sentry')}@sentry.invalid/1",
    "PGPASSWORD": canary("Postgres"),
    "SLACK_WEBHOOK": canary("Slack"),
    "GITHUB_PAT": canary("Github"),
    "SMTP_PASSWORD": canary("Smtp"),
    "COMPANY_VAULT": canary("Vault"),
}
ROWS = {
    name: canary(f"Row{name}")
    for name in ("StatisticsKey", "Answer", "Broken", "Function", "Arguments")
}
