from fastapi import Request, Response

from app.auth.caller import Caller
from app.files import service
from app.http import downloads
from app.services import Services


def send_content(
    services: Services, caller: Caller, request: Request, file_id: str, *, skip_bad_lines: bool
) -> Response:
    """Send the bytes of a file, or its good lines alone."""
    if skip_bad_lines:
        stream = service.retrieve_good_lines(services, caller, file_id)
        return downloads.send_stream(request, stream)
    content = service.retrieve_content(services, caller, file_id)
    return downloads.send(
        request, services.storage, content, redirects=services.settings.download_redirects
    )
