from dataclasses import dataclass

from app.base.errors import Forbidden, InvalidApiKey
from app.models import DEFAULT_PROJECT_ID, Scope

RIGHTS = list(Scope)  # each includes those before it


@dataclass(frozen=True, slots=True)
class Caller:
    """Caller of a request, as identified by the API key."""

    key_id: str
    project_id: str
    scope: Scope
    requests_per_minute: int | None  # null: as in the settings
    use_is_due: bool  # last use is due to be recorded
    project_name: str = ""  # name shown to people
    user_id: str | None = None  # person that the key belongs to; null: it is the project's
    stores_answers: bool = False
    # Details of the request, for the audit log.
    request_id: str = ""
    address: str = ""
    session_id: str | None = None  # session of the dashboard; null: over the API

    @property
    def administers_installation(self) -> bool:
        return self.scope is Scope.ADMIN and self.project_id == DEFAULT_PROJECT_ID

    @property
    def administered_project(self) -> str | None:
        """Return the one project whose settings and keys they may see; None: every project's."""
        if self.administers_installation:
            return None
        return self.project_id

    def must_have(self, scope: Scope) -> None:
        if RIGHTS.index(self.scope) < RIGHTS.index(scope):
            raise Forbidden(
                f"This needs an API key with the right '{scope}'; yours has '{self.scope}'."
            )

    def must_administer_installation(self) -> None:
        if not self.administers_installation:
            raise Forbidden(
                f"This needs an admin key of the project '{DEFAULT_PROJECT_ID}', "
                "which administers the whole service."
            )

    def must_mean(self, project_id: str | None) -> None:
        """Refuse a caller that means another project."""
        if project_id and project_id != self.project_id:
            raise InvalidApiKey(
                f"The header OpenAI-Project says '{project_id}', "
                f"but this API key belongs to '{self.project_id}'. "
                "Leave the header out (the client takes it from OPENAI_PROJECT_ID), "
                "or use a key of that project.",
                param="OpenAI-Project",
                code="mismatched_project",
            )
