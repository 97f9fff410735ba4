# Who may take which role. GitHub's workflows come with a token that names repository and branch, or environment;
# no key is stored anywhere. A pull request may read, the branch may train, the approved environment may promote.

locals {
  github   = "token.actions.githubusercontent.com"
  provider = var.github_repository == null ? null : coalesce(var.github_oidc_provider_arn, one(aws_iam_openid_connect_provider.github[*].arn))

  subjects = var.github_repository == null ? {} : {
    reader   = ["repo:${var.github_repository}:pull_request", "repo:${var.github_repository}:ref:refs/heads/${var.github_branch}"]
    trainer  = ["repo:${var.github_repository}:ref:refs/heads/${var.github_branch}"]
    promoter = ["repo:${var.github_repository}:environment:${var.github_environment}"]
  }
  services = length(var.trainer_services) == 0 ? {} : { trainer = var.trainer_services }

  # a role that nobody could take is not made
  trusted = toset(concat(keys(local.subjects), keys(local.services)))
}

resource "aws_iam_openid_connect_provider" "github" {
  count = var.github_repository != null && var.github_oidc_provider_arn == null ? 1 : 0

  url            = "https://${local.github}"
  client_id_list = ["sts.amazonaws.com"]
}

data "aws_iam_policy_document" "trust" {
  for_each = local.trusted

  dynamic "statement" {
    for_each = contains(keys(local.subjects), each.key) ? [local.subjects[each.key]] : []

    content {
      sid     = "GitHub"
      actions = ["sts:AssumeRoleWithWebIdentity"]

      principals {
        type        = "Federated"
        identifiers = [local.provider]
      }

      condition {
        test     = "StringEquals"
        variable = "${local.github}:aud"
        values   = ["sts.amazonaws.com"]
      }

      condition {
        test     = "StringEquals"
        variable = "${local.github}:sub"
        values   = statement.value
      }
    }
  }

  dynamic "statement" {
    for_each = contains(keys(local.services), each.key) ? [local.services[each.key]] : []

    content {
      sid     = "Services"
      actions = ["sts:AssumeRole", "sts:TagSession"]

      principals {
        type        = "Service"
        identifiers = statement.value
      }
    }
  }
}
