resource "google_project_service" "apis" {
  for_each = toset([
    "artifactregistry", "cloudbuild", "compute", "containerscanning", "firestore", "iam", "logging", "monitoring", "redis", "run", "secretmanager",
  ])

  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false
}
