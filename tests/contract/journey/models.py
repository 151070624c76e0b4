import inspect
from functools import partial
from typing import Any

import openai

from tests.contract.journey.traveller import Traveller, done, each, every, ids, refused, same

GRADER = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "four",
    "operation": "eq",
}


async def journey(traveller: Traveller, job: Any) -> None:
    """From a job that has succeeded to its model being gone. The names hold slashes and colons."""
    await _permissions(traveller, job)
    await _graders(traveller)
    models = traveller.client.models
    assert {traveller.model, job.fine_tuned_model} <= set(ids(await every(models.list())))
    for name in (traveller.model, job.fine_tuned_model):
        model = await done(models.retrieve(name))
        same((model.id, model.object), (name, "model"))
        assert model.created > 0, model
    same(model.owned_by, job.organization_id)
    await refused(
        openai.PermissionDeniedError,
        "model_not_deletable",
        models.delete,
        traveller.model,
        param="model",
    )
    deleted = await done(models.delete(job.fine_tuned_model))
    same((deleted.id, deleted.object, deleted.deleted), (job.fine_tuned_model, "model", True))
    for call in (models.retrieve, models.delete):
        await refused(
            openai.NotFoundError, "model_not_found", call, job.fine_tuned_model, param="model"
        )


async def _permissions(traveller: Traveller, job: Any) -> None:
    permissions = traveller.client.fine_tuning.checkpoints.permissions
    checkpoint = f"{job.fine_tuned_model}:ckpt-step-4"
    others = traveller.other_projects
    created = [
        permission
        for project_id in others
        for permission in (
            await done(permissions.create(checkpoint, project_ids=[project_id]))
        ).data
    ]
    same(
        [(permission.object, permission.project_id) for permission in created],
        [("checkpoint.permission", each) for each in others],
    )
    if hasattr(permissions, "list"):
        same(ids(await every(permissions.list(checkpoint, limit=1))), ids(created[::-1]))
        same(
            ids(await every(permissions.list(checkpoint, limit=1, order="ascending"))), ids(created)
        )
    page = await done(permissions.retrieve(checkpoint, limit=1))
    same(
        (ids(page.data), page.has_more, page.first_id, page.last_id),
        ([created[-1].id], True, created[-1].id, created[-1].id),
    )
    page = await done(permissions.retrieve(checkpoint, after=page.last_id, project_id=others[0]))
    same((ids(page.data), page.has_more), ([created[0].id], False))

    delete = partial(permissions.delete, fine_tuned_model_checkpoint=checkpoint)
    async for permission in (
        each(permissions.list(checkpoint, limit=1))
        if hasattr(permissions, "list")
        else each(created)
    ):
        deleted = await done(delete(permission.id))
        same(
            (deleted.id, deleted.object, deleted.deleted),
            (permission.id, "checkpoint.permission", True),
        )
    same((await done(permissions.retrieve(checkpoint))).data, [])
    await refused(
        openai.NotFoundError, "permission_not_found", delete, created[0].id, param="permission_id"
    )
    unknown = {"project_ids": ["proj_unknown"]}
    await refused(
        openai.BadRequestError,
        "project_not_found",
        permissions.create,
        checkpoint,
        **unknown,
        param="project_ids",
    )
    for call, more in ((permissions.create, unknown), (permissions.retrieve, {})):
        name = "fine_tuned_model_checkpoint"
        await refused(
            openai.NotFoundError,
            "checkpoint_not_found",
            call,
            f"{job.fine_tuned_model}:ckpt-step-999",
            **more,
            param=name,
        )


async def _graders(traveller: Traveller) -> None:
    """They belong to a method that is not here, and the answer says so."""
    graders = traveller.client.fine_tuning.alpha.graders
    await refused(
        openai.NotFoundError,
        "graders_not_supported",
        graders.validate,
        grader=GRADER,
        param="grader",
    )
    sample: dict[str, Any] = {"model_sample": "four"}
    # needed until it was taken away
    if "reference_answer" in inspect.signature(graders.run).parameters:
        sample["reference_answer"] = "four"
    error = await refused(
        openai.NotFoundError,
        "graders_not_supported",
        graders.run,
        grader=GRADER,
        **sample,
        param="grader",
    )
    assert "reinforcement" in str(error), error
