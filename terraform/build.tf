# The account of the deploying build changes everything in this folder, so it holds the roles for that: no owner, no
# editor. All the same it can give itself what it lacks, and secretmanager.admin reads the secrets' values. So it builds
# what is on main and nothing else.
resource "google_service_account" "build" {
  account_id   = "${var.name}-build"
  display_name = "Builds and deploys ${var.name}"

  depends_on = [google_project_service.apis]
}

resource "google_project_iam_member" "build" {
  for_each = toset([
    "roles/artifactregistry.admin",
    "roles/cloudbuild.builds.editor",
    "roles/compute.loadBalancerAdmin",
    "roles/compute.networkAdmin",
    "roles/compute.securityAdmin",
    "roles/containeranalysis.occurrences.viewer",
    "roles/datastore.owner",
    "roles/iam.roleAdmin",
    "roles/iam.serviceAccountAdmin",
    "roles/logging.configWriter",
    "roles/logging.logWriter",
    "roles/monitoring.editor",
    "roles/ondemandscanning.admin",
    "roles/redis.admin",
    "roles/resourcemanager.projectIamAdmin",
    "roles/run.admin",
    "roles/secretmanager.admin",
    "roles/serviceusage.serviceUsageAdmin",
  ])

  project = var.project
  role    = each.key
  member  = google_service_account.build.member
}

# The state, and the sources that `gcloud builds submit` uploads.
resource "google_storage_bucket_iam_member" "build_state" {
  bucket = var.state_bucket
  role   = "roles/storage.objectUser"
  member = google_service_account.build.member
}

# To plan is to look at who may use the bucket. No predefined role lets one do that without changing it.
resource "google_project_iam_custom_role" "bucket_policy" {
  role_id     = "${replace(var.name, "-", "_")}_bucket_policy"
  title       = "${var.name} reads its state bucket's policy"
  permissions = ["storage.buckets.get", "storage.buckets.getIamPolicy"]

  depends_on = [google_project_service.apis]
}

resource "google_storage_bucket_iam_member" "build_policy" {
  bucket = var.state_bucket
  role   = google_project_iam_custom_role.bucket_policy.id
  member = google_service_account.build.member
}

# To deploy a service is to let it run as its account, and so it is with a trigger.
resource "google_service_account_iam_member" "build_deploys" {
  for_each = merge(google_service_account.this, { build = google_service_account.build, plan = google_service_account.plan })

  service_account_id = each.value.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.build.member
}

# The smoke test after a deployment calls the front, with a token of its own account.
resource "google_service_account_iam_member" "build_identity" {
  service_account_id = google_service_account.build.name
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  member             = google_service_account.build.member
}

resource "google_cloud_run_v2_service_iam_member" "smoke" {
  count = local.deployed ? 1 : 0

  name     = google_cloud_run_v2_service.front[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = google_service_account.build.member
}

# A pull request is built as its own cloudbuild.yaml says. So that runs as another account, after somebody has read it and
# approved. The account changes nothing: it pushes to a repository that nothing is deployed from, and compares with the
# state as it is, for to refresh is to read the secrets. The state has them too: who approves lets them be read.
resource "google_service_account" "plan" {
  account_id   = "${var.name}-plan"
  display_name = "Builds and plans pull requests to ${var.name}"

  depends_on = [google_project_service.apis]
}

resource "google_project_iam_member" "plan" {
  for_each = toset(["roles/logging.logWriter", "roles/ondemandscanning.admin"])

  project = var.project
  role    = each.key
  member  = google_service_account.plan.member
}

resource "google_storage_bucket_iam_member" "plan_state" {
  bucket = var.state_bucket
  role   = "roles/storage.objectViewer"
  member = google_service_account.plan.member
}

resource "google_artifact_registry_repository_iam_member" "plan_images" {
  repository = google_artifact_registry_repository.plan.name
  location   = var.region
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.plan.member
}

resource "google_cloudbuild_trigger" "this" {
  for_each = var.repository == null ? {} : {
    plan   = { description = "Tests, builds and plans pull requests", deploy = "false", account = google_service_account.plan, images = google_artifact_registry_repository.plan }
    deploy = { description = "Tests, builds and deploys main", deploy = "true", account = google_service_account.build, images = google_artifact_registry_repository.images }
  }

  name            = "${var.name}-${each.key}"
  description     = each.value.description
  location        = var.region
  filename        = "cloudbuild.yaml"
  service_account = each.value.account.id

  substitutions = {
    _REGION       = var.region
    _NAME         = var.name
    _ACCOUNT      = each.value.account.account_id
    _IMAGES       = each.value.images.repository_id
    _STATE_BUCKET = var.state_bucket
    _DEPLOY       = each.value.deploy
  }

  approval_config {
    approval_required = each.key == "plan"
  }

  repository_event_config {
    repository = var.repository

    dynamic "pull_request" {
      for_each = each.key == "plan" ? [1] : []
      content {
        branch          = ".*"
        comment_control = "COMMENTS_ENABLED_FOR_EXTERNAL_CONTRIBUTORS_ONLY"
      }
    }

    dynamic "push" {
      for_each = each.key == "deploy" ? [1] : []
      content {
        branch = "^main$"
      }
    }
  }
}
