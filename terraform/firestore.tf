# Snapshots of the instances' stats: one document each.
resource "google_firestore_database" "this" {
  name                    = var.name
  location_id             = var.region
  type                    = "FIRESTORE_NATIVE"
  delete_protection_state = var.protect ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy         = var.protect ? "ABANDON" : "DELETE"

  depends_on = [google_project_service.apis]
}

# Removes what a crashed instance leaves. Without an index: nobody searches by it, and a field that only grows is a hot spot.
resource "google_firestore_field" "expiry" {
  database   = google_firestore_database.this.name
  collection = "claudepool_instances"
  field      = "expires_at"

  index_config {}
  ttl_config {}
}
