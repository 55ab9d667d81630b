# Nonsense is refused before anything is planned.
mock_provider "google" {}

variables {
  project      = "my-project"
  state_bucket = "my-bucket"
  front_image  = "us-central1-docker.pkg.dev/my-project/claudepool/front@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  pool_image   = "us-central1-docker.pkg.dev/my-project/claudepool/pool@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}

run "project" {
  command = plan
  variables {
    project = "123"
  }
  expect_failures = [var.project]
}

run "images_by_tag" {
  command = plan
  variables {
    front_image = "docker.pkg.dev/p/r/front:latest"
    pool_image  = "docker.pkg.dev/p/r/pool@sha256:abc"
  }
  expect_failures = [var.front_image, var.pool_image]
}

run "no_images" {
  command = plan
  variables {
    front_image = null
    pool_image  = null
  }
  expect_failures = [var.front_image, var.pool_image]
}

run "one_image_of_two" {
  command = plan
  variables {
    pool_image = null
  }
  expect_failures = [var.pool_image]
}

run "a_bootstrap_of_what_runs" {
  command = plan
  variables {
    bootstrap = true
  }
  expect_failures = [var.front_image, var.pool_image]
}

run "everybody_as_an_invoker" {
  command = plan
  variables {
    invokers = ["allUsers"]
  }
  expect_failures = [var.invokers]
}

run "sizes" {
  command = plan
  variables {
    front = { min_instances = 5, max_instances = 2 }
    pool  = { cpu = "3", memory = "64Gi" }
    redis = { memory_gb = 0 }

    redis_url_version = 0
  }
  expect_failures = [var.front, var.pool, var.redis, var.redis_url_version]
}

run "ranges_too_small" {
  command = plan
  variables {
    ranges = { pool = "10.80.2.0/28" }
    pool   = { instances = 1 }
  }
  expect_failures = [var.ranges]
}

run "a_name_too_short_for_the_database" {
  command = plan
  variables {
    name = "abc"
  }
  expect_failures = [var.name]
}

run "memory_that_so_many_processors_do_not_get" {
  command = plan
  variables {
    front = { cpu = "1", memory = "8Gi" }
    pool  = { cpu = "8", memory = "2Gi" }
  }
  expect_failures = [var.front, var.pool]
}

run "memory_that_is_too_little" {
  command = plan
  variables {
    front = { memory = "256Mi" }
    pool  = { cpu = "4", memory = "32Gi" }
  }
  expect_failures = [var.front, var.pool]
}

run "memory_at_the_bounds" {
  command = plan
  variables {
    front = { cpu = "2", memory = "8192Mi" }
    pool  = { cpu = "8", memory = "32Gi" }
  }
}

run "halves" {
  command = plan
  variables {
    front             = { max_instances = 1.5 }
    pool              = { instances = 2.5 }
    redis_url_version = 1.5
  }
  expect_failures = [var.front, var.pool, var.redis_url_version]
}

run "a_disk_too_small" {
  command = plan
  variables {
    pool = { disk = "9Gi" }
  }
  expect_failures = [var.pool]
}

run "more_instances_than_addresses" {
  command = plan
  variables {
    ranges = { front = "10.80.0.0/26", pool = "10.80.2.0/25" }
    front  = { max_instances = 16 }
    pool   = { instances = 32 }
  }
  expect_failures = [var.front, var.pool]
}

run "as_many_instances_as_addresses" {
  command = plan
  variables {
    ranges = { front = "10.80.0.0/26", pool = "10.80.2.0/25" }
    front  = { max_instances = 15 }
    pool   = { instances = 31 }
  }
}

run "ranges_within_each_other" {
  command = plan
  variables {
    ranges = { front = "10.80.0.0/16" }
  }
  expect_failures = [var.ranges]
}

run "redis_in_the_pools_range" {
  command = plan
  variables {
    ranges = { redis = "10.80.3.248/29" }
  }
  expect_failures = [var.ranges]
}

run "redis_with_another_size" {
  command = plan
  variables {
    ranges = { redis = "10.80.1.0/28" }
  }
  expect_failures = [var.ranges]
}

run "durations" {
  command = plan
  variables {
    pool_settings = { IDLE_TIMEOUT = "10" }
  }
  expect_failures = [var.pool_settings]
}

run "durations_that_are_some" {
  command = plan
  variables {
    pool_settings = { IDLE_TIMEOUT = "1h30m", CLEANUP_INTERVAL = "0.5s", ARCHIVE_TTL = "0", MAX_PROCESSES = "10" }
  }
}

run "settings_that_are_none" {
  command = plan
  variables {
    front_settings = { STATS_TOKEN = "in plain sight" }
    pool_settings  = { HOP_KEYS = "in plain sight" }
  }
  expect_failures = [var.front_settings, var.pool_settings]
}

run "rates" {
  command = plan
  variables {
    front_settings = { RATE_LIMIT_USER = "60 a minute" }
  }
  expect_failures = [var.front_settings]
}

run "public_without_a_bound" {
  command = plan
  variables {
    public = true
  }
  expect_failures = [var.public]
}

run "public_with_another_bound" {
  command = plan
  variables {
    public         = true
    front_settings = { RATE_LIMIT_USER = "60/m" }
  }
  expect_failures = [var.public]
}

run "public_with_keys" {
  command = plan
  variables {
    public             = true
    client_key_digests = { a = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" }
  }
}

run "a_client_key_itself" {
  command = plan
  variables {
    client_key_digests = { a = "0123456789abcdef0123456789abcdef0123456789abcdef" }
  }
  expect_failures = [var.client_key_digests]
}

run "client_keys_twice" {
  command = plan
  variables {
    client_key_digests = {
      a = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
      b = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    }
  }
  expect_failures = [var.client_key_digests]
}

run "hop_keys_too_short" {
  command = plan
  variables {
    hop_keys = "abcdefghijklmnopqrstuvwxyz012345,short"
  }
  expect_failures = [var.hop_keys]
}

run "versions" {
  command = plan
  variables {
    hop_keys_version    = 0
    stats_token_version = 1.5
  }
  expect_failures = [var.hop_keys_version, var.stats_token_version]
}

run "an_address_limit_below_the_fronts" {
  command = plan
  variables {
    front_settings = { RATE_LIMIT_ADDR = "11/s" }
  }
  expect_failures = [var.address_limit]
}

run "an_address_limit_at_the_fronts" {
  command = plan
  variables {
    front_settings = { RATE_LIMIT_ADDR = "10/s" }
  }
}

run "an_address_limit_that_is_none" {
  command = plan
  variables {
    address_limit      = { requests = 0, seconds = 60 }
    balancer_log_share = 2
  }
  expect_failures = [var.address_limit, var.balancer_log_share]
}

run "a_build_in_images_by_tag" {
  command = plan
  variables {
    pins = { _GOLANG = "golang:1.26-bookworm" }
  }
  expect_failures = [var.pins]
}

run "triggers_without_their_images" {
  command = plan
  variables {
    repository = "projects/my-project/locations/us-central1/connections/github/repositories/claudepool"
    pins       = { _GOLANG = "golang@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" }
  }
  expect_failures = [var.pins]
}

run "names" {
  command = plan
  variables {
    name         = "Claude_Pool"
    region       = "us"
    domain       = "https://claude.example.com/"
    isolation    = "maybe"
    repository   = "github.com/me/claudepool"
    alert_emails = ["nobody"]
    telemetry    = { trace_ratio = 2, first_token = "2s", turns_objective = 1 }
    state_bucket = "gs://bucket"
  }
  expect_failures = [var.name, var.region, var.domain, var.isolation, var.repository, var.alert_emails, var.state_bucket, var.telemetry]
}
