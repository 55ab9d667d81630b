locals {
  port     = 8080
  pool_tag = "${var.name}-pool"
  deployed = !var.bootstrap
}
