"""Every event that is logged: its name, how loud it is, and what it means. Names are ``noun.verb_past``.

Who logs uses the constant or its text; what isn't here is logged as ``info`` and not counted.
"""

PING_DELIVERED = "ping.delivered"
PING_POSTPONED = "ping.postponed"
PING_PARKED = "ping.parked"
PING_INVALIDATED = "ping.invalidated"
PING_SUPERSEDED = "ping.superseded"
PING_EXPIRED = "ping.expired"
PING_QUARANTINED = "ping.quarantined"
PING_DROPPED = "ping.dropped"
HOST_DOWN = "host.down"
HOST_RECOVERED = "host.recovered"
HEARTBEAT_RESOLVED = "heartbeat.resolved"
HEARTBEAT_INTERVAL_UNKNOWN = "heartbeat.interval_unknown"
API_FAILED = "api.failed"
API_RECOVERED = "api.recovered"
HTTP_SETTING_IGNORED = "http.setting_ignored"
STORE_FAILED = "store.failed"
STORE_RECOVERED = "store.recovered"
STORE_SET_ASIDE = "store.set_aside"
REPORT_REFUSED = "report.refused"
REPORT_UNHEARD = "report.unheard"
REPORT_FAILED = "report.failed"
RUN_STARTED = "run.started"
RUN_OUTPUT = "run.output"
RUN_FINISHED = "run.finished"
RUN_LOST = "run.lost"
RUN_CRASHED = "run.crashed"
FIRE_TIME_SKIPPED = "fire_time.skipped"
CLOCK_SET_BACK = "clock.set_back"
CONFIG_LOADED = "config.loaded"
CONFIG_REFUSED = "config.refused"
CONFIG_UNWATCHED = "config.unwatched"
TOKEN_EXPOSED = "token.exposed"
TOKEN_UNREADABLE = "token.unreadable"
HOOK_CALLED = "hook.called"
HOOK_FAILED = "hook.failed"
WATCH_CHANGED = "watch.changed"
WATCH_PINGED = "watch.pinged"
WATCH_PING_FAILED = "watch.ping_failed"
WATCH_PING_RECOVERED = "watch.ping_recovered"
STATUS_LISTENING = "status.listening"
STATUS_FAILED = "status.failed"
SURROUNDINGS_MISSING = "surroundings.missing"
MODULES_LOADED = "modules.loaded"
HTTP_FAILED = "http.failed"
AGENT_STOPPING = "agent.stopping"
AGENT_STARTED = "agent.started"
CONFIG_WITHOUT_JOBS = "config.without_jobs"
AGENT_STOPPED = "agent.stopped"
AGENT_CRASHED = "agent.crashed"
LIBRARY_WARNED = "library.warned"
LOG_DROPPED = "log.dropped"
EXCEPTION_IGNORED = "exception.ignored"

# Level and meaning.
CATALOGUE: dict[str, tuple[str, str]] = {
    PING_DELIVERED: ("info", "a ping was acknowledged with a 2xx"),
    PING_POSTPONED: ("info", "a ping was not acknowledged and will be sent again"),
    PING_PARKED: ("warning", "a ping needs a human: one try an hour until it expires"),
    PING_QUARANTINED: ("error", "a ping's row in the store is damaged: it was set aside, and is not sent"),
    PING_INVALIDATED: ("warning", "a waiting success was withdrawn because a later run failed"),
    PING_SUPERSEDED: ("info", "a waiting success gave way to a newer one"),
    PING_EXPIRED: ("warning", "a success became too old to be told"),
    PING_DROPPED: ("warning", "somebody dropped a ping from the outbox by hand"),
    HOST_DOWN: ("warning", "a host of ping URLs doesn't answer: one ping at a time is tried, the others wait"),
    HOST_RECOVERED: ("info", "a host of ping URLs answers again"),
    HEARTBEAT_RESOLVED: ("info", "a heartbeat's ping URL was found"),
    HEARTBEAT_INTERVAL_UNKNOWN: ("warning", "a heartbeat's interval is unknown: its pings expire after 24 h"),
    API_FAILED: ("warning", "a call of the Aura API failed"),
    API_RECOVERED: ("info", "the Aura API answers again"),
    HTTP_SETTING_IGNORED: ("warning", "an environment variable for proxies or certificates can't be used as it is"),
    STORE_FAILED: ("error", "the outbox can't be read or written"),
    STORE_RECOVERED: ("info", "the outbox works again"),
    STORE_SET_ASIDE: ("error", "a file of the store is damaged, and was given another name"),
    REPORT_REFUSED: ("warning", "a user who isn't in reporters tried to report a run"),
    REPORT_UNHEARD: ("error", "no more connections can be taken for now: reports go to the spool meanwhile"),
    REPORT_FAILED: ("error", "an error that nobody foresaw ended the conversation with an aura-run"),
    RUN_STARTED: ("info", "a run of a job has begun"),
    RUN_OUTPUT: ("info", "a line of a job's output, if the job says output = log"),
    RUN_FINISHED: ("info", "a run of a job has ended; a warning unless it succeeded or was skipped"),
    RUN_LOST: ("warning", "a run is over and nobody told how it ended: it counts as failed"),
    RUN_CRASHED: ("error", "an error that nobody foresaw ended the care for a run"),
    FIRE_TIME_SKIPPED: ("warning", "a fire time passed without a run"),
    CLOCK_SET_BACK: (
        "warning",
        "the clock is behind fire times dealt with: jobs wait for it, unless it would be for more than a day",
    ),
    CONFIG_LOADED: ("info", "a config is in force"),
    CONFIG_REFUSED: ("error", "a new config has problems; the old one stays in force"),
    CONFIG_UNWATCHED: ("error", "changes of the config's files go unnoticed: reload by SIGHUP"),
    TOKEN_UNREADABLE: ("error", "there is no API token yet: jobs run, and pings whose URL isn't known wait for it"),
    TOKEN_EXPOSED: ("warning", "others can read the file that holds the token"),
    HOOK_CALLED: ("info", "a hook has told people what happened to a job"),
    HOOK_FAILED: ("warning", "a hook failed, twice: nobody was told"),
    WATCH_PINGED: ("debug", "a watch is healthy, and Aura knows"),
    WATCH_PING_FAILED: ("warning", "a watch is healthy, and Aura can't be told"),
    WATCH_PING_RECOVERED: ("info", "a watch's pings arrive again"),
    STATUS_LISTENING: ("info", "page, probes and metrics are served"),
    STATUS_FAILED: ("error", "the status page can't listen; tried again up to once a minute"),
    SURROUNDINGS_MISSING: ("warning", "the host lacks something; the line says what that costs"),
    MODULES_LOADED: ("debug", "what the agent needs later is loaded: an upgrade under it does no harm"),
    HTTP_FAILED: ("error", "HTTP can't be loaded, so commands and the status page fail: restart the agent"),
    AGENT_STOPPING: ("info", "the agent was told to stop"),
    WATCH_CHANGED: ("info", "what a watch sees has changed; a warning if it is unhealthy now"),
    CONFIG_WITHOUT_JOBS: ("info", "there is no config, or it has no jobs: nothing is scheduled"),
    AGENT_STARTED: ("info", "the agent is ready"),
    AGENT_STOPPED: ("info", "the agent has stopped"),
    AGENT_CRASHED: ("critical", "an error that nobody foresaw"),
    LIBRARY_WARNED: ("warning", "a library logged a warning or an error"),
    LOG_DROPPED: ("warning", "log lines were dropped: nobody read the log, or it could not be written"),
    EXCEPTION_IGNORED: ("error", "Python ignored an exception of a destructor or a callback"),
}
