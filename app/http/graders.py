"""Endpoints of graders, which belong to reinforcement fine-tuning: they refuse, as that is not
supported.
"""

from typing import NoReturn

from fastapi import APIRouter

from app.base.errors import NotFound
from app.http.dependencies import Reader
from app.http.routes import ApiRoute

router = APIRouter(
    prefix="/v1/fine_tuning/alpha/graders", route_class=ApiRoute, include_in_schema=False
)


@router.post("/run", response_model=None)
@router.post("/validate", response_model=None)
def refuse(caller: Reader) -> NoReturn:
    raise NotFound(
        "Graders serve method 'reinforcement', which this service does not have; "
        "it has 'supervised' and 'dpo'.",
        param="grader",
        code="graders_not_supported",
    )
