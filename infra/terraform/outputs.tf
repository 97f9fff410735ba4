output "dvc_remote" {
  description = "`dvc remote modify --local local url …`; the workflows' variable DVC_REMOTE_URL."
  value       = "s3://${aws_s3_bucket.this.id}/${var.prefixes.cache}"
}

output "row_store" {
  description = "params.yaml: runtime.row_store."
  value       = "s3://${aws_s3_bucket.this.id}/${var.prefixes.rows}"
}

output "registry_root" {
  description = "params.yaml: register.root."
  value       = "s3://${aws_s3_bucket.this.id}/${var.prefixes.registry}"
}

output "role_arns" {
  description = "Roles by what they may do; the workflows' variables AWS_READER_ROLE, AWS_TRAINER_ROLE, AWS_PROMOTER_ROLE."
  value       = { for name, role in aws_iam_role.this : name => role.arn }
}

output "policy_arns" {
  description = "The same rights for roles made elsewhere (IRSA, Pod Identity, people)."
  value       = { for name, policy in aws_iam_policy.this : name => policy.arn }
}
