resource "google_monitoring_notification_channel" "email" {
  for_each = var.alert_emails

  display_name = each.key
  type         = "email"
  labels       = { email_address = each.key }

  depends_on = [google_project_service.apis]
}

# Counted from the log lines that pool and front write.
resource "google_logging_metric" "this" {
  for_each = {
    process-starts = {
      description = "Processes that requests got, by how: standby, resumed or cold"
      filter      = "jsonPayload.message=\"process started\""
      label       = "jsonPayload.process"
    }
    no-room = {
      description = "Requests that no instance had room for (a front's line), or their user's own had none for (an instance's)"
      filter      = "(jsonPayload.message=\"request not served\" AND jsonPayload.error:\"no instance has room\") OR jsonPayload.message=\"no room for another process\""
      label       = null
    }
    redis-away = {
      description = "Fronts and instances that lost Redis"
      filter      = "jsonPayload.message:\"Redis is away\""
      label       = null
    }
  }

  name        = "${var.name}/${each.key}"
  description = each.value.description
  filter      = "(resource.type=\"cloud_run_revision\" OR resource.type=\"cloud_run_worker_pool\") AND (${each.value.filter})"

  label_extractors = each.value.label == null ? {} : { process = "EXTRACT(${each.value.label})" }

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"

    dynamic "labels" {
      for_each = each.value.label == null ? [] : [1]
      content {
        key        = "process"
        value_type = "STRING"
      }
    }
  }

  depends_on = [google_project_service.apis]
}

locals {
  log_metric = { for key, metric in google_logging_metric.this : key => "logging_googleapis_com:user_${replace(replace(metric.name, "/", "_"), "-", "_")}" }

  # A metric of several kinds of resources is asked for one of them at a time.
  front_is = "monitored_resource=\"cloud_run_revision\",service_name=\"${var.name}-front\""
  pool_is  = "monitored_resource=\"cloud_run_worker_pool\",worker_pool_name=\"${var.name}-pool\""
  requests = "run_googleapis_com:request_count{${local.front_is}}"
  failures = "run_googleapis_com:request_count{${local.front_is},response_code_class=\"5xx\"}"
  alive    = "run_googleapis_com:container_instance_count{${local.pool_is}}"

  # What fronts and instances together logged within five minutes. Neither has a series before its first line.
  logged = { for key, metric in local.log_metric : key =>
  "(sum(increase(${metric}{${local.front_is}}[5m])) or vector(0)) + (sum(increase(${metric}{${local.pool_is}}[5m])) or vector(0))" }

  alerts = {
    no-instance = {
      title   = "No pool instance is alive"
      query   = "absent_over_time(${local.alive}[5m]) or sum(${local.alive}) < 1"
      for     = "300s"
      urgent  = true
      explain = "Nobody is served. Look at the worker pool's revisions and at why its instances end: with isolation = require they refuse to start where a protection is missing, and say which."
    }
    errors = {
      title   = "More than 5 % of requests fail"
      query   = "sum(rate(${local.failures}[5m])) / sum(rate(${local.requests}[5m])) > 0.05 and sum(increase(${local.requests}[5m])) > 20"
      for     = "300s"
      urgent  = true
      explain = "503 is a user that could not be placed: Redis or all instances away. 502 is an instance that did not answer. 529 is no room. Of twenty requests in five minutes or fewer nothing is said."
    }
    standby-misses = {
      title   = "More than half of new users wait for a start"
      query   = "sum(rate(${local.log_metric["process-starts"]}{${local.pool_is},process=\"cold\"}[15m])) / sum(rate(${local.log_metric["process-starts"]}{${local.pool_is}}[15m])) > 0.5"
      for     = "900s"
      urgent  = false
      explain = "Standbys run out or can't be fitted: raise STANDBY or add memory; requests with a session_id, a history or a fallback_model need a parked process: raise PARKED."
    }
    no-room = {
      title   = "Requests find no room"
      query   = "${local.logged["no-room"]} > 0"
      for     = "60s"
      urgent  = true
      explain = "Every instance is full of busy processes, or that of a known user is: raise the worker pool's instance count or its memory."
    }
    redis-away = {
      title   = "Redis could not be reached"
      query   = "${local.logged["redis-away"]} > 0"
      for     = "0s"
      urgent  = false
      explain = "Known users are served on, new ones are refused until it is back, and for ten seconds more if it comes back empty."
    }
  }
}

resource "google_monitoring_alert_policy" "this" {
  for_each = { for key, alert in merge(local.alerts, local.burn_alerts) : key => alert if local.deployed || key != "no-instance" }

  display_name          = "${var.name}: ${each.value.title}"
  combiner              = "OR"
  severity              = each.value.urgent ? "CRITICAL" : "WARNING"
  notification_channels = values(google_monitoring_notification_channel.email)[*].name

  conditions {
    display_name = each.value.title
    condition_prometheus_query_language {
      query               = each.value.query
      duration            = each.value.for
      evaluation_interval = "60s"

      disable_metric_validation = true # a metric isn't known before its first value
    }
  }

  documentation {
    content   = "${each.value.explain} See infra/OPERATIONS.md."
    mime_type = "text/markdown"
  }

  depends_on = [google_project_service.apis, google_cloud_run_v2_worker_pool.pool]
}

locals {
  charts = {
    "Requests a second by class"          = "sum by (response_code_class) (rate(${local.requests}[1m]))"
    "Pool instances"                      = "sum(${local.alive})"
    "Processes started, by how"           = "sum by (process) (rate(${local.log_metric["process-starts"]}{${local.pool_is}}[5m]))"
    "Pool memory in use, 99th percentile" = "histogram_quantile(0.99, sum by (le) (rate(run_googleapis_com:container_memory_utilizations_bucket{${local.pool_is}}[5m])))"
    "Pool CPU in use, 99th percentile"    = "histogram_quantile(0.99, sum by (le) (rate(run_googleapis_com:container_cpu_utilizations_bucket{${local.pool_is}}[5m])))"
    "Redis memory used"                   = "max(redis_googleapis_com:stats_memory_usage_ratio{instance_id=~\".*/${var.name}\"})"
  }
}

resource "google_monitoring_dashboard" "this" {
  dashboard_json = jsonencode({
    displayName = var.name
    mosaicLayout = {
      columns = 12
      tiles = [for i, title in keys(local.charts) : {
        xPos   = (i % 2) * 6
        yPos   = floor(i / 2) * 4
        width  = 6
        height = 4
        widget = {
          title = title
          xyChart = {
            dataSets = [{
              plotType        = "LINE"
              timeSeriesQuery = { prometheusQuery = local.charts[title] }
            }]
          }
        }
      }]
    }
  })

  depends_on = [google_project_service.apis]
}
