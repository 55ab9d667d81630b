locals {
  url = var.domain != null ? "https://${var.domain}" : try(google_cloud_run_v2_service.front[0].uri, "")
}

output "url" {
  description = "Where the service is. Empty until the first build has deployed it."
  value       = local.url
}

output "call" {
  description = "How to call it."
  value       = <<-EOT
    curl -N ${local.url}/v1/messages/pooled -H 'Content-Type: application/json' ${var.public ? "" : "-H \"Authorization: Bearer $(gcloud auth print-identity-token)\" "}${length(var.client_key_digests) == 0 ? "" : "-H 'x-api-key: CLIENT_KEY' "}-d '{
      "api_key": "YOUR_ANTHROPIC_API_KEY", "model": "haiku",
      "messages": [{"role": "user", "content": "Hello"}]}'
  EOT
}

output "stats_token" {
  description = "Command that shows the bearer token of GET /v1/pool/stats."
  value       = "gcloud secrets versions access latest --secret=${google_secret_manager_secret.this["stats-token"].secret_id} --project=${var.project}"
}

output "address" {
  description = "Address the domain's A record has to point at; null without a domain."
  value       = one(google_compute_global_address.front[*].address)
}

output "certificate" {
  description = "Name of the domain's certificate; empty without a domain."
  value       = var.domain == null ? "" : try(google_compute_managed_ssl_certificate.front[0].name, "")
}

output "images" {
  description = "What the last apply deployed, as variables: an apply outside of the build reads them from images.auto.tfvars.json."
  value = {
    front_image = var.front_image
    pool_image  = var.pool_image
  }
}

output "image_repository" {
  description = "Where the build pushes images."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "build_account" {
  description = "Service account of the deploying build."
  value       = google_service_account.builder["build"].email
}
