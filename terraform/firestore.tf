# Snapshots of the instances' stats, and sealed conversations.
resource "google_firestore_database" "this" {
  name                    = var.name
  location_id             = var.region
  type                    = "FIRESTORE_NATIVE"
  delete_protection_state = var.protect ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy         = var.protect ? "ABANDON" : "DELETE"

  depends_on = [google_project_service.apis]
}

# Removes what a crashed instance leaves, and conversations that nobody went on with. Without an index: nobody searches by
# it, and a field that only grows is a hot spot.
resource "google_firestore_field" "expiry" {
  for_each = toset(["claudepool_instances", "claudepool_conversations", "claudepool_parts", "claudepool_usage"])

  database   = google_firestore_database.this.name
  collection = each.key
  field      = "expires_at"

  index_config {}
  ttl_config {}
}

# What is sealed can't be searched.
resource "google_firestore_field" "sealed" {
  for_each = { claudepool_conversations = "head", claudepool_parts = "bytes" }

  database   = google_firestore_database.this.name
  collection = each.key
  field      = each.value

  index_config {}
}
