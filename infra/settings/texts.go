package settings

// texts has of each setting, by its name, what a value must be and what it is for. They stand here and not in the tags,
// which can't be broken into lines.
var texts = map[string]struct{ must, about string }{
	"PORT": {
		must:  "be a whole number from 1 to 65535",
		about: "port to listen on",
	},
	"REDIS_URL": {
		must:  "be redis://host:port/database, or rediss:// for TLS",
		about: "Redis that holds who owns which user",
	},
	"REDIS_CA": {
		must:  "be certificates in PEM form",
		about: "certificates that may have signed Redis's",
	},
	"FIRESTORE_PROJECT": {
		must:  "be a Google Cloud project id",
		about: "project whose Firestore holds the instances' snapshots",
	},
	"FIRESTORE_DATABASE": {
		must:  "be (default) or a database id of 4 to 63 lower-case letters, digits and hyphens",
		about: "database in it",
	},
	"HOP_KEYS": {
		must:  "be one or more comma-separated keys of at least 32 characters each",
		about: "what fronts sign requests to instances with; the first signs, all verify",
	},
	"LOG_LEVEL": {
		must:  "be debug, info, warn or error",
		about: "least severe log lines that are written",
	},
	"LOG_FORMAT": {
		must:  "be json or text",
		about: "json is in Cloud Logging's form",
	},
	"MAX_BODY_BYTES": {
		must:  "be a size from 1KiB to 1GiB, in bytes or as 512KiB, 32MiB, 1GiB",
		about: "largest request body",
	},
	"METRICS_ADDR": {
		must:  "be host:port or :port, and not the service's port",
		about: "where /metrics is served in Prometheus' form, to whoever reaches it",
	},
	"TRACES_PER_SECOND": {
		must:  "be a whole number from 1 to 10000",
		about: "traces that are sampled at most, whatever OTEL_TRACES_SAMPLER_ARG says",
	},
	"TRACE_UPSTREAM": {
		must:  "be true or false",
		about: "whether API calls carry traceparent",
	},
	"STATS_TOKEN": {
		must:  "be printable ASCII without spaces",
		about: "when set, stats need Authorization: Bearer with it; without it nobody gets /v1/admin/usage",
	},
	"API_KEYS": {
		must:  "be comma-separated SHA-256 digests of keys, 64 hex digits each",
		about: "when set, clients need one of the keys, as x-claudepool-key, x-api-key or a bearer token",
	},
	"RATE_LIMIT_USER": {
		must:  "be a number of requests per s, m or h, such as 60/m",
		about: "requests of one user, at all fronts together",
	},
	"RATE_LIMIT_ADDR": {
		must:  "be a number of requests per s, m or h, such as 60/m",
		about: "requests from one address, at all fronts together",
	},
	"ALLOWED_ORIGINS": {
		must:  "be comma-separated origins such as https://app.example.com, or * alone",
		about: "origins whose pages may use the service from a browser",
	},
	"TRUSTED_PROXIES": {
		must: "be a whole number from 0 to 10",
		about: "proxies in front that append to X-Forwarded-For, from which the client's address is taken: 1 on Cloud " +
			"Run, 2 with a load balancer before it",
	},
	"ADVERTISE_ADDR": {
		must:  "be host:port",
		about: "where fronts reach this instance",
	},
	"CLAUDE_BIN": {
		must:  "be a program's name or path",
		about: "the claude CLI",
	},
	"ANTHROPIC_BASE_URL": {
		must:  "be an absolute http or https URL without user, query or fragment",
		about: "where the broker sends API calls",
	},
	"WORKSPACES_ROOT": {
		must:  "be an absolute path",
		about: "folder of the conversations' homes",
	},
	"IDLE_TIMEOUT": {
		must:  "be a duration of at least 1ms, such as 5m",
		about: "how long an idle process is kept",
	},
	"CLEANUP_INTERVAL": {
		must:  "be a duration of at least 1ms, such as 60s",
		about: "longest sleep of the reaper",
	},
	"WORKSPACE_TTL": {
		must:  "be a duration of at least 1ms, such as 24h",
		about: "how long an unused conversation's files are kept",
	},
	"STANDBY": {
		must:  "be a whole number from 0 to 1000",
		about: "least number of processes that are started in advance; more after bursts of new users",
	},
	"PARKED": {
		must:  "be a whole number from 0 to 1000",
		about: "the same of processes for conversations that have a past; none without uids of their own",
	},
	"MAX_PROCESSES": {
		must:  "be a whole number from 0 to 10000, 0 for as many as memory allows",
		about: "processes of this instance",
	},
	"MAX_PROCESSES_PER_USER": {
		must:  "be a whole number from 1 to 10000",
		about: "processes, and so conversations at a time, of one user",
	},
	"MAX_CONVERSATIONS_PER_USER": {
		must:  "be a whole number from 1 to 100000",
		about: "conversations of one user whose files are kept; then the longest unused ones give way",
	},
	"QUEUE_LIMIT": {
		must:  "be a whole number from 0 to 100000",
		about: "requests that may wait for one conversation",
	},
	"TURN_TIMEOUT": {
		must:  "be a duration of at least 1ms, such as 30m",
		about: "longest turn",
	},
	"QUEUE_TIMEOUT": {
		must:  "be a duration of at least 1ms, such as 2m",
		about: "longest wait for a conversation",
	},
	"SILENCE_TIMEOUT": {
		must:  "be a duration of at least 45s, such as 5m",
		about: "longest API call without any output",
	},
	"SPAWN_TIMEOUT": {
		must:  "be a duration of at least 1ms, such as 30s",
		about: "longest start of a process",
	},
	"APPROVALS": {
		must:  "be true or false",
		about: "whether clients may approve, within their process's isolation, what the permission mode alone doesn't allow",
	},
	"APPROVAL_TIMEOUT": {
		must:  "be a duration of at least 1ms, such as 10m",
		about: "how long a turn waits for its client to approve or answer; then it is told no",
	},
	"DRAIN_TIMEOUT": {
		must:  "be a duration of at least 1ms, such as 8s",
		about: "how long running turns may go on after SIGTERM",
	},
	"WORKSPACE_MAX_BYTES": {
		must:  "be a size from 16MiB to 1TiB, in bytes or as 512MiB, 2GiB",
		about: "what all files of one user may take on disk",
	},
	"WORKSPACE_MAX_FILES": {
		must:  "be a whole number from 100 to 100000000",
		about: "how many files one user may have",
	},
	"ARCHIVE_TTL": {
		must: "be a duration such as 168h, or 0",
		about: "how long conversations are kept for whichever instance serves their user next, sealed with the user's " +
			"token; 0 is not at all",
	},
	"ARCHIVE_DIR": {
		must:  "be an absolute path",
		about: "folder to keep them in instead, for instances of one machine",
	},
	"ARCHIVE_MAX_BYTES": {
		must:  "be a size from 64KiB to 64MiB, in bytes or as 512KiB, 16MiB",
		about: "largest transcript that is kept",
	},
	"LOG_MAX_BYTES": {
		must:  "be a size from 1MiB to 64GiB, in bytes or as 256MiB, 1GiB",
		about: "what the event logs of all conversations' channels may take",
	},
	"MAX_PROCESS_RSS": {
		must:  "be a size from 16MiB to 1TiB, in bytes or as 512MiB, 2GiB",
		about: "memory of a process and all it started, over which it is replaced between turns",
	},
	"ISOLATION": {
		must:  "be require, best-effort or off",
		about: "whether to start where a protection is missing; off is none at all",
	},
	"UID_BASE": {
		must:  "be a whole number from 1000 to 4000000000",
		about: "first of the user ids that processes run under, when the service is root",
	},
	"UID_COUNT": {
		must: "be a whole number from 8 to 1000000",
		about: "user ids of this instance, one for each conversation whose files are kept; instances of one machine " +
			"take adjoining blocks",
	},
	"CONNECT_PORTS": {
		must:  "be comma-separated TCP ports from 1 to 65535",
		about: "TCP ports that confined processes may connect to, on any host",
	},
	"BIND_PORTS": {
		must:  "be comma-separated TCP ports from 1 to 65535",
		about: "TCP ports that confined processes may listen on",
	},
	"BUDGET_USER": {
		must:  "be dollars per day or per 2 to 31 days, such as 5usd/d or 200usd/30d",
		about: "what each user may spend; then its requests are refused, and running turns end after their present call",
	},
	"BUDGET_KEY": {
		must:  "be dollars per day or per 2 to 31 days, such as 5usd/d or 200usd/30d",
		about: "what may be spent by one of the API_KEYS, by all its users together",
	},
	"PERMISSION_MODE": {
		must:  "be default, acceptEdits, plan, dontAsk or bypassPermissions",
		about: "highest permission mode a request may ask for, and that of requests which don't ask",
	},
	"WORKER_POOL": {
		must: "be projects/PROJECT/locations/REGION/workerPools/NAME",
	},
	"MIN_INSTANCES": {
		must: "be a whole number from 1 to MAX_INSTANCES",
	},
	"MAX_INSTANCES": {
		must: "be a whole number from 1 to 1000",
	},
	"TARGET_PERCENT": {
		must: "be a whole number from 10 to 100",
	},
	"SHRINK_AFTER": {
		must: "be a duration of at least 1m, such as 10m",
	},
	"DRY_RUN": {
		must: "be true or false",
	},
}
