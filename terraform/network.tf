resource "google_compute_network" "this" {
  name                    = var.name
  auto_create_subnetworks = false

  depends_on = [google_project_service.apis]
}

resource "google_compute_subnetwork" "front" {
  name                     = "${var.name}-front"
  network                  = google_compute_network.this.id
  region                   = var.region
  ip_cidr_range            = var.ranges.front
  private_ip_google_access = true
}

resource "google_compute_subnetwork" "pool" {
  name                     = "${var.name}-pool"
  network                  = google_compute_network.this.id
  region                   = var.region
  ip_cidr_range            = var.ranges.pool
  private_ip_google_access = true

  # Who connected to whom: tenants' programs run here.
  log_config {
    aggregation_interval = "INTERVAL_5_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

# The pool's calls to the Messages API leave through NAT: all of its traffic is on the network, under the rules below.
resource "google_compute_router" "this" {
  name    = var.name
  network = google_compute_network.this.id
  region  = var.region
}

resource "google_compute_router_nat" "pool" {
  name                               = "${var.name}-pool"
  router                             = google_compute_router.this.name
  region                             = var.region
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"
  enable_dynamic_port_allocation     = true
  min_ports_per_vm                   = 256
  max_ports_per_vm                   = 8192

  subnetwork {
    name                    = google_compute_subnetwork.pool.id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }
}

# Rules go by ranges: network tags can't select what Direct VPC ingress reaches.
resource "google_compute_firewall" "front_to_pool" {
  name               = "${var.name}-front-to-pool"
  network            = google_compute_network.this.id
  direction          = "INGRESS"
  priority           = 1000
  source_ranges      = [var.ranges.front]
  destination_ranges = [var.ranges.pool]

  allow {
    protocol = "tcp"
    ports    = [tostring(local.port)]
  }
}

# What the network denies anyway, said. Rules log nothing of what leaves by Direct VPC egress, so the flow logs above are
# what tells of attempts.
resource "google_compute_firewall" "others_to_pool" {
  name               = "${var.name}-others-to-pool"
  network            = google_compute_network.this.id
  direction          = "INGRESS"
  priority           = 2000
  source_ranges      = ["0.0.0.0/0"]
  destination_ranges = [var.ranges.pool]

  deny {
    protocol = "all"
  }
}

# Out of the pool goes what is needed: Redis, and the internet by HTTPS. Not the other instances, nor anything private.
resource "google_compute_firewall" "pool_to_redis" {
  name               = "${var.name}-pool-to-redis"
  network            = google_compute_network.this.id
  direction          = "EGRESS"
  priority           = 1000
  destination_ranges = [var.ranges.redis]
  target_tags        = [local.pool_tag]

  allow {
    protocol = "tcp"
    ports    = ["6378"]
  }
}

resource "google_compute_firewall" "pool_to_private" {
  name               = "${var.name}-pool-to-private"
  network            = google_compute_network.this.id
  direction          = "EGRESS"
  priority           = 2000
  destination_ranges = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"]
  target_tags        = [local.pool_tag]

  deny {
    protocol = "all"
  }
}

resource "google_compute_firewall" "pool_to_https" {
  name               = "${var.name}-pool-to-https"
  network            = google_compute_network.this.id
  direction          = "EGRESS"
  priority           = 3000
  destination_ranges = ["0.0.0.0/0"]
  target_tags        = [local.pool_tag]

  allow {
    protocol = "tcp"
    ports    = ["443"]
  }
}

resource "google_compute_firewall" "pool_to_others" {
  name               = "${var.name}-pool-to-others"
  network            = google_compute_network.this.id
  direction          = "EGRESS"
  priority           = 4000
  destination_ranges = ["0.0.0.0/0"]
  target_tags        = [local.pool_tag]

  deny {
    protocol = "all"
  }
}
