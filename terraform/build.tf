# Who builds, and what each may do in the whole project; what it may do with single things is below. What is tested is a
# commit's own code, so the tests' account can do nothing with it. Of the others only the deploying build's changes what runs.
# It changes everything in this folder, so it holds the roles for that: no owner, no editor. All the same it can give itself
# what it lacks, and secretmanager.admin reads the secrets' values. So it runs what is on main and nothing else.
locals {
  builders = {
    test   = { does = "Tests ${var.name}", roles = [] }
    images = { does = "Builds and scans images of ${var.name}", roles = ["roles/ondemandscanning.admin"] }
    plan   = { does = "Plans pull requests to ${var.name}", roles = [] }
    build = { does = "Deploys ${var.name}", roles = [
      "roles/artifactregistry.admin",
      "roles/cloudbuild.builds.editor",
      "roles/compute.loadBalancerAdmin",
      "roles/compute.networkAdmin",
      "roles/compute.securityAdmin",
      "roles/datastore.owner",
      "roles/iam.roleAdmin",
      "roles/iam.serviceAccountAdmin",
      "roles/logging.configWriter",
      "roles/monitoring.editor",
      "roles/redis.admin",
      "roles/resourcemanager.projectIamAdmin",
      "roles/run.admin",
      "roles/secretmanager.admin",
      "roles/serviceusage.serviceUsageAdmin",
    ] }
  }

  builder_roles = merge([for builder, b in local.builders :
  { for role in concat(["roles/logging.logWriter"], b.roles) : "${builder}/${role}" => { builder = builder, role = role } }]...)
}

resource "google_service_account" "builder" {
  for_each = local.builders

  account_id   = "${var.name}-${each.key}"
  display_name = each.value.does

  depends_on = [google_project_service.apis]
}

resource "google_project_iam_member" "builder" {
  for_each = local.builder_roles

  project = var.project
  role    = each.value.role
  member  = google_service_account.builder[each.value.builder].member
}

# The state, and the sources that `gcloud builds submit` uploads.
resource "google_storage_bucket_iam_member" "build_state" {
  bucket = var.state_bucket
  role   = "roles/storage.objectUser"
  member = google_service_account.builder["build"].member
}

# Those who have no business with the state read the sources alone.
resource "google_storage_bucket_iam_member" "sources" {
  for_each = toset(["test", "images"])

  bucket = var.state_bucket
  role   = "roles/storage.objectViewer"
  member = google_service_account.builder[each.key].member

  condition {
    title      = "sources"
    expression = "resource.name.startsWith(\"projects/_/buckets/${var.state_bucket}/objects/source/\")"
  }
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
  member = google_service_account.builder["build"].member
}

# To deploy a service is to let it run as its account, and so it is with a trigger.
resource "google_service_account_iam_member" "build_deploys" {
  for_each = merge(google_service_account.this, google_service_account.builder)

  service_account_id = each.value.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.builder["build"].member
}

# The smoke test after a deployment calls the front, with a token of its own account.
resource "google_service_account_iam_member" "build_identity" {
  service_account_id = google_service_account.builder["build"].name
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  member             = google_service_account.builder["build"].member
}

resource "google_cloud_run_v2_service_iam_member" "smoke" {
  count = local.deployed ? 1 : 0

  name     = google_cloud_run_v2_service.front[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = google_service_account.builder["build"].member
}

resource "google_artifact_registry_repository_iam_member" "images" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.builder["images"].member
}

# A pull request is planned as its own cloudbuild.yaml says. So that runs as another account, after somebody has read it and
# approved. The account changes nothing and compares with the state as it is, for to refresh is to read the secrets. The
# state has the AUTH string of Redis: who approves lets that be read.
resource "google_storage_bucket_iam_member" "plan_state" {
  bucket = var.state_bucket
  role   = "roles/storage.objectViewer"
  member = google_service_account.builder["plan"].member
}

# A push to main begins the first three at once; the deployment waits for what the others find. Nobody needs approval to be
# tested, as a test can do nothing; of somebody from outside a maintainer has to ask for it by a comment.
locals {
  triggers = {
    test   = { does = "Tests main", file = "infra/cloudbuild/test.yaml", as = "test", on = "push", substitutions = {} }
    images = { does = "Builds main's images", file = "infra/cloudbuild/images.yaml", as = "images", on = "push", substitutions = { _REGION = var.region } }
    deploy = { does = "Deploys main", file = "cloudbuild.yaml", as = "build", on = "push", substitutions = merge(local.deployment, { _ACCOUNT = "${var.name}-build", _DEPLOY = "true" }) }
    pull   = { does = "Tests pull requests", file = "infra/cloudbuild/test.yaml", as = "test", on = "pull request", substitutions = {} }
    plan   = { does = "Plans pull requests", file = "cloudbuild.yaml", as = "plan", on = "pull request", substitutions = merge(local.deployment, { _ACCOUNT = "${var.name}-plan", _DEPLOY = "false" }) }
  }

  deployment = { _REGION = var.region, _STATE_BUCKET = var.state_bucket }
}

resource "google_cloudbuild_trigger" "this" {
  for_each = { for name, trigger in local.triggers : name => trigger if var.repository != null }

  name            = "${var.name}-${each.key}"
  description     = each.value.does
  location        = var.region
  filename        = each.value.file
  service_account = google_service_account.builder[each.value.as].id
  substitutions   = merge(var.pins, { _NAME = var.name }, each.value.substitutions)

  approval_config {
    approval_required = each.key == "plan"
  }

  repository_event_config {
    repository = var.repository

    dynamic "pull_request" {
      for_each = each.value.on == "pull request" ? [1] : []
      content {
        branch          = ".*"
        comment_control = "COMMENTS_ENABLED_FOR_EXTERNAL_CONTRIBUTORS_ONLY"
      }
    }

    dynamic "push" {
      for_each = each.value.on == "push" ? [1] : []
      content {
        branch = "^main$"
      }
    }
  }
}
