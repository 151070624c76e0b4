from typing import Any

from tests.contract.journey.traveller import Traveller, done, every


async def journey(traveller: Traveller, job: Any) -> None:
    """Everything that is there by now, read by a client that is told to refuse what is not exactly
    of the official type.
    """
    client = traveller.client.with_options(_extra_kwargs={"_strict_response_validation": True})
    assert client._strict_response_validation
    jobs = client.fine_tuning.jobs
    permissions = client.fine_tuning.checkpoints.permissions
    for file in await every(client.files.list()):
        await done(client.files.retrieve(file.id))
    for item in await every(jobs.list()):
        await done(jobs.retrieve(item.id))
        await every(jobs.list_events(item.id))
        await every(jobs.checkpoints.list(item.id))
    for model in await every(client.models.list()):
        await done(client.models.retrieve(model.id))
    checkpoint = f"{job.fine_tuned_model}:ckpt-step-4"
    created = await done(permissions.create(checkpoint, project_ids=traveller.other_projects))
    await done(permissions.retrieve(checkpoint))
    for permission in created.data:
        await done(permissions.delete(permission.id, fine_tuned_model_checkpoint=checkpoint))
    upload = await done(
        client.uploads.create(bytes=1, filename="a", mime_type="text/plain", purpose="batch")
    )
    part = await done(client.uploads.parts.create(upload.id, data=b"a"))
    completed = await done(client.uploads.complete(upload.id, part_ids=[part.id]))
    await done(client.files.delete(completed.file.id))
