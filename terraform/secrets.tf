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

resource "random_password" "hop" {
  for_each = toset(var.hop_key_ids)

  length  = 48
  special = false
}

resource "random_password" "client" {
  for_each = toset(var.client_key_ids)

  length  = 48
  special = false
}

resource "random_password" "stats" {
  length  = 32
  special = false
}

# Services name the version they use, so that a new one is rolled out and never met by surprise.
resource "google_secret_manager_secret_version" "hop_keys" {
  secret      = google_secret_manager_secret.this["hop-keys"].id
  secret_data = join(",", [for id in var.hop_key_ids : random_password.hop[id].result])

  lifecycle {
    create_before_destroy = true
  }
}

# The front compares digests, so it never has the keys themselves.
resource "google_secret_manager_secret_version" "client_keys" {
  count = length(var.client_key_ids) == 0 ? 0 : 1

  secret      = google_secret_manager_secret.this["client-keys"].id
  secret_data = join(",", [for id in var.client_key_ids : sha256(random_password.client[id].result)])

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
  secret      = google_secret_manager_secret.this["stats-token"].id
  secret_data = random_password.stats.result

  lifecycle {
    create_before_destroy = true
  }
}
