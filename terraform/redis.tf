# Which instance owns which user. Losing it costs new users some seconds and known ones nothing, so it keeps nothing on disk.
resource "google_redis_instance" "this" {
  name                    = var.name
  region                  = var.region
  tier                    = var.redis.high_availability ? "STANDARD_HA" : "BASIC"
  memory_size_gb          = var.redis.memory_gb
  redis_version           = "REDIS_7_2"
  authorized_network      = google_compute_network.this.id
  reserved_ip_range       = var.ranges.redis
  auth_enabled            = true
  transit_encryption_mode = "SERVER_AUTHENTICATION"
  deletion_protection     = var.protect

  redis_configs = {
    # An owner's entry that is evicted would let a user be placed twice: better to refuse new ones.
    maxmemory-policy = "noeviction"
  }

  maintenance_policy {
    weekly_maintenance_window {
      day = "SUNDAY"
      start_time {
        hours   = 3
        minutes = 0
        seconds = 0
        nanos   = 0
      }
    }
  }

  depends_on = [google_project_service.apis]
}
