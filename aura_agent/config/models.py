"""The config as types: every key, its default, and what it means. The reader, the JSON Schema and the reference file
follow from these; rules that concern several keys are in ``rules``.

Durations are seconds and sizes are bytes here; people write both as text with a unit. Values are what was written:
nothing here looks at the host, the environment or the clock.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

DEFAULT_BASE_URL = "https://vijdplkdpkvdtybzjtgq.supabase.co/functions/v1/api-v1"
JOB_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
MAX_TAIL_BYTES = 200_000
HOOKS = ("on_failure", "on_recovery", "on_lost_run", "on_undeliverable")
MAX_DURATION_S = 10 * 365 * 86400.0  # far beyond any use, and well within what dates can be moved by


# What people write as text with a unit; the format tells the reader and the schema which.
Duration = Annotated[float, Meta(extra_json_schema={"format": "duration"})]
Size = Annotated[int, Meta(extra_json_schema={"format": "size"})]
Text = Annotated[str, Meta(min_length=1)]
JobName = Annotated[str, Meta(pattern=JOB_NAME_PATTERN)]
ExitCode = Annotated[int, Meta(ge=0, le=255)]


class ApiSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[api]: which Aura, and where its token is."""

    base_url: Annotated[Text, Meta(description="Where Aura's REST API is. AURA_API_URL comes first.")] = (
        DEFAULT_BASE_URL
    )
    token_file: Annotated[
        Text | None, Meta(description="The file that holds the API token, mode 0600. AURA_TOKEN_FILE comes first.")
    ] = None
    token_env: Annotated[
        Text | None, Meta(description="The environment variable that holds the API token, instead of token_file.")
    ] = None
    allow_insecure: Annotated[bool, Meta(description="Allow http:// to hosts other than this one.")] = False


class AgentSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[agent]: the daemon itself."""

    state_dir: Annotated[
        Text | None,
        Meta(
            description="Where the outbox is; default: /var/lib/aura-agent for root, else ~/.local/state/aura-agent."
            " AURA_STATE_DIR comes first."
        ),
    ] = None
    socket: Annotated[
        Text | None,
        Meta(description="Where aura-run reports; default: /run/aura-agent/agent.sock. AURA_SOCKET comes first."),
    ] = None
    reporters: Annotated[
        tuple[Text, ...],
        Meta(description='Who may report runs: users, and groups as "@group"; the daemon\'s own user always may.'),
    ] = ("root",)
    heartbeat: Annotated[
        Text | None, Meta(description="The agent's own heartbeat (id or name), pinged while the agent is healthy.")
    ] = None
    stop_grace: Annotated[Duration, Meta(description="How long running jobs may go on after a SIGTERM to us.")] = 30.0
    flush_timeout: Annotated[Duration, Meta(description="How long waiting pings are delivered before we end.")] = 10.0
    max_concurrent: Annotated[
        Annotated[int, Meta(ge=1, le=100_000)] | None,
        Meta(description="How many runs go on at once, the others wait for their turn; default: no limit."),
    ] = None
    max_concurrent_pings: Annotated[
        Annotated[int, Meta(ge=1, le=1000)], Meta(description="How many pings are sent at the same time.")
    ] = 16
    max_rate: Annotated[
        Annotated[int, Meta(ge=1, le=100_000)], Meta(description="How many pings are sent per second at the most.")
    ] = 50
    reload_on_change: Annotated[
        bool, Meta(description="Reload when the config's files change, as after a SIGHUP; also those of a ConfigMap.")
    ] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least severe events that are logged.")
    ] = "info"


class StatusSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[status]: the page for people, probes and Prometheus; nothing of it is loaded while listen is unset."""

    listen: Annotated[
        Text | None, Meta(description='Where the page, /healthz, /readyz and /metrics are: "127.0.0.1:8787".')
    ] = None
    allow_remote: Annotated[
        bool, Meta(description="Let listen be an address that other hosts reach; the page has no login.")
    ] = False


class JobGroup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[job_groups.NAME]: jobs that take turns."""

    max_concurrent: Annotated[
        Annotated[int, Meta(ge=1, le=100_000)] | None,
        Meta(description="How many runs of the group's jobs go on at once; default: no limit."),
    ] = None


class AttachSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[attach]: what goes with pings; whether anything does is each job's own ``attach``."""

    redact: Annotated[
        tuple[Text, ...],
        Meta(description="Regular expressions: what they match in a job's output is replaced before it is sent."),
    ] = ()


class ExpectFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """expect.file: a file that the run must have made, or it counts as failed."""

    path: Annotated[Text, Meta(description="An absolute path, or a glob of which the newest match counts.")]
    newer_than: Annotated[
        Duration | Literal["start"], Meta(description='Modified since the run\'s "start", or within this long.')
    ] = "start"
    min_size: Annotated[Size | None, Meta(description="At least this large.")] = None


class Expect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """expect: what must be true after a run that exits well, without which it isn't a success."""

    file: Annotated[ExpectFile | None, Meta(description="The file that the run must have made.")] = None


class WatchProcess(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """watch.process: healthy while a process that fits all of these is alive."""

    pidfile: Annotated[Text | None, Meta(description="The absolute path of a file whose first line is the pid.")] = None
    pattern: Annotated[
        Text | None, Meta(description="A regular expression that is searched for in the command line.")
    ] = None
    name: Annotated[Text | None, Meta(description="The whole process name, as pgrep -x takes it.")] = None
    user: Annotated[Text | None, Meta(description="The user that the process runs as.")] = None


class WatchFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """watch.file: healthy while the newest file that fits is young and large enough."""

    path: Annotated[Text, Meta(description="An absolute path, or a glob of which the newest match counts.")]
    max_age: Annotated[Duration | None, Meta(description="Modified within this long; default: any age.")] = None
    min_size: Annotated[Size | None, Meta(description="At least this large; default: any size.")] = None


class Watch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """watch: what is looked at instead of being run; exactly one of these."""

    process: Annotated[WatchProcess | None, Meta(description="A process that must be alive.")] = None
    file: Annotated[WatchFile | None, Meta(description="A file that must be fresh.")] = None


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """limits: what the kernel lets each process of a run use, setrlimit(2); soft and hard limit alike."""

    address_space: Annotated[Size | None, Meta(description="Virtual memory of a process (RLIMIT_AS).")] = None
    core: Annotated[Size | None, Meta(description="The size of a core dump (RLIMIT_CORE).")] = None
    cpu: Annotated[Duration | None, Meta(description="CPU time, in whole seconds (RLIMIT_CPU).")] = None
    data: Annotated[Size | None, Meta(description="Heap and other private memory (RLIMIT_DATA).")] = None
    file_size: Annotated[Size | None, Meta(description="The size of a file it writes (RLIMIT_FSIZE).")] = None
    locked_memory: Annotated[Size | None, Meta(description="Memory locked in RAM (RLIMIT_MEMLOCK).")] = None
    open_files: Annotated[
        Annotated[int, Meta(ge=3, le=2**31 - 1)] | None, Meta(description="Open descriptors (RLIMIT_NOFILE).")
    ] = None
    processes: Annotated[
        Annotated[int, Meta(ge=0, le=2**31 - 1)] | None,
        Meta(description="Processes and threads of the job's user, on the whole host (RLIMIT_NPROC)."),
    ] = None
    stack: Annotated[Size | None, Meta(description="The main thread's stack (RLIMIT_STACK).")] = None


class Hook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """on_…: what is called when something has happened to a job: a command, a webhook, or both. Empty: nothing."""

    command: Annotated[
        Annotated[tuple[str, ...], Meta(min_length=1)] | None,
        Meta(description="The program and its arguments; it runs as the job's user."),
    ] = None
    webhook: Annotated[
        Text | None, Meta(description='Where a JSON object is posted: a URL, or "file:PATH" of a file that holds it.')
    ] = None
    timeout: Annotated[Duration, Meta(description="How long each of them may take; what fails is tried once more.")] = (
        30.0
    )


class UndeliverableHook(Hook, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """on_undeliverable: the same, once pings have not got through for so long."""

    after: Annotated[Duration, Meta(description="How long a ping may wait before.")] = 3600.0


class JobDefaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[defaults]: what each job has unless it says otherwise. A job's own key replaces the one here; only the
    variables of env are joined, one by one.
    """

    timezone: Annotated[Text | None, Meta(description="IANA name of the schedule's zone; default: the host's.")] = None
    timeout: Annotated[
        Duration | None, Meta(description="SIGTERM to an attempt's whole process tree after this; default: never.")
    ] = None
    kill_after: Annotated[Duration, Meta(description="SIGKILL this long after the SIGTERM.")] = 10.0
    retries: Annotated[Annotated[int, Meta(ge=0, le=1000)], Meta(description="How often a failed run is repeated.")] = 0
    retry_delay: Annotated[Duration, Meta(description="How long to wait before the first repetition.")] = 10.0
    retry_backoff: Annotated[
        Annotated[int, Meta(ge=1, le=10)], Meta(description="How many times longer each further wait is; 1: the same.")
    ] = 2
    retry_max_delay: Annotated[Duration, Meta(description="The longest wait that this comes to.")] = 3600.0
    success_codes: Annotated[
        Annotated[tuple[ExitCode, ...], Meta(min_length=1)], Meta(description="The exit codes that count as success.")
    ] = (0,)
    cwd: Annotated[Text | None, Meta(description="The directory to run in; default: the user's home.")] = None
    env: Annotated[dict[str, str], Meta(description="Environment variables for the job.")] = {}
    env_file: Annotated[
        Text | None,
        Meta(description="A file of NAME=value lines, read at each start as the job's user; env comes before it."),
    ] = None
    inherit_env: Annotated[
        tuple[Text, ...],
        Meta(
            description="Variables that the job takes from the daemon's environment, never its secrets: names,"
            ' "PREFIX_*" or "*".'
        ),
    ] = ()
    user: Annotated[Text | None, Meta(description="Run as this user; default: the daemon's own.")] = None
    group: Annotated[Text | None, Meta(description="Run as this group; default: the user's own.")] = None
    umask: Annotated[
        Annotated[str, Meta(pattern=r"^[0-7]{3,4}$")] | None,
        Meta(description='The file mode mask in octal; default: "0022".'),
    ] = None
    nice: Annotated[
        Annotated[int, Meta(ge=-20, le=19)] | None,
        Meta(description="The scheduling priority, 19 the least; default: the daemon's own."),
    ] = None
    limits: Annotated[Limits | None, Meta(description="Resource limits of a run's processes; aura-run sets none.")] = (
        None
    )
    shell_program: Annotated[Text, Meta(description="The shell that runs what shell says, and is SHELL.")] = "/bin/sh"
    output: Annotated[
        Literal["history", "log", "drop"],
        Meta(description="history: the output's end goes there; log: its lines into the log, too; drop: nowhere."),
    ] = "history"
    overlap: Annotated[
        Literal["forbid", "allow", "replace", "queue"],
        Meta(description="What a fire time does while the previous run is still going."),
    ] = "forbid"
    catch_up: Annotated[
        Literal["skip", "latest", "all"], Meta(description="What becomes of fire times while the agent was down.")
    ] = "latest"
    catch_up_limit: Annotated[
        Annotated[int, Meta(ge=1, le=1000)], Meta(description='How many runs catch_up = "all" makes up for.')
    ] = 10
    misfire_grace: Annotated[
        Duration, Meta(description="How late a start may be before its fire time counts as missed.")
    ] = 60.0
    job_group: Annotated[
        Text | None, Meta(description="The group of [job_groups] whose max_concurrent counts for it; default: none.")
    ] = None
    jitter: Annotated[
        Duration, Meta(description="Start up to this much later, always equally late on the same host.")
    ] = 0.0
    max_age: Annotated[
        Duration | None,
        Meta(description="How long a success may wait for its delivery; default: the heartbeat's interval + grace."),
    ] = None
    grace: Annotated[
        Duration | None,
        Meta(
            description="How late a ping may be before Aura alarms, as sync sets it; default: worked out from schedule,"
            " timeout and retries."
        ),
    ] = None
    replay: Annotated[
        Literal["latest", "all"], Meta(description="Which of several waiting successes are delivered.")
    ] = "latest"
    attach: Annotated[
        Literal["none", "summary", "output"], Meta(description="What goes with the ping and leaves the host.")
    ] = "none"
    tail_bytes: Annotated[Size, Meta(description='How much of the output attach = "output" sends.')] = 10_000
    reporters: Annotated[
        tuple[Text, ...],
        Meta(description="Who may report this job with its heartbeat, and nothing else; beside those of [agent]."),
    ] = ()
    stop_grace: Annotated[
        Duration | None, Meta(description="How long a run may go on after a SIGTERM to us; default: that of [agent].")
    ] = None
    when_removed: Annotated[
        Literal["finish", "stop"],
        Meta(description="What a run does whose job has left the config: go on to its end, or be stopped."),
    ] = "finish"
    on_failure: Annotated[Hook | None, Meta(description="Called when a run has failed.")] = None
    on_recovery: Annotated[Hook | None, Meta(description="Called at the first success after a failure.")] = None
    on_lost_run: Annotated[
        Hook | None, Meta(description="Called when nobody will tell how a run ended; default: as on_failure.")
    ] = None
    on_undeliverable: Annotated[
        UndeliverableHook | None,
        Meta(description="Called when the job's pings don't get through, once until one does."),
    ] = None
    enabled: Annotated[bool, Meta(description="false: neither run nor watch it.")] = True


class Job(JobDefaults, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[jobs.NAME]: what is run, watched or reported, and the heartbeat it feeds.

    schedule or every with command or shell: we run it. watch with every: we look at it. Neither schedule, every nor
    watch: something else runs it, and aura-run reports it.
    """

    # Loading puts the job's name in for None.
    heartbeat: Annotated[Text | None, Meta(description="The heartbeat's id or name; default: the job's name.")] = None
    schedule: Annotated[
        Text | Annotated[list[Text], Meta(min_length=1)] | None,
        Meta(description='When to run, as cron writes it: "0 3 * * *"; or a list of such expressions.'),
    ] = None
    every: Annotated[Duration | None, Meta(description="How often to run or look, counted from 1970-01-01.")] = None
    expected_interval: Annotated[
        Duration | None, Meta(description="How often something else runs it at the least, for sync and check --online.")
    ] = None
    command: Annotated[
        Annotated[tuple[str, ...], Meta(min_length=1)] | None, Meta(description="The program and its arguments.")
    ] = None
    shell: Annotated[Text | None, Meta(description="A line for the shell, instead of command.")] = None
    expect: Annotated[Expect | None, Meta(description="What must be true after a run that exits well.")] = None
    watch: Annotated[Watch | None, Meta(description="What is looked at instead of being run.")] = None


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The config of aura-agent and aura-run. Each job is complete: what [defaults] says is already in it."""

    api: Annotated[ApiSettings, Meta(description="Which Aura, and where its token is.")] = ApiSettings()
    agent: Annotated[AgentSettings, Meta(description="The daemon itself.")] = AgentSettings()
    status: Annotated[StatusSettings, Meta(description="The page for people, probes and Prometheus.")] = (
        StatusSettings()
    )
    attach: Annotated[AttachSettings, Meta(description="What goes with pings.")] = AttachSettings()
    defaults: Annotated[JobDefaults, Meta(description="What each job has unless it says otherwise.")] = JobDefaults()
    job_groups: Annotated[dict[JobName, JobGroup], Meta(description="Groups of jobs by name.")] = {}
    jobs: Annotated[dict[JobName, Job], Meta(description="The jobs by name.")] = {}

    def heartbeats(self) -> dict[str, str]:
        """Return for each job the id or name of its heartbeat."""
        return {name: job.heartbeat or name for name, job in self.jobs.items()}
