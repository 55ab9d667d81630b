# What has to hold whatever the variables are. Each assertion names the property it guards.
mock_provider "google" {
  mock_resource "google_service_account" {
    defaults = { member = "serviceAccount:mock", email = "mock@example.iam.gserviceaccount.com", name = "projects/p/serviceAccounts/mock" }
  }
}

# Those who build are told from each other.
override_resource {
  target = google_service_account.builder["test"]
  values = { member = "serviceAccount:test" }
}
override_resource {
  target = google_service_account.builder["images"]
  values = { member = "serviceAccount:images" }
}
override_resource {
  target = google_service_account.builder["plan"]
  values = { member = "serviceAccount:plan" }
}

variables {
  project      = "my-project"
  state_bucket = "my-bucket"
  front_image  = "us-central1-docker.pkg.dev/my-project/claudepool/front@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  pool_image   = "us-central1-docker.pkg.dev/my-project/claudepool/pool@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  hop_keys     = "abcdefghijklmnopqrstuvwxyz012345,bbcdefghijklmnopqrstuvwxyz012345" # a run that applies takes no ephemeral variable's default
}

run "nobody_is_let_in_by_default" {
  command = plan

  assert {
    condition     = length(google_cloud_run_v2_service_iam_member.invoker) == 0
    error_message = "The front must not be callable by anybody who was not named."
  }
}

run "only_the_front_is_public_when_asked" {
  command = plan
  variables {
    public         = true
    front_settings = { RATE_LIMIT_ADDR = "60/m" }
  }

  assert {
    condition     = [for m in google_cloud_run_v2_service_iam_member.invoker : "${m.name} ${m.member}"] == ["claudepool-front allUsers"]
    error_message = "Public is the front and nothing else."
  }
}

run "the_domain_closes_the_other_door" {
  command = plan
  variables {
    domain = "claude.example.com"
  }

  assert {
    condition     = google_cloud_run_v2_service.front[0].ingress == "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"
    error_message = "With a load balancer in front the run.app address must not take traffic."
  }
  assert {
    condition     = google_compute_global_forwarding_rule.front[0].port_range == "443"
    error_message = "Only HTTPS reaches the front."
  }
  assert {
    condition     = google_cloud_run_v2_service.front[0].custom_audiences == tolist(["https://claude.example.com"]) && output.url == "https://claude.example.com"
    error_message = "Identity tokens for the address that is called are accepted."
  }
  assert {
    condition     = google_compute_target_https_proxy.front[0].ssl_policy == "projects/my-project/global/sslPolicies/claudepool"
    error_message = "Clients don't come in by the default, which takes TLS 1.0."
  }
  assert {
    condition     = one(google_compute_backend_service.front[0].log_config).enable && one(google_compute_backend_service.front[0].log_config).sample_rate == 1
    error_message = "What the load balancer refuses is seen in a log."
  }
  assert {
    condition     = output.certificate == "claudepool-front-58c3731e" && output.certificate == google_compute_managed_ssl_certificate.front[0].name
    error_message = "Another domain's certificate has another name: both are there for a while."
  }
}

run "one_address_sends_so_much_and_no_more" {
  command = apply
  variables {
    domain         = "claude.example.com"
    front_settings = { RATE_LIMIT_ADDR = "60/m" }
    address_limit  = { requests = 100, seconds = 10 }
  }

  assert {
    condition     = google_compute_backend_service.front[0].security_policy == google_compute_security_policy.front[0].id
    error_message = "The policy stands before the front."
  }
  assert {
    condition = [for r in google_compute_security_policy.front[0].rule :
      "${r.action} ${join(" ", r.match[0].config[0].src_ip_ranges)} ${r.rate_limit_options[0].enforce_on_key} ${r.rate_limit_options[0].exceed_action} ${r.rate_limit_options[0].rate_limit_threshold[0].count}/${r.rate_limit_options[0].rate_limit_threshold[0].interval_sec}"
    if r.priority < 2147483647] == ["throttle * IP deny(429) 100/10"]
    error_message = "Each address is limited by itself, whoever it is."
  }
}

run "only_the_fronts_subnet_reaches_the_pool" {
  command = plan

  assert {
    condition     = toset([for r in [google_compute_firewall.front_to_pool] : one(r.source_ranges)]) == toset([google_compute_subnetwork.front.ip_cidr_range])
    error_message = "The rule that lets traffic to the pool names the front's range only."
  }
  assert {
    condition     = one(google_compute_firewall.front_to_pool.destination_ranges) == google_compute_subnetwork.pool.ip_cidr_range && one(one(google_compute_firewall.front_to_pool.allow).ports) == "8080"
    error_message = "It opens the pool's port and nothing more."
  }
  assert {
    condition     = google_compute_firewall.others_to_pool.priority > google_compute_firewall.front_to_pool.priority && one(google_compute_firewall.others_to_pool.source_ranges) == "0.0.0.0/0" && length(google_compute_firewall.others_to_pool.allow) == 0
    error_message = "Everybody else is denied, after the front has been let in."
  }
  assert {
    condition     = alltrue([for n in google_cloud_run_v2_worker_pool.pool[0].template[0].vpc_access : n.egress == "ALL_TRAFFIC"])
    error_message = "What tenants start must not leave beside the network's rules."
  }
  assert {
    condition     = google_compute_firewall.pool_to_private.priority < google_compute_firewall.pool_to_https.priority && contains(google_compute_firewall.pool_to_private.destination_ranges, "10.0.0.0/8")
    error_message = "Private addresses are denied to the pool before the internet is allowed."
  }
  assert {
    condition     = one(one(google_compute_firewall.pool_to_redis.allow).ports) == "6378" && one(google_compute_firewall.pool_to_redis.destination_ranges) == google_redis_instance.this.reserved_ip_range
    error_message = "The one private thing the pool reaches is Redis, by TLS."
  }
}

run "what_cannot_be_logged_is_not_claimed" {
  command = plan

  assert {
    condition     = alltrue([for r in [google_compute_firewall.front_to_pool, google_compute_firewall.others_to_pool, google_compute_firewall.pool_to_private, google_compute_firewall.pool_to_others] : length(r.log_config) == 0])
    error_message = "Firewall rules don't log Direct VPC egress."
  }
  assert {
    condition     = google_compute_subnetwork.pool.log_config[0].flow_sampling == 0.1
    error_message = "Flow logs are a sample."
  }
}

run "accounts_read_their_own_secrets_only" {
  command = apply

  assert {
    condition     = toset(keys(google_secret_manager_secret_iam_member.reader)) == toset(["client-keys/front", "hop-keys/front", "hop-keys/pool", "redis-url/front", "redis-url/pool", "stats-token/front"])
    error_message = "Each account reads what it needs; the pool does not read what only the front needs."
  }
  assert {
    condition     = alltrue([for m in google_secret_manager_secret_iam_member.reader : m.role == "roles/secretmanager.secretAccessor"])
    error_message = "Reading a value is all that is allowed."
  }
  assert {
    condition     = alltrue([for p in google_project_iam_custom_role.snapshots["front"].permissions : can(regex("\\.(get|list)$", p))]) && alltrue([for p in google_project_iam_custom_role.snapshots["pool"].permissions : can(regex("^datastore\\.(entities|databases\\.get)", p))])
    error_message = "The front only reads, and neither may do more than use the database."
  }
  assert {
    condition     = alltrue([for m in google_project_iam_member.snapshots : can(regex("databases/claudepool\"$", one(m.condition).expression))])
    error_message = "Rights to Firestore end at the service's own database."
  }
}

run "no_secret_in_plain_configuration" {
  command = plan

  assert {
    condition = alltrue([for e in concat(
      tolist(google_cloud_run_v2_service.front[0].template[0].containers[0].env), tolist(google_cloud_run_v2_worker_pool.pool[0].template[0].containers[0].env)
    ) : length(e.value_source) == 1 || !contains(["REDIS_URL", "HOP_KEYS", "STATS_TOKEN", "API_KEYS"], e.name)])
    error_message = "Secrets reach services by reference."
  }
  assert {
    condition = length([for e in concat(
      tolist(google_cloud_run_v2_service.front[0].template[0].containers[0].env), tolist(google_cloud_run_v2_worker_pool.pool[0].template[0].containers[0].env)
    ) : e if length(e.value_source) == 1]) == 5
    error_message = "Three secrets of the front and two of the pool are referred to."
  }
  assert {
    condition     = google_redis_instance.this.auth_enabled && google_redis_instance.this.transit_encryption_mode == "SERVER_AUTHENTICATION"
    error_message = "Redis asks for its AUTH string and speaks TLS."
  }
}

run "what_holds_state_is_protected" {
  command = plan

  assert {
    condition     = google_redis_instance.this.deletion_protection && google_firestore_database.this.delete_protection_state == "DELETE_PROTECTION_ENABLED" && google_cloud_run_v2_service.front[0].deletion_protection && google_cloud_run_v2_worker_pool.pool[0].deletion_protection && alltrue([for s in google_secret_manager_secret.this : s.deletion_protection])
    error_message = "Nothing that holds state or serves is deleted by mistake."
  }
}

run "protection_can_be_lifted" {
  command = plan
  variables {
    protect = false
  }

  assert {
    condition     = !google_redis_instance.this.deletion_protection && google_firestore_database.this.deletion_policy == "DELETE"
    error_message = "Who wants to tear it down can."
  }
}

run "streams_live_as_long_as_the_platform_lets_them" {
  command = plan

  assert {
    condition     = one([for e in google_cloud_run_v2_service.front[0].template[0].containers[0].env : e.value if e.name == "CLOUD_RUN_TIMEOUT_SECONDS"]) == trimsuffix(google_cloud_run_v2_service.front[0].template[0].timeout, "s")
    error_message = "The front knows when the platform cuts its streams, and ends them before."
  }
  assert {
    condition     = google_cloud_run_v2_service.front[0].template[0].timeout == "3600s" && google_cloud_run_v2_service.front[0].template[0].containers[0].resources[0].cpu_idle == false
    error_message = "A stream may take an hour, and the front works between requests."
  }
}

run "before_the_first_build_there_is_no_service" {
  command = plan
  variables {
    bootstrap   = true
    front_image = null
    pool_image  = null
  }

  assert {
    condition     = length(google_cloud_run_v2_service.front) + length(google_cloud_run_v2_worker_pool.pool) == 0 && output.url == ""
    error_message = "The first apply makes what the build needs, and no service without an image."
  }
}

run "the_next_apply_is_told_what_runs" {
  command = plan

  assert {
    condition     = output.images == { front_image = var.front_image, pool_image = var.pool_image }
    error_message = "The output names images as the variables do."
  }
}

run "who_builds_what" {
  command = plan
  variables {
    repository = "projects/my-project/locations/us-central1/connections/github/repositories/claudepool"
    pins = { for name in ["_BUILDKIT", "_DEBIAN", "_DOCKER", "_EMULATORS", "_GOLANG", "_NODE", "_SDK", "_STATIC", "_TERRAFORM"] :
    name => "example.com/image@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" }
  }

  assert {
    condition = { for name, t in google_cloudbuild_trigger.this : name => "${t.filename} as ${local.triggers[name].as}" } == {
      test   = "infra/cloudbuild/test.yaml as test"
      images = "infra/cloudbuild/images.yaml as images"
      deploy = "cloudbuild.yaml as build"
      pull   = "infra/cloudbuild/test.yaml as test"
      plan   = "cloudbuild.yaml as plan"
    }
    error_message = "What runs a commit's own code doesn't run as who deploys."
  }
  assert {
    condition     = [for name, t in google_cloudbuild_trigger.this : name if t.approval_config[0].approval_required] == ["plan"]
    error_message = "A plan, which can read the state, isn't made before somebody has approved it."
  }
  assert {
    condition     = google_cloudbuild_trigger.this["plan"].substitutions["_ACCOUNT"] == "claudepool-plan" && google_cloudbuild_trigger.this["plan"].substitutions["_DEPLOY"] == "false" && google_cloudbuild_trigger.this["deploy"].substitutions["_ACCOUNT"] == "claudepool-build"
    error_message = "Pull requests have an account of their own and must not deploy."
  }
  assert {
    condition     = alltrue([for name, t in google_cloudbuild_trigger.this : length(t.repository_event_config[0].push) == 0 if contains(["pull", "plan"], name)])
    error_message = "Pull requests are built as such."
  }
  assert {
    condition     = alltrue([for name in ["test", "images", "deploy"] : google_cloudbuild_trigger.this[name].repository_event_config[0].push[0].branch == "^main$"])
    error_message = "One push of main begins all that a deployment waits for, and nothing else deploys."
  }
  assert {
    condition     = alltrue([for t in google_cloudbuild_trigger.this : length(setsubtract(keys(var.pins), keys(t.substitutions))) == 0])
    error_message = "Every build gets its images by digest."
  }
}

# Every grant of this folder is asked whom it is for; infra/cloudbuild looks that none is missing here.
run "a_test_can_do_nothing" {
  command = apply
  variables {
    telemetry = {}
  }

  assert {
    condition = sort([for g in concat(
      values(google_project_iam_member.builder), values(google_project_iam_member.snapshots), values(google_project_iam_member.telemetry),
      values(google_storage_bucket_iam_member.sources), [google_storage_bucket_iam_member.build_state, google_storage_bucket_iam_member.build_policy, google_storage_bucket_iam_member.plan_state],
      values(google_service_account_iam_member.build_deploys), [google_service_account_iam_member.build_identity],
      google_cloud_run_v2_service_iam_member.smoke, values(google_cloud_run_v2_service_iam_member.invoker),
      [google_artifact_registry_repository_iam_member.images], values(google_secret_manager_secret_iam_member.reader),
      ) : "${g.member} ${g.role}" if g.member != "serviceAccount:mock"]) == tolist([
      "serviceAccount:images roles/artifactregistry.writer",
      "serviceAccount:images roles/logging.logWriter",
      "serviceAccount:images roles/ondemandscanning.admin",
      "serviceAccount:images roles/storage.objectViewer",
      "serviceAccount:plan roles/logging.logWriter",
      "serviceAccount:plan roles/storage.objectViewer",
      "serviceAccount:test roles/logging.logWriter",
      "serviceAccount:test roles/storage.objectViewer",
    ])
    error_message = "Tests write their log and read the sources; who builds images can't deploy them; a plan changes nothing."
  }
  assert {
    condition     = toset(keys(google_storage_bucket_iam_member.sources)) == toset(["test", "images"]) && alltrue([for m in google_storage_bucket_iam_member.sources : one(m.condition).expression == "resource.name.startsWith(\"projects/_/buckets/my-bucket/objects/source/\")"])
    error_message = "Of the bucket they don't read the state."
  }
}

run "no_key_is_in_the_state" {
  command = apply
  variables {
    client_key_digests = { a = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", b = "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" }
  }

  assert {
    condition = alltrue([for v in concat(google_secret_manager_secret_version.client_keys, [
      google_secret_manager_secret_version.hop_keys, google_secret_manager_secret_version.redis_url, google_secret_manager_secret_version.stats_token
    ]) : v.secret_data == null && v.secret_data_wo == null && v.secret_data_wo_version != null])
    error_message = "Secrets are written and not kept."
  }
  assert {
    condition     = can(regex("^[0-9a-f]{64}$", local.new_hop_key)) && can(regex("^[0-9a-f]{64}$", local.new_stats_token)) && local.new_hop_key != local.new_stats_token
    error_message = "Each is of its own and long enough for nobody to guess."
  }
  assert {
    condition     = local.client_keys == "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef,1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    error_message = "The front gets the digests of all keys."
  }
  assert {
    condition     = one([for e in google_cloud_run_v2_service.front[0].template[0].containers[0].env : one(one(e.value_source).secret_key_ref).secret if e.name == "API_KEYS"]) == "claudepool-client-keys" && strcontains(output.call, "x-api-key")
    error_message = "It gets them by reference, and the operator is told how a key is shown."
  }
}

run "raised_versions_write_anew" {
  command = apply
  variables {
    hop_keys_version    = 2
    stats_token_version = 3
    redis_url_version   = 4
    client_key_digests  = { b = "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" }
  }

  assert {
    condition     = [google_secret_manager_secret_version.hop_keys.secret_data_wo_version, google_secret_manager_secret_version.stats_token.secret_data_wo_version, google_secret_manager_secret_version.redis_url.secret_data_wo_version] == ["2", "3", "4"]
    error_message = "Each secret has a version of its own to raise."
  }
  assert {
    condition     = google_secret_manager_secret_version.client_keys[0].secret_data_wo_version == tostring(parseint(substr(sha256("1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"), 0, 8), 16))
    error_message = "Other digests are written without anybody's doing."
  }
}

run "a_first_apply_finds_its_apis" {
  command = plan

  assert {
    condition = length(setsubtract(
      ["cloudresourcemanager", "serviceusage", "iam", "iamcredentials", "containeranalysis", "ondemandscanning"], keys(google_project_service.apis)
    )) == 0
    error_message = "What Terraform and the build call is enabled."
  }
  assert {
    condition     = !contains(keys(google_project_service.apis), "containerscanning") && google_artifact_registry_repository.images.vulnerability_scanning_config[0].enablement_config == "DISABLED"
    error_message = "Images are scanned once, by the build."
  }
}

run "the_build_can_do_what_its_steps_do" {
  command = apply

  assert {
    condition     = google_service_account_iam_member.build_identity.service_account_id == google_service_account.builder["build"].name && google_service_account_iam_member.build_identity.role == "roles/iam.serviceAccountOpenIdTokenCreator"
    error_message = "The smoke test gets a token of its own account, and of no other."
  }
  assert {
    condition     = google_project_iam_custom_role.bucket_policy.permissions == toset(["storage.buckets.get", "storage.buckets.getIamPolicy"]) && google_storage_bucket_iam_member.build_policy.bucket == var.state_bucket
    error_message = "It sees who may use the state's bucket, and can't change that."
  }
  assert {
    condition     = google_storage_bucket_iam_member.build_state.bucket == var.state_bucket && google_storage_bucket_iam_member.build_state.role == "roles/storage.objectUser"
    error_message = "It reads and writes the state and reads its sources."
  }
}

run "an_apply_takes_a_pinned_revision_back" {
  command = plan

  assert {
    condition     = one(google_cloud_run_v2_service.front[0].traffic).type == "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST" && one(google_cloud_run_v2_service.front[0].traffic).percent == 100
    error_message = "All traffic goes to what was deployed last."
  }
}

run "the_clients_address_is_before_the_proxies" {
  command = plan

  assert {
    condition     = one([for e in google_cloud_run_v2_service.front[0].template[0].containers[0].env : e.value if e.name == "TRUSTED_PROXIES"]) == "1"
    error_message = "Cloud Run appends one address."
  }
}

run "with_a_load_balancer_by_one_more" {
  command = plan
  variables {
    domain         = "claude.example.com"
    front_settings = { RATE_LIMIT_ADDR = "60/m" }
  }

  assert {
    condition     = one([for e in google_cloud_run_v2_service.front[0].template[0].containers[0].env : e.value if e.name == "TRUSTED_PROXIES"]) == "2"
    error_message = "The load balancer appends one more."
  }
  assert {
    condition     = one([for e in google_cloud_run_v2_service.front[0].template[0].containers[0].env : e.value if e.name == "RATE_LIMIT_ADDR"]) == "60/m"
    error_message = "The operator's settings reach the front."
  }
}

run "alerts_ask_for_one_kind_of_resource_at_a_time" {
  command = plan

  assert {
    condition = alltrue([for query in concat([for a in local.alerts : a.query], [for title, query in local.charts : query if title != "Redis memory used"]) :
    length(regexall("\\w:\\w+[{]", query)) >= 1 && length(regexall("\\w:\\w+[{]", query)) == length(regexall("\\w:\\w+[{]monitored_resource=\"cloud_run_(revision|worker_pool)\"", query))])
    error_message = "Metrics that fronts and instances both have are ambiguous without it."
  }
  assert {
    condition     = alltrue([for p in google_monitoring_alert_policy.this : p.conditions[0].condition_prometheus_query_language[0].disable_metric_validation])
    error_message = "A condition on a metric that has no value yet can be made."
  }
  assert {
    condition     = strcontains(local.alerts.errors.query, " and sum(increase(") && length(regexall("cloud_run_(?:revision|worker_pool)", local.alerts.no-room.query)) == 2
    error_message = "One failure in a quiet night wakes nobody; no room is counted on both sides."
  }
  assert {
    condition     = alltrue([for m in google_logging_metric.this : can(regex("^\\([^()]*\\) AND \\(.*\\)$", m.filter))])
    error_message = "A filter with OR must not count other resources' lines."
  }
}

run "nothing_is_pushed_unless_it_is_asked_for" {
  command = plan

  assert {
    condition     = length(google_project_iam_member.telemetry) == 0 && !anytrue([for e in google_cloud_run_v2_worker_pool.pool[0].template[0].containers[0].env : startswith(e.name, "OTEL_")]) && !contains(keys(google_monitoring_alert_policy.this), "failures")
    error_message = "Without telemetry there is nobody to ask, and nothing that costs."
  }
}

run "fronts_and_instances_push_and_alerts_ask_for_what_they_push" {
  command = plan
  variables {
    telemetry = { trace_ratio = 0.1, first_token = "3s", first_token_objective = 0.96 }
  }

  assert {
    condition = alltrue([for env in [google_cloud_run_v2_service.front[0].template[0].containers[0].env, google_cloud_run_v2_worker_pool.pool[0].template[0].containers[0].env] :
    tomap({ for e in env : e.name => e.value if startswith(e.name, "OTEL_") }) == local.telemetry_environment && local.telemetry_environment.OTEL_TRACES_SAMPLER_ARG == "0.1"])
    error_message = "Both push, and to the same place."
  }
  assert {
    condition     = toset([for m in google_project_iam_member.telemetry : m.role]) == toset(["roles/telemetry.tracesWriter", "roles/telemetry.metricsWriter"]) && length(google_project_iam_member.telemetry) == 4
    error_message = "Their accounts may write metrics and traces, and nothing more."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["first-token"].conditions[0].condition_prometheus_query_language[0].query, "within!~\"1s|3s\"}[1h])) / sum(rate({\"claudepool.first_tokens\",namespace=\"claudepool\"}[1h])) > 0.576 and ")
    error_message = "At 14.4 times the pace for an hour, somebody is told."
  }
  assert {
    condition     = length(regexall("rate\\(", google_monitoring_alert_policy.this["failures"].conditions[0].condition_prometheus_query_language[0].query)) == 8
    error_message = "Two windows each, of two paces."
  }
}

run "nobody_is_told_of_a_missing_pool_before_there_is_one" {
  command = plan
  variables {
    bootstrap   = true
    front_image = null
    pool_image  = null
  }

  assert {
    condition     = !contains(keys(google_monitoring_alert_policy.this), "no-instance") && contains(keys(google_monitoring_alert_policy.this), "errors")
    error_message = "The alert comes with the pool."
  }
}
