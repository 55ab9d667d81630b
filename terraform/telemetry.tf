# Pushed by OTLP to the platform's own endpoint: nobody could fetch metrics from a worker pool's instances, whose
# addresses change.
locals {
  telemetry_environment = var.telemetry == null ? {} : {
    OTEL_EXPORTER_OTLP_ENDPOINT = "https://telemetry.googleapis.com"
    OTEL_TRACES_SAMPLER_ARG     = tostring(var.telemetry.trace_ratio)
    OTEL_RESOURCE_ATTRIBUTES    = "gcp.project_id=${var.project},cloud.platform=gcp_cloud_run,cloud.region=${var.region},service.namespace=${var.name}"
  }

  # Of the turns of all instances: those whose first token took too long, and those that came to nothing.
  slow   = "{\"claudepool.first_tokens\",namespace=\"${var.name}\",within!~\"${local.soon}\"}"
  tokens = "{\"claudepool.first_tokens\",namespace=\"${var.name}\"}"
  failed = "{\"claudepool.turns\",namespace=\"${var.name}\",outcome=~\"failed|unserved\"}"
  turns  = "{\"claudepool.turns\",namespace=\"${var.name}\"}"
  soon   = var.telemetry == null ? "" : { "1s" = "1s", "3s" = "1s|3s", "10s" = "1s|3s|10s", "30s" = "1s|3s|10s|30s" }[var.telemetry.first_token]

  # How fast what may go wrong in 30 days is used up: at 14.4 times the pace two hundredths of it go in an hour, at 6
  # times a twentieth in six. The short window has the alert end soon after what it is about.
  burning = var.telemetry == null ? {} : { for key, of in {
    first-token = { bad = local.slow, all = local.tokens, objective = var.telemetry.first_token_objective }
    failures    = { bad = local.failed, all = local.turns, objective = var.telemetry.turns_objective }
    } : key => join(" or ", [for w in [{ long = "1h", short = "5m", times = 14.4 }, { long = "6h", short = "30m", times = 6 }] :
      "(${join(" and ", [for window in [w.long, w.short] :
        "sum(rate(${of.bad}[${window}])) / sum(rate(${of.all}[${window}])) > ${format("%.4g", w.times * (1 - of.objective))}"
  ])})"]) }

  burn_alerts = { for key, query in local.burning : key => merge({
    first-token = {
      title   = "First tokens are late too often"
      explain = "More turns than are planned for take longer than that to their first token. The dashboard tells whether they wait for a process (raise STANDBY or PARKED, add instances) or for the API."
    }
    failures = {
      title   = "Turns come to nothing too often"
      explain = "More turns than are planned for have no result, or found no process to begin with. Turns whose result tells of an error of the API aren't in it. Look at claudepool.turns by outcome, at the API's errors by error_type, and at the instances' logs."
    }
  }[key], { query = query, for = "120s", urgent = true }) }
}

resource "google_project_iam_member" "telemetry" {
  for_each = var.telemetry == null ? {} : { for pair in setproduct(keys(google_service_account.this), ["tracesWriter", "metricsWriter"]) :
  "${pair[0]}-${pair[1]}" => { account = pair[0], role = pair[1] } }

  project = var.project
  role    = "roles/telemetry.${each.value.role}"
  member  = google_service_account.this[each.value.account].member
}
