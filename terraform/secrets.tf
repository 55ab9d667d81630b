locals {
  # Which account reads which secret. Neither reads what only the other needs.
  secrets = {
    client-keys = ["front"]
    hop-keys    = ["front", "pool"]
    redis-url   = ["front", "pool"]
    stats-token = ["front"]
  }

  secret_readers = merge([for name, accounts in local.secrets : { for account in accounts : "${name}/${account}" => { secret = name, account = account } }]...)
}

resource "google_secret_manager_secret" "this" {
  for_each = local.secrets

  secret_id           = "${var.name}-${each.key}"
  deletion_protection = var.protect
  version_destroy_ttl = "604800s" # a version that was destroyed by mistake can be brought back for a week

  replication {
    auto {}
  }

  depends_on = [google_project_service.apis]
}

resource "google_secret_manager_secret_iam_member" "reader" {
  for_each = local.secret_readers

  secret_id = google_secret_manager_secret.this[each.value.secret].id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.this[each.value.account].member
}

# New at each run, and in no state or plan: what is written only is written when its version changes, and never read back.
locals {
  new_hop_key     = replace("${uuid()}${uuid()}", "-", "")
  new_stats_token = replace("${uuid()}${uuid()}", "-", "")

  client_keys = join(",", values(var.client_key_digests))
}

# Services name the version they use, so that a new one is rolled out and never met by surprise.
resource "google_secret_manager_secret_version" "hop_keys" {
  secret                 = google_secret_manager_secret.this["hop-keys"].id
  secret_data_wo         = coalesce(var.hop_keys, local.new_hop_key)
  secret_data_wo_version = var.hop_keys_version

  lifecycle {
    create_before_destroy = true
  }
}

# The front compares digests, so neither it nor anything here ever has the keys themselves.
resource "google_secret_manager_secret_version" "client_keys" {
  count = length(var.client_key_digests) == 0 ? 0 : 1

  secret                 = google_secret_manager_secret.this["client-keys"].id
  secret_data_wo         = local.client_keys
  secret_data_wo_version = parseint(substr(sha256(local.client_keys), 0, 8), 16)

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_secret_manager_secret_version" "redis_url" {
  secret                 = google_secret_manager_secret.this["redis-url"].id
  secret_data_wo         = "rediss://:${google_redis_instance.this.auth_string}@${google_redis_instance.this.host}:${google_redis_instance.this.port}/0"
  secret_data_wo_version = var.redis_url_version

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_secret_manager_secret_version" "stats_token" {
  secret                 = google_secret_manager_secret.this["stats-token"].id
  secret_data_wo         = local.new_stats_token
  secret_data_wo_version = var.stats_token_version

  lifecycle {
    create_before_destroy = true
  }
}
