"""Why a job was not started."""

from aura_agent.errors import AuraError

NOT_FOUND = 127
NOT_EXECUTABLE = 126


class SpawnFailed(AuraError):
    """The job could not be started. exit_code is what a shell would have said: 127 not found, 126 anything else."""

    outcome = "not_started"

    def __init__(self, text: str, *, exit_code: int = NOT_EXECUTABLE, error_number: int | None = None) -> None:
        self.exit_code = exit_code
        self.error_number = error_number
        super().__init__(text)
