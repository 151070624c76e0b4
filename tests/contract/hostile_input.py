"""The bodies, paths and numbers of `test_hostile_input`, and the API that they are sent to."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
from sqlalchemy import select

from app.models.base import Base
from tests.support.api import Api, Tenant

JOB = {
    "model": "BASE",
    "training_file": "FILE",
    "validation_file": "HELD_OUT",
    "suffix": "mine",
    "seed": 7,
    "method": {
        "type": "supervised",
        "supervised": {
            "hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
        },
    },
    "integrations": [
        {"type": "wandb", "wandb": {"project": "p", "name": "n", "entity": "e", "tags": ["t"]}}
    ],
    "metadata": {"team": "red"},
    "falqon": {
        "rank": 8,
        "alpha": 4.0,
        "target_modules": ["q_proj"],
        "packing": True,
        "lr_schedule": "linear",
        "gpu": "any",
        "budget": {"max_cost_usd": "2.50", "max_seconds": 60},
        "early_stopping": {"patience": 3},
        "switch": {"alias": "n", "canary": 5},
    },
}
STUDY = {
    "model": "BASE",
    "training_file": "FILE",
    "validation_file": "HELD_OUT",
    "methods": ["falqon", "lora"],
    "falqon": {"rank": 8, "num_epochs": 2, "budget": {"max_seconds": 60}},
    "learning_rates": {"lora": 0.002},
    "seeds": [0, 1],
    "name": "mine",
}
ENDPOINT = {
    "url": "https://hooks.example.com/",
    "name": "ours",
    "event_types": ["fine_tuning.job.failed"],
}
PROJECT = {
    "name": "n",
    "weight": 2,
    "requests_per_minute": 600,
    "max_live_jobs": 5,
    "max_running_gpus": 4,
    "guaranteed_gpus": 2,
    "max_storage_bytes": 10**9,
    "max_device_hours": 1.5,
    "answer_storage": {"kept_days": 7, "max_bytes": 9, "redact": ["[0-9]+"]},
    "evaluate": False,
    "checkpoints_kept_days": 30,
    "models_kept_days": 90,
}
# Of every call with a JSON body one that means something, so that each refusal is that of the one
# thing that was changed in it.
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/fine_tuning/jobs": JOB,
    "POST /v1/fine_tuning/estimates": JOB,
    "POST /v1/falqon/studies": STUDY,
    "POST /v1/fine_tuning/jobs/{job_id}": {"metadata": {"title": "A title"}},
    "POST /v1/fine_tuning/jobs/{job_id}/clone": JOB,
    "POST /v1/fine_tuning/jobs/{job_id}/resume": {
        "falqon": {"budget": {"max_cost_usd": "2.50", "max_seconds": 60}}
    },
    "POST /v1/fine_tuning/checkpoints/{checkpoint}/permissions": {"project_ids": ["proj_a"]},
    "POST /v1/fine_tuning/jobs/{job_id}/evaluations": {
        "graders": [
            {
                "type": "string_check",
                "name": "same",
                "input": "{{sample.output_text}}",
                "reference": "{{item.reference}}",
                "operation": "eq",
            }
        ],
        "file": "HELD_OUT",
        "checkpoints": [5],
        "max_rows": 10,
        "max_tokens": 16,
    },
    "POST /v1/batches": {
        "input_file_id": "REQUESTS",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"team": "red"},
        "output_expires_after": {"anchor": "created_at", "seconds": 3600},
    },
    "POST /v1/models/{model}/retention": {"pinned": True},
    "POST /v1/workers/{worker}/drain": {"draining": "finish"},
    "POST /v1/falqon/deletions/models": {
        "created_before": 1,
        "unused_since": 1,
        "search": "nothing",
        "base_model": "BASE",
        "format": "bf16",
        "dry_run": False,
        "after": "a",
    },
    "POST /v1/falqon/deletions/jobs": {
        "created_before": 1,
        "search": "nothing",
        "base_model": "BASE",
        "status": "failed",
        "dry_run": False,
        "after": "a",
    },
    "POST /v1/models/{model}/exports": {"format": "bf16"},
    "POST /v1/models/{model}": {"serve_as": "shared", "replicas": 2},
    "POST /v1/models/{model}/links": {"name": "model.safetensors", "expires_in_seconds": 60},
    "POST /v1/files": {"source": "hf://acme/rows", "purpose": "fine-tune"},
    "PUT /v1/source_tokens/hf": {"token": "hf_a"},
    "PUT /v1/source_tokens/s3": {
        "access_key_id": "a",
        "secret_access_key": "b",
        "session_token": "c",
        "region": "eu-west-1",
        "endpoint": "https://s3.example.com",
    },
    "POST /v1/aliases": {"name": "n", "models": [{"model": "BASE", "weight": 2}]},
    "POST /v1/aliases/{alias}/rollback": {"version": 1},
    "POST /v1/aliases/{alias}/switches": {
        "model": "BASE",
        "canary": 5,
        "file": "HELD_OUT",
        "graders": [{"type": "string_check", "name": "same", "operation": "eq"}],
        "max_rows": 20,
        "max_tokens": 16,
    },
    "POST /v1/chat/completions/{completion_id}": {
        "metadata": {"rating": "good"},
        "falqon": {"corrected": "four"},
    },
    "POST /v1/stored_answers/delete": {
        "kind": "chat.completion",
        "model": "BASE",
        "metadata": {"rating": "good"},
        "created_after": 1,
        "created_before": 2,
        "corrected": True,
    },
    "POST /v1/stored_answers/files": {
        "filter": {"model": "BASE", "corrected": True},
        "shape": "preference",
        "held_out_file": "HELD_OUT",
    },
    "POST /v1/models": {"id": "acme/new", "source": "hf://acme/new"},
    "POST /v1/chat/completions": {
        "model": "BASE",
        "messages": [{"role": "user", "content": "Well?"}],
        "max_tokens": 16,
    },
    "POST /v1/responses": {
        "model": "BASE",
        "input": [{"role": "user", "content": "Well?"}],
        "max_output_tokens": 16,
    },
    "POST /v1/completions": {"model": "BASE", "prompt": "Well?", "max_tokens": 16},
    "POST /v1/embeddings": {"model": "BASE", "input": "Well?", "encoding_format": "float"},
    "POST /v1/engines/{model}": {"keep_loaded": True},
    "POST /v1/uploads": {
        "filename": "a",
        "purpose": "fine-tune",
        "bytes": 9,
        "mime_type": "text/jsonl",
        "expires_after": {"anchor": "created_at", "seconds": 3600},
    },
    "POST /v1/uploads/{upload_id}/complete": {"part_ids": ["part_a"], "md5": "0" * 32},
    "POST /v1/webhook_endpoints": ENDPOINT,
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}": ENDPOINT | {"enabled": True},
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}/rotate_secret": {
        "keep_old_secret_active_for_24_hours": True
    },
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}/test": {
        "event_type": "fine_tuning.job.failed"
    },
    "POST /v1/projects": PROJECT,
    "POST /v1/projects/{project_id}": PROJECT,
    "POST /v1/api_keys": {
        "name": "n",
        "scope": "read",
        "project_id": "PROJECT",
        "expires_at": 2_000_000_000,
    },
    "POST /v1/organization/group_grants": {
        "group": "g",
        "project_id": "PROJECT",
        "scope": "read",
    },
    "PUT /v1/prices": {
        "overrides": [{"device": "cpu", "usd_per_device_hour": "0.10", "source": "ours"}]
    },
}
# A value of another type that means something, too: one text, or a list of them.
ALSO_TAKEN = [
    BODIES["POST /v1/completions"] | {"prompt": ["Well?"]},
    BODIES["POST /v1/embeddings"] | {"input": ["Well?"]},
    BODIES["POST /v1/responses"] | {"input": "x"},
    BODIES["POST /v1/chat/completions/{completion_id}"]
    | {"falqon": {"corrected": {"four": "four"}}},
]
PATHS = [
    "%00",
    "a%00b",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "a%2Fb",
    "%2F",
    "%ff",
    "%ed%a0%80",
    "%F0%9F%92%A9",
    "%",
    "x" * 5000,
    "'--",
    "{}",
]
NUMBERS = [
    "-1",
    "0",
    "1.5",
    "1e3",
    "many",
    "",
    "9" * 30,
    "9" * 5000,
    "\N{ARABIC-INDIC DIGIT THREE}",
    "0x10",
    "NaN",
]
UNREADABLE = {
    "cut": b'{"model": "m"',
    "not UTF-8": b'{"model": "\xff"}',
    "NaN": b'{"model": NaN}',
    "a key twice": b'{"model": "a", "model": "b"}',
    "many digits": b'{"model": ' + b"9" * 5000 + b"}",
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a list": b"[1]",
    "a string": b'"x"',
    "null": b"null",
    "nothing": b"",
    "NUL bytes": b"\0\0",
}
# What the service writes by itself, as its row in `installation`.
COUNTED = {"probe", "installation-generation"}


class Contents(NamedTuple):
    """Every row by table, and every stored object by name."""

    rows: dict[str, list[str]]
    stored: list[str]


class Place(NamedTuple):
    """An API that nobody else writes to, and a tenant with the right to everything and one object
    of each kind.
    """

    api: Api
    tenant: Tenant
    objects: dict[str, str]
    description: dict[str, Any]

    def operations(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path, methods in self.description["paths"].items():
            yield from (
                (f"{method.upper()} {path}", details) for method, details in methods.items()
            )

    def send(self, operation: str, **request: Any) -> httpx.Response:
        method, path = operation.split()
        return self.tenant.http.request(method, path.format(**self.objects), **request)

    def send_json(self, operation: str, body: object) -> httpx.Response:
        """As JSON in ASCII, which can write half a character."""
        content = (
            json.dumps(body)
            .replace('"BASE"', f'"{self.tenant.base_model}"')
            .replace("HELD_OUT", self.objects["held_out"])
            .replace("REQUESTS", self.objects["requests"])
        )
        content = content.replace('"PROJECT"', f'"{self.objects["project_id"]}"').replace(
            '"FILE"', f'"{self.objects["file_id"]}"'
        )
        return self.send(operation, content=content, headers={"content-type": "application/json"})

    def contents(self) -> Contents:
        with self.api.database.read() as session:
            tables = [
                table for table in Base.metadata.sorted_tables if table.name != "installation"
            ]
            columns_of = {
                table: [column for column in table.columns if column.name != "last_used_at"]
                for table in tables
            }
            rows = {
                table.name: sorted(map(repr, session.execute(select(*columns)).all()))
                for table, columns in columns_of.items()
            }
        root = self.api.settings.data_dir / "objects"
        files = (path for path in root.rglob("*") if path.is_file() and path.name not in COUNTED)
        return Contents(rows, sorted(path.as_posix() for path in files))
