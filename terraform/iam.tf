resource "google_service_account" "this" {
  for_each = {
    front = "Front of ${var.name}"
    pool  = "Pool instances of ${var.name}: tenants' programs run beside it, so it may do next to nothing"
  }

  account_id   = "${var.name}-${each.key}"
  display_name = each.value

  depends_on = [google_project_service.apis]
}

# The predefined roles for Firestore let their holders read and write everything in every database.
resource "google_project_iam_custom_role" "snapshots" {
  for_each = {
    front = { title = "reads snapshots", permissions = ["datastore.entities.get", "datastore.entities.list"] }
    pool = { title = "writes snapshots and conversations", permissions = [
      "datastore.databases.get", "datastore.entities.get", "datastore.entities.list", # in transactions, by owner
    "datastore.entities.create", "datastore.entities.update", "datastore.entities.delete"] }
  }

  role_id     = "${replace(var.name, "-", "_")}_${each.key}_snapshots"
  title       = "${var.name} ${each.value.title}"
  permissions = each.value.permissions

  depends_on = [google_project_service.apis]
}

resource "google_project_iam_member" "snapshots" {
  for_each = google_service_account.this

  project = var.project
  role    = google_project_iam_custom_role.snapshots[each.key].id
  member  = each.value.member

  condition {
    title      = "own database"
    expression = "resource.name == \"projects/${var.project}/databases/${google_firestore_database.this.name}\""
  }
}
