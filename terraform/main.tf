locals {
  port     = 8080
  pool_tag = "${var.name}-pool"
  deployed = var.front_image != null && var.pool_image != null
}
