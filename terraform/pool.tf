resource "google_cloud_run_v2_worker_pool" "pool" {
  count = local.deployed ? 1 : 0

  name                = "${var.name}-pool"
  location            = var.region
  deletion_protection = var.protect
  launch_stage        = var.pool_launch_stage

  scaling {
    scaling_mode          = "MANUAL"
    manual_instance_count = var.pool.instances
  }

  template {
    service_account = google_service_account.this["pool"].email

    # All traffic goes through the network, so that its rules hold for what tenants start.
    vpc_access {
      egress = "ALL_TRAFFIC"
      network_interfaces {
        network    = google_compute_network.this.id
        subnetwork = google_compute_subnetwork.pool.id
        tags       = [local.pool_tag]
      }
    }

    containers {
      image = var.pool_image

      resources {
        limits = { cpu = var.pool.cpu, memory = var.pool.memory }
      }

      # The port answers once Redis does. The hop is encrypted with a certificate of the instance's own, so the probe dials
      # only. There is no liveness probe: those of worker pools are HTTP or gRPC.
      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 60
        tcp_socket {
          port = local.port
        }
      }

      volume_mounts {
        name       = "workspaces"
        mount_path = "/workspaces"
      }

      dynamic "env" {
        for_each = merge(local.pool_environment, local.telemetry_environment, var.pool_settings)
        content {
          name  = env.key
          value = env.value
        }
      }

      dynamic "env" {
        for_each = local.pool_secrets
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

    # The container's own file system is memory.
    volumes {
      name = "workspaces"
      empty_dir {
        medium     = "DISK"
        size_limit = var.pool.disk
      }
    }
  }

  lifecycle {
    ignore_changes = [scaling[0].manual_instance_count] # whoever scales the pool sets it
  }

  depends_on = [google_secret_manager_secret_iam_member.reader, google_project_iam_member.snapshots, google_compute_router_nat.pool]
}

locals {
  pool_environment = {
    PORT               = tostring(local.port) # worker pools have no ports of their own
    FIRESTORE_PROJECT  = var.project
    FIRESTORE_DATABASE = google_firestore_database.this.name
    REDIS_CA           = join("\n", google_redis_instance.this.server_ca_certs[*].cert)
    WORKSPACES_ROOT    = "/workspaces"
    ISOLATION          = var.isolation
  }

  pool_secrets = {
    REDIS_URL = local.front_secrets.REDIS_URL
    HOP_KEYS  = local.front_secrets.HOP_KEYS
  }
}
