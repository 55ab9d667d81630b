terraform {
  required_version = ">= 1.11"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 7.30, < 8"
    }
  }

  # The state holds a secret, the AUTH string of Redis: keep it in a bucket that only the deployers read.
  #   terraform init -backend-config=bucket=BUCKET -backend-config=prefix=claudepool
  backend "gcs" {}
}

provider "google" {
  project = var.project
  region  = var.region
}
