# Terraform itself needs three of them to begin with: those are turned on by hand first, as OPERATIONS.md says.
resource "google_project_service" "apis" {
  for_each = toset([
    "artifactregistry", "cloudbuild", "cloudresourcemanager", "compute", "containeranalysis", "firestore", "iam", "iamcredentials",
    "logging", "monitoring", "ondemandscanning", "redis", "run", "secretmanager", "serviceusage", "storage",
    "telemetry",
  ])

  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false
}
