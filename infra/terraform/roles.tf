# Who may do what in the bucket. The actions are those that the code asks for, and no others:
#
#   reads     list, and get: DVC's remote, the row store, the registry
#   trainer   and fills the cache and the row store, and creates in the registry; removes no version
#   promoter  and writes the registry's log and snapshots: promote, roll back, deprecate
#   keeper    and removes from the registry and the cache what nothing needs: `python -m tasks.registry gc`, `dvc gc`
#
# Training writes the log, too, when its gate lets a version pass; who may move `champion` by hand is the promoter.

locals {
  arn      = aws_s3_bucket.this.arn
  cache    = "${local.arn}/${var.prefixes.cache}/*"
  rows     = "${local.arn}/${var.prefixes.rows}/*"
  registry = "${local.arn}/${var.prefixes.registry}"
  is_kms   = var.kms_key_arn != null

  policies = {
    reader   = data.aws_iam_policy_document.reads.json
    trainer  = data.aws_iam_policy_document.trainer.json
    promoter = data.aws_iam_policy_document.promoter.json
    keeper   = data.aws_iam_policy_document.keeper.json
  }
}

data "aws_iam_policy_document" "reads" {
  # without it a missing object is a 403, and looks like a refusal
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [local.arn]
  }

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = [local.cache, local.rows, "${local.registry}/*"]
  }

  dynamic "statement" {
    for_each = local.is_kms ? [var.kms_key_arn] : []

    content {
      sid       = "Decrypt"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

# For everybody who writes; parts of an upload are read back under the key, so encrypting takes both.
data "aws_iam_policy_document" "writes" {
  source_policy_documents = [data.aws_iam_policy_document.reads.json]

  dynamic "statement" {
    for_each = local.is_kms ? [var.kms_key_arn] : []

    content {
      sid       = "Encrypt"
      actions   = ["kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }

  # what the registry's trial of the server leaves
  statement {
    sid       = "EndTrials"
    actions   = ["s3:DeleteObject"]
    resources = ["${local.registry}/.trials/*"]
  }
}

data "aws_iam_policy_document" "trainer" {
  source_policy_documents = [data.aws_iam_policy_document.writes.json]

  statement {
    sid       = "Write"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    resources = [local.cache, local.rows, "${local.registry}/*"]
  }

  # segments of rows that were merged into larger ones
  statement {
    sid       = "MergeRows"
    actions   = ["s3:DeleteObject"]
    resources = [local.rows]
  }
}

data "aws_iam_policy_document" "promoter" {
  source_policy_documents = [data.aws_iam_policy_document.writes.json]

  statement {
    sid     = "WriteLog"
    actions = ["s3:PutObject"]
    resources = [
      "${local.registry}/*/log/*",
      "${local.registry}/*/snapshots/*",
      "${local.registry}/.probe",
      "${local.registry}/.trials/*",
    ]
  }
}

data "aws_iam_policy_document" "keeper" {
  source_policy_documents = [data.aws_iam_policy_document.promoter.json]

  statement {
    sid       = "ListUploads"
    actions   = ["s3:ListBucketMultipartUploads"]
    resources = [local.arn]
  }

  statement {
    sid       = "Collect"
    actions   = ["s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = [local.cache, "${local.registry}/*/versions/*"]
  }
}

resource "aws_iam_role" "this" {
  for_each = local.trusted

  name                 = "${var.name}-${each.key}"
  assume_role_policy   = data.aws_iam_policy_document.trust[each.key].json
  max_session_duration = each.key == "trainer" ? 43200 : 3600
}

resource "aws_iam_role_policy" "this" {
  for_each = aws_iam_role.this

  name   = "bucket"
  role   = each.value.id
  policy = local.policies[each.key]
}

# For people and clusters with roles of their own, which Terraform knows nothing of.
resource "aws_iam_policy" "this" {
  for_each = local.policies

  name        = "${var.name}-${each.key}"
  description = "What a ${each.key} may do in ${var.bucket}"
  policy      = each.value
}
