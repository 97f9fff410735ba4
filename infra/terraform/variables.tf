variable "region" {
  description = "Region of the bucket."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "A region is written as eu-central-1."
  }
}

variable "bucket" {
  description = "Name of the bucket, unique in all of S3."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "3 to 63 characters: a-z, 0-9 and - between them. A dot would break TLS."
  }
}

variable "name" {
  description = "Beginning of the roles' names, and the tag `project` of everything."
  type        = string
  default     = "dpo-pipeline"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}$", var.name))
    error_message = "2 to 31 characters: a-z, 0-9 and -, a letter first."
  }
}

variable "prefixes" {
  description = "Where in the bucket what lies: DVC's remote, the row store, the registry (`register.root`)."
  type = object({
    cache    = optional(string, "cache")
    rows     = optional(string, "rows")
    registry = optional(string, "registry")
  })
  default = {}

  validation {
    condition     = alltrue([for prefix in values(var.prefixes) : can(regex("^[A-Za-z0-9][A-Za-z0-9_-]*$", prefix))])
    error_message = "A prefix is one word of letters, digits, _ and -, without slashes."
  }

  validation {
    condition     = length(distinct(values(var.prefixes))) == 3
    error_message = "The three prefixes must differ: the registry's rules would hold for the others."
  }
}

variable "kms_key_arn" {
  description = "KMS key that encrypts the bucket; S3's own keys (AES256) when null."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "An ARN of a key: arn:aws:kms:REGION:ACCOUNT:key/ID. An alias moves."
  }
}

variable "noncurrent_days" {
  description = "Days that overwritten and removed objects can still be brought back."
  type        = number
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 1 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "A whole number of days, 1 or more."
  }
}

variable "github_repository" {
  description = "Repository whose workflows may take the roles, as OWNER/NAME; none when null."
  type        = string
  default     = null

  validation {
    condition     = var.github_repository == null || can(regex("^[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "OWNER/NAME, without wildcards."
  }
}

variable "github_branch" {
  description = "The one branch whose workflow may train."
  type        = string
  default     = "main"

  validation {
    condition     = can(regex("^[A-Za-z0-9._/-]+$", var.github_branch))
    error_message = "A branch's name, without wildcards."
  }
}

variable "github_environment" {
  description = "The one environment whose workflow may promote; GitHub asks its reviewers first."
  type        = string
  default     = "production"

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]+$", var.github_environment))
    error_message = "An environment's name, without wildcards."
  }
}

variable "github_oidc_provider_arn" {
  description = "The account's provider for token.actions.githubusercontent.com, of which there can be one; made when null."
  type        = string
  default     = null
}

variable "trainer_services" {
  description = "AWS services whose tasks may train: ecs-tasks.amazonaws.com, ec2.amazonaws.com, pods.eks.amazonaws.com."
  type        = set(string)
  default     = ["ecs-tasks.amazonaws.com"]

  validation {
    condition     = alltrue([for service in var.trainer_services : endswith(service, ".amazonaws.com")])
    error_message = "Names of services, as ecs-tasks.amazonaws.com."
  }
}

variable "tags" {
  description = "Tags of everything, beside `project`."
  type        = map(string)
  default     = {}
}
