resource "google_cloud_run_v2_service" "front" {
  count = local.deployed ? 1 : 0

  name                = "${var.name}-front"
  location            = var.region
  deletion_protection = var.protect
  ingress             = var.domain == null ? "INGRESS_TRAFFIC_ALL" : "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"
  custom_audiences    = var.domain == null ? [] : ["https://${var.domain}"] # whom identity tokens may be made out to

  template {
    service_account                  = google_service_account.this["front"].email
    timeout                          = "3600s" # the platform's limit; the front ends longer streams itself, with a word
    max_instance_request_concurrency = var.front.concurrency
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"

    # An instance that is scaled in gets SIGTERM and 10 s: its streams then end with an explicit error event and can be
    # asked for again. Scaling in is rare, as an instance that has streams counts as busy.
    scaling {
      min_instance_count = var.front.min_instances
      max_instance_count = var.front.max_instances
    }

    vpc_access {
      egress = "PRIVATE_RANGES_ONLY"
      network_interfaces {
        network    = google_compute_network.this.id
        subnetwork = google_compute_subnetwork.front.id
      }
    }

    containers {
      image = var.front_image

      ports {
        container_port = local.port
      }

      resources {
        limits            = { cpu = var.front.cpu, memory = var.front.memory }
        cpu_idle          = false # it watches Redis and the instances between requests
        startup_cpu_boost = true
      }

      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 30
        http_get {
          path = "/health"
        }
      }

      liveness_probe {
        period_seconds    = 10
        timeout_seconds   = 5
        failure_threshold = 3
        http_get {
          path = "/health"
        }
      }

      dynamic "env" {
        for_each = merge(local.front_environment, local.telemetry_environment, var.front_settings)
        content {
          name  = env.key
          value = env.value
        }
      }

      dynamic "env" {
        for_each = { for name, secret in local.front_secrets : name => secret if secret != null }
        content {
          name = env.key
          value_source {
            secret_key_ref {
              secret  = env.value.secret
              version = env.value.version
            }
          }
        }
      }
    }
  }

  # Said, so that an apply takes back what `gcloud run services update-traffic` has pinned.
  traffic {
    type    = "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"
    percent = 100
  }

  depends_on = [google_secret_manager_secret_iam_member.reader, google_project_iam_member.snapshots]
}

locals {
  front_environment = {
    FIRESTORE_PROJECT  = var.project
    FIRESTORE_DATABASE = google_firestore_database.this.name
    REDIS_CA           = join("\n", google_redis_instance.this.server_ca_certs[*].cert)
    TRUSTED_PROXIES    = var.domain == null ? "1" : "2" # Cloud Run's own, and the load balancer

    CLOUD_RUN_TIMEOUT_SECONDS = "3600" # the functions framework's: tells the front of the timeout above
  }

  front_secrets = {
    REDIS_URL   = { secret = google_secret_manager_secret.this["redis-url"].secret_id, version = google_secret_manager_secret_version.redis_url.version }
    HOP_KEYS    = { secret = google_secret_manager_secret.this["hop-keys"].secret_id, version = google_secret_manager_secret_version.hop_keys.version }
    API_KEYS    = length(var.client_key_digests) == 0 ? null : { secret = google_secret_manager_secret.this["client-keys"].secret_id, version = google_secret_manager_secret_version.client_keys[0].version }
    STATS_TOKEN = { secret = google_secret_manager_secret.this["stats-token"].secret_id, version = google_secret_manager_secret_version.stats_token.version }
  }
}

# The front alone may be public, and only if it is asked for.
resource "google_cloud_run_v2_service_iam_member" "invoker" {
  for_each = local.deployed ? (var.public ? toset(["allUsers"]) : var.invokers) : toset([])

  name     = google_cloud_run_v2_service.front[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = each.key
}
