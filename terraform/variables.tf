variable "project" {
  description = "Id of the Google Cloud project everything lives in."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "project must be a project id, not its name or number."
  }
}

variable "region" {
  description = "Region of everything that has one. Cloud Run worker pools and Memorystore have to exist there."
  type        = string
  default     = "us-central1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region must look like us-central1."
  }
}

variable "name" {
  description = "First part of every resource's name."
  type        = string
  default     = "claudepool"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,18}[a-z0-9]$", var.name))
    error_message = "name must be 4 to 20 lower-case letters, digits and hyphens, first a letter and no hyphen at the end."
  }
}

variable "bootstrap" {
  description = "True for the first apply only: there are no images yet, so everything is made but the two services."
  type        = bool
  default     = false
}

variable "front_image" {
  description = "The front's image by digest. The build gives it; `terraform output -json images` tells the present one."
  type        = string
  default     = null

  validation {
    condition     = var.bootstrap ? var.front_image == null : can(regex("@sha256:[0-9a-f]{64}$", var.front_image))
    error_message = "front_image must be given and end in @sha256: and a digest: a tag can change under a running service. Not with bootstrap, which would take that service away."
  }
}

variable "pool_image" {
  description = "The pool's image by digest, as front_image."
  type        = string
  default     = null

  validation {
    condition     = var.bootstrap ? var.pool_image == null : can(regex("@sha256:[0-9a-f]{64}$", var.pool_image))
    error_message = "pool_image must be given and end in @sha256: and a digest: a tag can change under a running service. Not with bootstrap, which would take that service away."
  }
}

variable "public" {
  description = "Whether anybody may call the front. If not, callers need roles/run.invoker. Needs client_key_digests, or RATE_LIMIT_ADDR in front_settings: a stranger's token starts a process before any API has seen it."
  type        = bool
  default     = false

  validation {
    condition     = !var.public || length(var.client_key_digests) > 0 || contains(keys(var.front_settings), "RATE_LIMIT_ADDR")
    error_message = "public needs client_key_digests, or RATE_LIMIT_ADDR in front_settings."
  }
}

variable "invokers" {
  description = "Who may call a front that is not public, such as group:developers@example.com."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for m in var.invokers : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):", m))])
    error_message = "invokers must be IAM members of users, groups, service accounts, domains or principals; use public for everybody."
  }
}

variable "domain" {
  description = "Host name the front is reached at through a load balancer. Null: only at its run.app address."
  type        = string
  default     = null

  validation {
    condition     = var.domain == null || can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain))
    error_message = "domain must be a host name in lower case without scheme or path."
  }
}

variable "address_limit" {
  description = "Requests that the load balancer passes on from one address within so many seconds; the rest get 429 from Google. A stream is one request, however long."
  type = object({
    requests = optional(number, 600)
    seconds  = optional(number, 60)
  })
  default = {}

  validation {
    condition     = var.address_limit.requests >= 1 && floor(var.address_limit.requests) == var.address_limit.requests && contains([10, 30, 60, 120, 180, 240, 270, 300, 600, 900, 1200, 1800, 2700, 3600], var.address_limit.seconds)
    error_message = "address_limit: requests must be a whole number from 1 on, seconds one of those that Cloud Armor knows, such as 10, 60 or 3600."
  }
  # A rate that isn't one is refused where it stands.
  validation {
    condition = try(
      tonumber(split("/", var.front_settings["RATE_LIMIT_ADDR"])[0]) / { s = 1, m = 60, h = 3600 }[split("/", var.front_settings["RATE_LIMIT_ADDR"])[1]]
    <= var.address_limit.requests / var.address_limit.seconds, true)
    error_message = "address_limit must let through what RATE_LIMIT_ADDR does: the front's own answer tells a client when to come again."
  }
}

variable "balancer_log_share" {
  description = "Share of the requests that the load balancer logs, from 0 to 1."
  type        = number
  default     = 1

  validation {
    condition     = var.balancer_log_share >= 0 && var.balancer_log_share <= 1
    error_message = "balancer_log_share must be from 0 to 1."
  }
}

variable "front" {
  description = "Size of the front: instances (each costs as long as it lives), requests at a time of each, CPU and memory."
  type = object({
    min_instances = optional(number, 1)
    max_instances = optional(number, 10)
    concurrency   = optional(number, 500)
    cpu           = optional(string, "1")
    memory        = optional(string, "512Mi")
  })
  default = {}

  validation {
    condition     = alltrue([for n in [var.front.min_instances, var.front.max_instances, var.front.concurrency] : floor(n) == n])
    error_message = "front: instances and concurrency must be whole numbers."
  }
  validation {
    condition     = var.front.min_instances >= 0 && var.front.max_instances >= max(1, var.front.min_instances) && var.front.max_instances <= 100
    error_message = "front: 0 <= min_instances <= max_instances <= 100, and max_instances at least 1."
  }
  validation {
    condition     = var.front.concurrency >= 1 && var.front.concurrency <= 1000
    error_message = "front.concurrency must be from 1 to 1000."
  }
  validation {
    condition     = try(4 * var.front.max_instances <= pow(2, 32 - tonumber(split("/", var.ranges.front)[1])) - 4, true)
    error_message = "front.max_instances must fit into ranges.front: while a revision replaces another, each takes four addresses."
  }
  # What Cloud Run gives to so many processors.
  validation {
    condition = can(regex("^[0-9]+(Mi|Gi)$", var.front.memory)) && try(
      { "1" = 512, "2" = 512, "4" = 2048, "6" = 4096, "8" = 4096 }[var.front.cpu] <= tonumber(regex("^[0-9]+", var.front.memory)) * (endswith(var.front.memory, "Gi") ? 1024 : 1) &&
      { "1" = 4, "2" = 8, "4" = 16, "6" = 24, "8" = 32 }[var.front.cpu] * 1024 >= tonumber(regex("^[0-9]+", var.front.memory)) * (endswith(var.front.memory, "Gi") ? 1024 : 1),
    false)
    error_message = "front.cpu must be 1, 2, 4, 6 or 8, with front.memory of 512Mi to 4Gi, 512Mi to 8Gi, 2Gi to 16Gi, 4Gi to 24Gi, 4Gi to 32Gi."
  }
}

variable "front_settings" {
  description = "Settings of the front that differ from their defaults, by the environment variable's name. README.md lists them."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.front_settings) : contains(["RATE_LIMIT_USER", "RATE_LIMIT_ADDR", "ALLOWED_ORIGINS", "LOG_LEVEL", "MAX_BODY_BYTES", "TRACES_PER_SECOND"], name)])
    error_message = "front_settings has a name that is no setting of the front, or one that this module sets itself."
  }
  validation {
    condition     = alltrue([for name, value in var.front_settings : can(regex("^[1-9][0-9]*/[smh]$", value)) if startswith(name, "RATE_LIMIT_")])
    error_message = "front_settings: rates are like 60/m."
  }
}

variable "pool" {
  description = "Size of the pool: instances at the start (later changes are left to whoever scales it), CPU, memory and disk of each. More than 10Gi of disk is a quota to be asked for."
  type = object({
    instances = optional(number, 2)
    cpu       = optional(string, "4")
    memory    = optional(string, "16Gi")
    disk      = optional(string, "10Gi")
  })
  default = {}

  validation {
    condition     = var.pool.instances >= 1 && var.pool.instances <= 100 && floor(var.pool.instances) == var.pool.instances
    error_message = "pool.instances must be a whole number from 1 to 100."
  }
  validation {
    condition     = try(4 * var.pool.instances <= pow(2, 32 - tonumber(split("/", var.ranges.pool)[1])) - 4, true)
    error_message = "pool.instances must fit into ranges.pool: while a revision replaces another, each takes four addresses."
  }
  validation {
    condition = can(regex("^[0-9]+Gi$", var.pool.memory)) && try(
      { "1" = 1, "2" = 1, "4" = 2, "6" = 4, "8" = 4 }[var.pool.cpu] <= tonumber(trimsuffix(var.pool.memory, "Gi")) &&
      { "1" = 4, "2" = 8, "4" = 16, "6" = 24, "8" = 32 }[var.pool.cpu] >= tonumber(trimsuffix(var.pool.memory, "Gi")),
    false)
    error_message = "pool.cpu must be 1, 2, 4, 6 or 8, with pool.memory of 1Gi to 4Gi, 1Gi to 8Gi, 2Gi to 16Gi, 4Gi to 24Gi, 4Gi to 32Gi."
  }
  validation {
    condition     = can(regex("^[0-9]+Gi$", var.pool.disk)) && try(tonumber(trimsuffix(var.pool.disk, "Gi")), 0) >= 10
    error_message = "pool.disk must be like 10Gi, which is the least."
  }
}

variable "pool_settings" {
  description = "Settings of the pool that differ from their defaults, by the environment variable's name. README.md lists them."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([for name in keys(var.pool_settings) : contains([
      "IDLE_TIMEOUT", "CLEANUP_INTERVAL", "WORKSPACE_TTL", "STANDBY", "PARKED", "MAX_PROCESSES", "MAX_PROCESSES_PER_USER", "MAX_CONVERSATIONS_PER_USER", "QUEUE_LIMIT",
      "TURN_TIMEOUT", "QUEUE_TIMEOUT", "SILENCE_TIMEOUT", "SPAWN_TIMEOUT", "APPROVALS", "APPROVAL_TIMEOUT", "MAX_PROCESS_RSS", "ARCHIVE_TTL", "ARCHIVE_MAX_BYTES", "LOG_MAX_BYTES", "WORKSPACE_MAX_BYTES",
      "WORKSPACE_MAX_FILES", "CONNECT_PORTS", "BIND_PORTS", "BUDGET_USER", "BUDGET_KEY", "PERMISSION_MODE", "MAX_BODY_BYTES", "LOG_LEVEL", "ANTHROPIC_BASE_URL", "TRACES_PER_SECOND", "TRACE_UPSTREAM",
    ], name)])
    error_message = "pool_settings has a name that is no setting of the pool, or one that this module sets itself."
  }
  validation {
    condition     = alltrue([for name, value in var.pool_settings : can(regex("^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$", value)) || "${name} ${value}" == "ARCHIVE_TTL 0" if can(regex("_(TIMEOUT|INTERVAL|TTL)$", name))])
    error_message = "pool_settings: durations are like 90s, 5m or 1h30m."
  }
}

variable "telemetry" {
  description = "Push metrics and traces to the project by OTLP, and alert on what they tell. Null: neither. trace_ratio is the share of the requests that are traced; first_token_objective the share of the turns whose first token has to come within first_token (1s, 3s, 10s or 30s), and turns_objective that of those which may not come to nothing, both over 30 days."
  type = object({
    trace_ratio           = optional(number, 0.05)
    first_token           = optional(string, "10s")
    first_token_objective = optional(number, 0.95)
    turns_objective       = optional(number, 0.99)
  })
  default = null

  validation {
    condition     = var.telemetry == null || try(var.telemetry.trace_ratio >= 0 && var.telemetry.trace_ratio <= 1, false)
    error_message = "telemetry.trace_ratio must be from 0 to 1."
  }
  validation {
    condition     = var.telemetry == null || try(contains(["1s", "3s", "10s", "30s"], var.telemetry.first_token), false)
    error_message = "telemetry.first_token must be 1s, 3s, 10s or 30s."
  }
  validation {
    condition     = var.telemetry == null || try(alltrue([for o in [var.telemetry.first_token_objective, var.telemetry.turns_objective] : o >= 0.95 && o < 1]), false)
    error_message = "telemetry: objectives must be from 0.95 to below 1; less couldn't be missed at the pace that alerts."
  }
}

variable "isolation" {
  description = "ISOLATION of the pool: require refuses to start where a protection is missing."
  type        = string
  default     = "require"

  validation {
    condition     = contains(["require", "best-effort", "off"], var.isolation)
    error_message = "isolation must be require, best-effort or off."
  }
}

variable "pool_launch_stage" {
  description = "Launch stage the worker pool is asked for: its private ingress was last seen as BETA."
  type        = string
  default     = "BETA"

  validation {
    condition     = contains(["GA", "BETA", "ALPHA"], var.pool_launch_stage)
    error_message = "pool_launch_stage must be GA, BETA or ALPHA."
  }
}

variable "redis" {
  description = "Memorystore: memory in GiB and whether a second zone stands by (tier STANDARD_HA)."
  type = object({
    memory_gb         = optional(number, 1)
    high_availability = optional(bool, true)
  })
  default = {}

  validation {
    condition     = var.redis.memory_gb >= 1 && var.redis.memory_gb <= 300 && floor(var.redis.memory_gb) == var.redis.memory_gb
    error_message = "redis.memory_gb must be a whole number from 1 to 300."
  }
}

variable "ranges" {
  description = "Private address ranges: of the front and of the pool (two addresses an instance, twice that during a rollout), and of Redis (a /29)."
  type = object({
    front = optional(string, "10.80.0.0/24")
    redis = optional(string, "10.80.1.0/29")
    pool  = optional(string, "10.80.2.0/23")
  })
  default = {}

  validation {
    condition     = alltrue([for r in values(var.ranges) : can(cidrhost(r, 1))])
    error_message = "ranges must be in CIDR form, such as 10.80.0.0/24."
  }
  validation {
    condition     = alltrue([for r in [var.ranges.front, var.ranges.pool] : try(tonumber(split("/", r)[1]), 32) <= 26])
    error_message = "Direct VPC needs subnets of /26 or larger."
  }
  validation {
    condition     = endswith(var.ranges.redis, "/29")
    error_message = "Redis takes a /29."
  }
  # Two ranges are apart when they differ in as many bits as the wider one is named by.
  validation {
    condition = try(alltrue([
      for pair in [[var.ranges.front, var.ranges.pool], [var.ranges.front, var.ranges.redis], [var.ranges.pool, var.ranges.redis]] :
      length(distinct([for r in pair : cidrhost("${split("/", r)[0]}/${min([for p in pair : tonumber(split("/", p)[1])]...)}", 0)])) == 2
    ]), false)
    error_message = "ranges must not overlap."
  }
}

variable "hop_keys" {
  description = "What HOP_KEYS becomes when hop_keys_version is raised: comma-separated, the first signs, all verify. Only for a rotation, in the environment (TF_VAR_hop_keys); it is kept nowhere. Null: a single new key."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = var.hop_keys == null ? true : alltrue([for key in split(",", var.hop_keys) : can(regex("^[0-9A-Za-z]{32,}$", key))])
    error_message = "hop_keys must be comma-separated keys of 32 letters and digits or more."
  }
}

variable "hop_keys_version" {
  description = "Raise by one to write the hop keys anew."
  type        = number
  default     = 1

  validation {
    condition     = var.hop_keys_version >= 1 && floor(var.hop_keys_version) == var.hop_keys_version
    error_message = "hop_keys_version must be a whole number from 1 on."
  }
}

variable "client_key_digests" {
  description = "SHA-256 digests in hex of the keys one of which clients must show, by names of yours. Empty: none is needed. To rotate, apply {a}, {a, b}, {b}."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for digest in values(var.client_key_digests) : can(regex("^[0-9a-f]{64}$", digest))]) && length(distinct(values(var.client_key_digests))) == length(var.client_key_digests)
    error_message = "client_key_digests must be SHA-256 digests in lower-case hex, each once: never the keys themselves."
  }
}

variable "stats_token_version" {
  description = "Raise by one for a new stats token."
  type        = number
  default     = 1

  validation {
    condition     = var.stats_token_version >= 1 && floor(var.stats_token_version) == var.stats_token_version
    error_message = "stats_token_version must be a whole number from 1 on."
  }
}

variable "redis_url_version" {
  description = "Raise by one after the AUTH string of Redis has changed, so that it is written to its secret again."
  type        = number
  default     = 1

  validation {
    condition     = var.redis_url_version >= 1 && floor(var.redis_url_version) == var.redis_url_version
    error_message = "redis_url_version must be a whole number from 1 on."
  }
}

variable "protect" {
  description = "Deletion protection of everything that holds state or serves. Turn it off only to tear the service down."
  type        = bool
  default     = true
}

variable "repository" {
  description = "Cloud Build repository (second generation) for the triggers: projects/P/locations/L/connections/C/repositories/R. Null: no triggers."
  type        = string
  default     = null

  validation {
    condition     = var.repository == null || can(regex("^projects/[^/]+/locations/[^/]+/connections/[^/]+/repositories/[^/]+$", var.repository))
    error_message = "repository must be the full name of a Cloud Build repository."
  }
}

variable "pins" {
  description = "Images that the builds run in and build on, by digest: `make pins` writes them into pins.auto.tfvars.json. Needed with repository."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for image in values(var.pins) : can(regex("^[a-z0-9./_-]+@sha256:[0-9a-f]{64}$", image))])
    error_message = "pins must be images by digest: a tag can change from one build to the next."
  }
  validation {
    condition = var.repository == null || length(setsubtract(
      ["_BUILDKIT", "_DEBIAN", "_DOCKER", "_EMULATORS", "_GOLANG", "_NODE", "_SDK", "_STATIC", "_TERRAFORM"], keys(var.pins)
    )) == 0
    error_message = "pins lacks images that the builds need: make pins."
  }
}

variable "state_bucket" {
  description = "Bucket of the Terraform state, which the deploying build reads and writes."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$", var.state_bucket))
    error_message = "state_bucket must be a bucket's name without gs://."
  }
}

variable "alert_emails" {
  description = "Who is told of alerts."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for e in var.alert_emails : can(regex("^[^@ ]+@[^@ ]+$", e))])
    error_message = "alert_emails must be e-mail addresses."
  }
}
