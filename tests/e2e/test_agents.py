"""An agent's way through the service: the tools of `falqon mcp` with the SDK's own client, and the
commands of the skill as they stand there.
"""

from pathlib import Path

import anyio
import httpx

from tests.e2e.test_recipes import account as account
from tests.e2e.test_recipes import recipe_service as recipe_service
from tests.e2e.test_recipes import run, script_of
from tests.support.agents import ROWS, Agent, Json, new_key, on_stdio
from tests.support.backend import ROOT
from tests.support.service import Service

SKILL = ROOT / "skills" / "falqon" / "SKILL.md"
MAX_SKILL_LINES = 150


def test_an_agent_goes_from_a_file_to_an_answer(recipe_service: Service, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(ROWS)

    async def travel() -> None:
        async with on_stdio(recipe_service, new_key(recipe_service), tmp_path) as agent:
            uploaded = await agent.use("upload_path", path="train.jsonl")
            assert (uploaded["cost"], uploaded["status"]) == ("free", "processed")
            held_out = await agent.use("upload_text", filename="held.jsonl", content=ROWS)
            data = {
                "training_file": uploaded["file_id"],
                "validation_file": held_out["file_id"],
            }
            model = {"model": "falqon-tiny"}
            assert model["model"] in str((await agent.use("list_models"))["models"])
            checked = await agent.use("check_file", file_id=uploaded["file_id"], **model)
            assert checked["tokens"]["target_tokens_per_epoch"] > 0
            preview = await agent.use("preview_loss_mask", file_id=uploaded["file_id"], **model)
            assert "«" in preview["records"][0]["tokens"]
            estimate = await agent.use("estimate_job", **model, **data)
            assert "at worst" in estimate["cost_of_the_job"]
            dry_run = await agent.use("dry_run_job", **model, **data, settings={"rank": 4})
            assert dry_run["settings"]["rank"] == 4
            created = await agent.use(
                "create_job", **model, **data, suffix="first", max_cost_usd="1"
            )
            assert created["cost"].endswith("it pauses at $1.00")
            job_id = created["job_id"]
            watched = await watch(agent, job_id)
            assert watched["status"] == "succeeded", watched
            assert "it pauses at $1.00" in watched["cost"]
            assert any("The job has succeeded" in event for event in watched["events"])
            one = {"job_id": job_id, "wait_seconds": 20}
            evaluation = await agent.use("evaluate_job", **one, graders=["same"])
            while evaluation["status"] == "in_progress":
                one["evaluation_id"] = evaluation["evaluation_id"]
                evaluation = await agent.use("read_evaluation", **one)
            assert evaluation["status"] == "completed", evaluation
            assert evaluation["summary"]
            answer = await agent.use(
                "ask_model", model=watched["model"], question="Late!", max_tokens=4
            )
            assert answer["answer"]
            many = {"model": watched["model"], "questions": ["Late!", "Twice!"], "max_tokens": 4}
            asked = await agent.use("ask_many", **many)
            read = {"batch_id": asked["batch_id"], "wait_seconds": 20}
            while (answers := await agent.use("read_answers", **read))["next"] != "nothing":
                assert answers["next"] == "read_answers again"
            assert (answers["status"], set(answers["answers"])) == ("completed", {"0", "1"})
            rest = await agent.use("read_answers", **read, first=1)
            assert rest["answers"] == {"1": answers["answers"]["1"]}
            (listed,) = (await agent.use("list_jobs"))["jobs"]
            assert (listed["job_id"], listed["status"]) == (job_id, "succeeded")
            compared = await agent.use("compare_jobs", job_ids=[job_id, job_id])
            assert compared["rows"]["status"] == ["succeeded", "succeeded"]
            links = (await agent.use("create_download_links", model=watched["model"]))["links"]
            assert "architectures" in httpx.get(links["config.json"]).json()

    anyio.run(travel)


async def watch(agent: Agent, job_id: str) -> Json:
    while (watched := await agent.use("watch_job", job_id=job_id, wait_seconds=20))[
        "next"
    ] == "watch_job again":
        pass
    return watched


def test_the_skill_runs_as_it_stands(recipe_service: Service, tmp_path: Path) -> None:
    assert len(SKILL.read_text().splitlines()) < MAX_SKILL_LINES
    printed = run(recipe_service, tmp_path, script_of(SKILL))
    for words in ("«", "cost  ", "above base"):
        assert words in printed, printed
    assert (tmp_path / "model" / "SHA256SUMS").is_file()
