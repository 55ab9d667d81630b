# Nonsense is refused before anything is planned.
mock_provider "google" {}
mock_provider "random" {}

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
  }
  expect_failures = [var.front, var.pool, var.redis]
}

run "ranges_too_small" {
  command = plan
  variables {
    ranges = { pool = "10.0.0.0/28" }
  }
  expect_failures = [var.ranges]
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

run "client_keys_twice" {
  command = plan
  variables {
    client_key_ids = ["a", "a"]
  }
  expect_failures = [var.client_key_ids]
}

run "names" {
  command = plan
  variables {
    name         = "Claude_Pool"
    region       = "us"
    domain       = "https://claude.example.com/"
    isolation    = "maybe"
    hop_key_ids  = ["a", "a"]
    repository   = "github.com/me/claudepool"
    alert_emails = ["nobody"]
    state_bucket = "gs://bucket"
  }
  expect_failures = [var.name, var.region, var.domain, var.isolation, var.hop_key_ids, var.repository, var.alert_emails, var.state_bucket]
}
