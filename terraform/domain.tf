# A load balancer in front of the front, where it has a host name of its own. Point the name's A record at the address in
# the output; the certificate follows, mostly within the hour, at times after a day.
resource "google_compute_global_address" "front" {
  count = var.domain == null ? 0 : 1

  name = "${var.name}-front"

  depends_on = [google_project_service.apis]
}

resource "google_compute_region_network_endpoint_group" "front" {
  count = var.domain != null && local.deployed ? 1 : 0

  name                  = "${var.name}-front"
  region                = var.region
  network_endpoint_type = "SERVERLESS"

  cloud_run {
    service = google_cloud_run_v2_service.front[0].name
  }
}

resource "google_compute_backend_service" "front" {
  count = length(google_compute_region_network_endpoint_group.front)

  name                  = "${var.name}-front"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  protocol              = "HTTPS"
  security_policy       = google_compute_security_policy.front[0].id

  backend {
    group = google_compute_region_network_endpoint_group.front[0].id
  }

  # Addresses, paths and answers, also of what never reaches the front. No headers and no bodies.
  log_config {
    enable      = true
    sample_rate = var.balancer_log_share
  }
}

# What one address sends beyond this costs no instance of the front anything. The front's own limits are stricter, know users
# and answer in the API's words; these hold while Redis is away as well.
resource "google_compute_security_policy" "front" {
  count = var.domain == null ? 0 : 1

  name = "${var.name}-front"

  rule {
    description = "so many requests from one address"
    action      = "throttle"
    priority    = 1000

    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }

    rate_limit_options {
      conform_action = "allow"
      exceed_action  = "deny(429)"
      enforce_on_key = "IP"

      rate_limit_threshold {
        count        = var.address_limit.requests
        interval_sec = var.address_limit.seconds
      }
    }
  }

  # Every policy has this one; the rule above matches first.
  rule {
    description = "default"
    action      = "allow"
    priority    = 2147483647

    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
  }

  depends_on = [google_project_service.apis]
}

resource "google_compute_url_map" "front" {
  count = length(google_compute_backend_service.front)

  name            = "${var.name}-front"
  default_service = google_compute_backend_service.front[0].id
}

# A certificate in use can't be removed, so another domain's comes beside it, under another name, before it goes.
resource "google_compute_managed_ssl_certificate" "front" {
  count = length(google_compute_backend_service.front)

  name = "${var.name}-front-${substr(sha256(var.domain), 0, 8)}"
  managed {
    domains = [var.domain]
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_compute_target_https_proxy" "front" {
  count = length(google_compute_backend_service.front)

  name             = "${var.name}-front"
  url_map          = google_compute_url_map.front[0].id
  ssl_certificates = [google_compute_managed_ssl_certificate.front[0].id]
  ssl_policy       = "projects/${var.project}/global/sslPolicies/${var.name}" # TLS 1.2 at least: the build makes it and holds it to that
}

resource "google_compute_global_forwarding_rule" "front" {
  count = length(google_compute_backend_service.front)

  name                  = "${var.name}-front"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.front[0].id
  port_range            = "443"
  target                = google_compute_target_https_proxy.front[0].id
}
